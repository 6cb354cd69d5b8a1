"""Flickr's JSON → Photo, Size and pages of them. Pure functions.

Flickr gives one field now as a string, now as a number, or null, or leaves it out; what cannot be read becomes None,
and never costs the photo or its page.
"""

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.photo import Photo, Rights, Size
from pipeline.sources.licences import FLICKR_LICENCES

# Every uncropped rendition, by the letter in url_*: t is 100 px on its long edge, 6k 6144, o the original.
# https://www.flickr.com/services/api/misc.urls.html; sq and q are cropped to squares.
RENDITIONS = ("t", "s", "n", "w", "m", "z", "c", "l", "h", "k", "3k", "4k", "5k", "6k", "o")

EXTRAS = ",".join(
    (
        "description,license,date_upload,date_taken,owner_name,realname,original_format,last_update,geo,tags,machine_tags,o_dims",
        "views,count_faves,media,content_type,safety_level,path_alias,rotation",
        *(f"url_{letter}" for letter in RENDITIONS),
    )
)

# https://www.flickr.com/services/api/misc.dates.html: what is known of the date taken, and how many characters say so.
_GRANULARITIES = {0: ("second", 19), 4: ("month", 7), 6: ("year", 4), 8: ("circa", 4)}
_TAKEN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a stream or album as answered."""

    rows: list[Any]  # of photos; each should be an object
    number: int | None  # as Flickr says: not always the one asked for
    pages: int  # 0 of an empty stream
    total: int | None
    owner_id: str | None  # of an album; a stream's rows say it themselves
    owner: str | None


def read_page(answer: dict[str, Any]) -> Page:
    """The page in the answer of a method that lists photos; ValueError where there is none."""
    body = answer.get("photos") or answer.get("photoset")
    if not isinstance(body, dict) or not isinstance(body.get("photo"), list):
        raise ValueError("no list of photos")
    pages = _integer(body.get("pages"))
    if pages is None:
        raise ValueError("no number of pages")
    return Page(
        rows=body["photo"],
        number=_integer(body.get("page")),
        pages=pages,
        total=_integer(body.get("total")),
        owner_id=_text(body.get("owner")),
        owner=_text(body.get("ownername")),
    )


def read_user_id(answer: dict[str, Any]) -> str:
    """The NSID in an answer of urls.lookupUser or people.getInfo; ValueError where there is none."""
    return _id(answer.get("user") or answer.get("person"), "user")


def read_group_id(answer: dict[str, Any]) -> str:
    """The NSID in an answer of urls.lookupGroup; ValueError where there is none."""
    return _id(answer.get("group"), "group")


def _id(body: Any, what: str) -> str:
    nsid = _text(body.get("id")) if isinstance(body, dict) else None
    if nsid is None:
        raise ValueError(f"no {what} id")
    return nsid


def read_sizes(answer: dict[str, Any]) -> list[Size]:
    """The uncropped pictures in an answer of photos.getSizes, smallest first; ValueError where there is no list."""
    return _sorted_sizes([(p.get("source"), p.get("width"), p.get("height")) for p in _pictures(answer)])


def read_renditions(answer: dict[str, Any]) -> dict[str, Any]:
    """What a row in a list would say of the pictures in an answer of photos.getSizes: url_m, width_m, height_m, …"""
    row: dict[str, Any] = {}
    for picture in _pictures(answer):
        # Each names the page that shows it, which ends in its letter: …/photos/george/53614830885/sizes/3k/
        page = re.search(r"/sizes/(\w+)/?$", _text(picture.get("url")) or "")
        if page:
            row |= {
                f"{part}_{page[1]}": picture.get(name)
                for part, name in (("url", "source"), ("width", "width"), ("height", "height"))
            }
    return row


def _pictures(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The uncropped pictures, as they stand there."""
    body = answer.get("sizes")
    if not isinstance(body, dict) or not isinstance(body.get("size"), list):
        raise ValueError("no list of sizes")
    return [
        entry
        for entry in body["size"]
        if isinstance(entry, dict)
        and entry.get("label") not in ("Square", "Large Square")  # cropped
        and entry.get("media") != "video"
    ]


def read_info(answer: dict[str, Any]) -> dict[str, Any]:
    """The photo in an answer of photos.getInfo as its row in a list would be, but for its pictures.

    ValueError where there is none. What a row has no place for stays in it as `info`.
    """
    info = answer.get("photo")
    if not isinstance(info, dict) or photo_number(info) is None:
        raise ValueError("no photo")
    owner, dates, place = (_object(info.get(name)) for name in ("owner", "dates", "location"))
    tags = _object(info.get("tags")).get("tag")
    tags = [tag for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    told = [(_text(tag), _integer(tag.get("machine_tag"))) for tag in tags]
    same = ("id", "secret", "server", "farm", "license", "views", "media", "originalsecret", "originalformat")
    return {
        **{name: info[name] for name in (*same, "safety_level", "rotation", "description") if name in info},
        "title": _text(info.get("title")),
        "ispublic": _object(info.get("visibility")).get("ispublic"),
        "owner": owner.get("nsid"),
        "ownername": owner.get("username"),
        "realname": owner.get("realname"),
        "pathalias": owner.get("path_alias"),
        "dateupload": dates.get("posted") or info.get("dateuploaded"),
        "lastupdate": dates.get("lastupdate"),
        "datetaken": dates.get("taken"),
        "datetakengranularity": dates.get("takengranularity"),
        "datetakenunknown": dates.get("takenunknown"),
        "tags": " ".join(tag for tag, _ in told if tag),  # as in lists, where these hold the machine tags too
        "machine_tags": " ".join(tag for tag, machine in told if tag and machine),
        **{name: place.get(name) for name in ("latitude", "longitude", "accuracy")},
        "info": info,
    }


def is_public(row: dict[str, Any]) -> bool:
    """Whether everybody may see the photo in this row, which is so where Flickr does not deny it."""
    return _integer(row.get("ispublic")) != 0


def uploaded_at(row: Any) -> datetime | None:
    return _moment(row.get("dateupload")) if isinstance(row, dict) else None


def photo_number(row: Any) -> str | None:
    """Flickr's id of the photo in this row of a page; None for a row that is no photo."""
    return _text(row.get("id")) if isinstance(row, dict) else None


def parse_photo(row: dict[str, Any], page: Page, *, source: str, observed_at: datetime) -> Photo:
    """The photo in this row, which must have an id. An album's rows take their owner from the album."""
    number = photo_number(row)
    assert number is not None
    owner_id = _text(row.get("owner")) or page.owner_id
    home = _text(row.get("pathalias")) or owner_id
    licence = _text(row.get("license"))
    licence_name, licence_url = FLICKR_LICENCES.get(licence or "", (None, None))
    taken, granularity = _taken(row)
    latitude, longitude = _place(row)
    return Photo(
        photo_id=f"flickr:{number}",
        source=source,
        rights=Rights(licence, licence_name, licence_url, observed_at),
        title=_text(row.get("title")),
        description=_text(row.get("description")),
        tags=tuple((_text(row.get("tags")) or "").split()),
        machine_tags=tuple((_text(row.get("machine_tags")) or "").split()),
        date_taken=taken,
        date_granularity=granularity,
        uploaded_at=uploaded_at(row),
        updated_at=_moment(row.get("lastupdate")),
        latitude=latitude,
        longitude=longitude,
        owner=_text(row.get("ownername")) or _text(row.get("realname")) or page.owner,
        owner_id=owner_id,
        page_url=f"https://www.flickr.com/photos/{home}/{number}/" if home else None,
        media="video" if row.get("media") == "video" else "photo",
        sizes=tuple(
            _sorted_sizes([tuple(row.get(f"{part}_{x}") for part in ("url", "width", "height")) for x in RENDITIONS])
        ),
        raw=json.dumps(row, separators=(",", ":")),
    )


def _taken(row: dict[str, Any]) -> tuple[str | None, str | None]:
    """Date taken, cut to what is known, and its granularity."""
    text = _text(row.get("datetaken")) or ""
    unknown = _integer(row.get("datetakenunknown")) == 1  # then Flickr gives the date of upload
    if unknown or text.startswith("0000") or not _TAKEN.fullmatch(text):
        return None, None
    # Where the granularity is one that we do not know, the year is claimed and no more.
    granularity, length = _GRANULARITIES.get(_integer(row.get("datetakengranularity")) or 0, ("circa", 4))
    try:
        datetime.fromisoformat(text)
    except ValueError:  # such as a month or a day 00
        granularity, length = "year", 4
    return text[:length], granularity


def _place(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """Latitude and longitude in degrees. A photo without a place says 0, 0 with accuracy 0."""
    latitude, longitude = _number(row.get("latitude")), _number(row.get("longitude"))
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None, None
    if latitude == longitude == 0 and not _number(row.get("accuracy")):
        return None, None
    return latitude, longitude


def _sorted_sizes(offers: list[tuple[Any, ...]]) -> list[Size]:
    """Sizes from (URL, width, height) as given, without those that have no URL, by area; unknown sizes come first."""
    sizes = [
        Size(url, _pixels(width), _pixels(height))
        for url, width, height in offers
        if isinstance(url, str) and url.startswith(("http://", "https://"))
    ]
    return sorted(sizes, key=lambda size: (size.width or 0) * (size.height or 0))


def _pixels(value: Any) -> int | None:
    pixels = _integer(value)
    return pixels if pixels is not None and 0 < pixels < 2**31 else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _moment(value: Any) -> datetime | None:
    """A moment given as Unix seconds; 0 means none."""
    seconds = _integer(value)
    if not seconds or not 0 < seconds < 2**33:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _text(value: Any) -> str | None:
    """A text, bare or as {"_content": …}, as it stands; None where it is empty."""
    if isinstance(value, dict):
        value = value.get("_content")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        return None
    # JSON can hold half of a surrogate pair, which no UTF-8 column can.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _integer(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None else None


def _number(value: Any) -> float | None:
    if isinstance(value, dict):
        value = value.get("_content")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
