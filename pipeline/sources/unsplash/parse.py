"""Unsplash's JSON → Photo, Size and pages of them. Pure functions.

What cannot be read becomes None, and never costs the photo or its page.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from pipeline.photo import Photo, Rights, Size

LICENCE = ("Unsplash License", "https://unsplash.com/license")
PAID = "Unsplash+ License"  # of the photos that subscribers alone may use
# The renditions that keep the picture's shape, by pixels of their width; none is wider than the original.
# https://unsplash.com/documentation#example-image-use
WIDTHS = {"thumb": 200, "small": 400, "regular": 1080, "full": None}

CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")  # which a terminal would obey

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a search as answered."""

    rows: list[Any]  # of photos; each should be an object
    pages: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Offer:
    """A photo that a search brought, to be looked at and not to be kept.

    `sizes` are the addresses as Unsplash gave them, which count the look; those of a `Photo` do not change from one
    search to the next.
    """

    photo: Photo
    sizes: tuple[Size, ...] = ()
    owner_url: str | None = None


def read_page(answer: Any) -> Page:
    """The page in an answer of /search/photos; ValueError where there is none."""
    if not isinstance(answer, dict) or not isinstance(answer.get("results"), list):
        raise ValueError("no list of results")
    pages = _integer(answer.get("total_pages"))
    if pages is None:
        raise ValueError("no number of pages")
    return Page(answer["results"], pages, _integer(answer.get("total")))


def read_photo(answer: Any) -> Row:
    """The row in an answer of /photos/ID; ValueError where there is none."""
    if photo_number(answer) is None:
        raise ValueError("no photo")
    found: Row = answer
    return found


def photo_number(row: Any) -> str | None:
    """Unsplash's id of the photo in this row; None for a row that is none: illustrations stand among photos too."""
    if not isinstance(row, dict) or row.get("asset_type", "photo") != "photo":
        return None
    return _text(row.get("id"))


def parse_photo(row: Row, *, source: str, app_name: str, observed_at: datetime) -> Photo:
    """The photo in this row, which must have an id. It has no `sizes`: Unsplash gives them for the asking.

    Unsplash knows no titles: what the photographer wrote stands for one, else the description for those who do not see
    the picture, which may be a machine's.
    """
    number = photo_number(row)
    assert number is not None
    said, alternative = _text(row.get("description")), _text(row.get("alt_description"))
    user = _object(row.get("user"))
    name, url = (PAID, None) if row.get("premium") or row.get("plus") else LICENCE
    tags = row.get("tags")
    titles = [_text(_object(tag).get("title")) for tag in tags] if isinstance(tags, list) else []
    return Photo(
        photo_id=f"unsplash:{number}",
        source=source,
        rights=Rights(None, name, url, observed_at),
        title=said or alternative,
        description=alternative if said and alternative != said else None,
        tags=tuple(dict.fromkeys(filter(None, titles))),
        uploaded_at=_moment(row.get("created_at")),
        updated_at=_moment(row.get("updated_at")),
        owner=_text(user.get("name")) or _text(user.get("username")),
        owner_id=_text(user.get("id")),
        page_url=_home(row, app_name) or credited(f"https://unsplash.com/photos/{number}", app_name),
        raw=json.dumps(row, separators=(",", ":")),
    )


def parse_offer(row: Row, *, source: str, app_name: str, observed_at: datetime) -> Offer:
    """The same, with the addresses of its pictures and of its photographer."""
    photo = parse_photo(row, source=source, app_name=app_name, observed_at=observed_at)
    return Offer(photo, tuple(sizes(row)), _home(_object(row.get("user")), app_name))


def sizes(row: Row) -> list[Size]:
    """The uncropped pictures, smallest first, in pixels as the original's shape gives them."""
    urls = _object(row.get("urls"))
    width, height = _integer(row.get("width")), _integer(row.get("height"))
    found = []
    for name, most in WIDTHS.items():
        url = urls.get(name)
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            continue
        if not width or not height or width < 0 or height < 0:
            found.append(Size(url))
            continue
        across = min(width, most or width)
        found.append(Size(url, across, max(1, round(height * across / width))))
    return found


def tracking(row: Row) -> str | None:
    """What the address by which a download is told carries to say which search led there."""
    location = _text(_object(row.get("links")).get("download_location"))
    given = parse_qs(urlsplit(location or "").query).get("ixid")
    return given[0] if given else None


def credited(url: str, app_name: str) -> str:
    """A link as Unsplash wants credits to carry it. https://help.unsplash.com/en/articles/2511315"""
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query) if pair[0] not in ("utm_source", "utm_medium")]
    query += [("utm_source", app_name), ("utm_medium", "referral")]
    return urlunsplit(parts._replace(query=urlencode(query)))


def _home(body: Row, app_name: str) -> str | None:
    """Its page on Unsplash, of a photo or a user."""
    url = _text(_object(body.get("links")).get("html"))
    if not url or not url.startswith(("http://", "https://")):
        return None
    try:
        return credited(url, app_name)
    except ValueError:  # brackets that are no IPv6 address
        return None


def _object(value: Any) -> Row:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    """A text on one line; None where it is empty."""
    if not isinstance(value, str) or not value.strip():
        return None
    # JSON can hold half of a surrogate pair, which no UTF-8 column can.
    whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(CONTROLS.sub(" ", whole).split()) or None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else None


def _moment(value: Any) -> datetime | None:
    """A moment as Unsplash writes it: 2014-11-18T14:35:36-05:00, or with a Z."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
