"""What Flickr's API answers about the demo's stream, in the shapes and types of its JSON. Pure functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.demo.stream import ALIAS, NSID, OWNER, DemoPhoto, Stream

HOME = f"https://www.flickr.com/photos/{ALIAS}/"

# Letter in url_*, suffix of the file, long edge in pixels, label in photos.getSizes; sq and q are cropped to squares.
_RENDITIONS = (
    ("sq", "_s", 75, "Square"),
    ("q", "_q", 150, "Large Square"),
    ("t", "_t", 100, "Thumbnail"),
    ("s", "_m", 240, "Small"),
    ("n", "_n", 320, "Small 320"),
    ("w", "_w", 400, "Small 400"),
    ("m", "", 500, "Medium"),
    ("z", "_z", 640, "Medium 640"),
    ("c", "_c", 800, "Medium 800"),
    ("l", "_b", 1024, "Large"),
    ("h", "_h", 1600, "Large 1600"),
    ("k", "_k", 2048, "Large 2048"),
)


class Fail(Exception):
    """An answer `stat: fail`, with its code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Offer:
    """A rendition on offer. Width and height are its pixels."""

    letter: str
    label: str
    path: str  # at the image host
    width: int
    height: int


def offers(photo: DemoPhoto, *, listed: bool) -> list[Offer]:
    """The photo's renditions: those that its entry in a list names, or those that exist by now.

    None is larger than the original.
    """
    if photo.trouble in ("no_size", "video_without_still"):
        return []
    longer = max(photo.width, photo.height)
    found = []
    for letter, suffix, edge, label in _RENDITIONS:
        if edge > longer:
            continue
        square = letter in ("sq", "q")
        width, height = (
            edge if square else max(1, round(side * edge / longer)) for side in (photo.width, photo.height)
        )
        found.append(Offer(letter, label, _path(photo, _secret(photo, edge, listed), suffix), width, height))
    if photo.original_offered:
        path = _path(photo, _secret(photo, None, listed), "_o")
        found.append(Offer("o", "Original", path, photo.width, photo.height))
    return found


def _path(photo: DemoPhoto, secret: str, suffix: str) -> str:
    return f"/{photo.server}/{photo.number}_{secret}{suffix}.jpg"


def _secret(photo: DemoPhoto, edge: int | None, listed: bool) -> str:
    """Sizes up to 1,024 share a secret; larger ones have another, and so has the original (edge None)."""
    secret = photo.secret
    if edge is None:
        secret = photo.original_secret
    elif edge > 1024:
        secret = photo.original_secret[5:] + photo.original_secret[:5]
    return secret[::-1] if photo.trouble == "new_secret" and not listed else secret


def answer(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    """The answer to a call with these parameters. Addresses of pictures are at `host`, such as `http://127.0.0.1:8765`."""
    method = parameters.get("method", "")
    try:
        if method not in METHODS:
            raise Fail(112, f'Method "{method}" not found')
        return {**METHODS[method](stream, parameters, host), "stat": "ok"}
    except Fail as fail:
        return failure(fail.code, str(fail))


def failure(code: int, message: str) -> dict[str, Any]:
    return {"stat": "fail", "code": code, "message": message}


def _lookup_user(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    name = parameters.get("url", "").rstrip("/").rsplit("/", 1)[-1]
    if name not in (ALIAS, NSID):
        raise Fail(1, "User not found")
    return {"user": {"id": NSID, "username": {"_content": OWNER}}}


def _find_by_username(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    if parameters.get("username") != OWNER:
        raise Fail(1, "User not found")
    return {"user": {"id": NSID, "nsid": NSID, "username": {"_content": OWNER}}}


def _person(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    _check_user(parameters)
    oldest = stream.photos[-1]
    return {
        "person": {
            "id": NSID,
            "nsid": NSID,
            "ispro": 1,
            "iconserver": "0",
            "iconfarm": 0,
            "path_alias": ALIAS,
            "username": {"_content": OWNER},
            "description": {"_content": "An invented institution. Its pictures are drawn by code."},
            "photosurl": {"_content": HOME},
            "profileurl": {"_content": f"https://www.flickr.com/people/{ALIAS}/"},
            "mobileurl": {"_content": HOME},
            "photos": {
                "firstdatetaken": {"_content": min(photo.taken for photo in stream.photos)},
                "firstdate": {"_content": str(oldest.uploaded)},
                "count": {"_content": len(stream.photos)},
            },
        }
    }


def _public_photos(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    _check_user(parameters)
    rows, counts = _page(list(stream.photos), parameters)
    extras = _extras(parameters)
    return {"photos": {**counts, "photo": [{"owner": NSID, **entry(photo, extras, host)} for photo in rows]}}


def _album_photos(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    _check_album(stream, parameters)
    by_number = {photo.number: photo for photo in stream.photos}
    rows, counts = _page([by_number[number] for number in stream.album.photos], parameters)
    extras = _extras(parameters)
    primary = str(stream.album.photos[0])
    photos = [
        {**entry(photo, extras, host), "isprimary": "1" if str(photo.number) == primary else "0"} for photo in rows
    ]
    body = {"id": str(stream.album.number), "primary": primary, "owner": NSID, "ownername": OWNER, "photo": photos}
    return {"photoset": {**body, **counts, "per_page": counts["perpage"], "title": stream.album.title}}


def _album(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    _check_album(stream, parameters)
    count = len(stream.album.photos)
    counts = {"photos": count, "count_photos": str(count), "count_videos": 0}
    return {"photoset": {**_album_facts(stream), "owner": NSID, "username": OWNER, **counts}}


def _albums(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    _check_user(parameters)
    facts = {**_album_facts(stream), "photos": str(len(stream.album.photos)), "videos": 0}
    album = {**facts, "needs_interstitial": 0, "visibility_can_see_set": 1}
    return {"photosets": {"cancreate": 0, "page": 1, "pages": 1, "perpage": 1, "total": 1, "photoset": [album]}}


def _album_facts(stream: Stream) -> dict[str, Any]:
    album = stream.album
    primary = next(photo for photo in stream.photos if photo.number == album.photos[0])
    return {
        "id": str(album.number),
        "primary": str(primary.number),
        "secret": primary.secret,
        "server": primary.server,
        "farm": 66,
        "count_views": "0",
        "count_comments": "0",
        "title": {"_content": album.title},
        "description": {"_content": album.description},
        "can_comment": 0,
        "date_create": str(primary.uploaded),
        "date_update": str(stream.photos[0].uploaded),
    }


def _sizes(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    photo = _photo(stream, parameters)
    sizes = [
        {
            "label": offer.label,
            "width": offer.width,
            "height": offer.height,
            "source": host + offer.path,
            "url": f"{HOME}{photo.number}/sizes/{offer.letter}/",
            "media": "photo",
        }
        for offer in offers(photo, listed=False)
    ]
    if photo.is_video:
        film = {"label": "Site MP4", "width": photo.width, "height": photo.height, "media": "video"}
        page = f"{HOME}{photo.number}/"
        sizes.append({**film, "source": f"{page}play/site/{photo.secret}/", "url": page})
    allowed = int(photo.original_offered)
    return {"sizes": {"canblog": 0, "canprint": 0, "candownload": allowed, "size": sizes}}


def _info(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    photo = _photo(stream, parameters)
    person = {"nsid": NSID, "username": OWNER, "realname": "", "location": None, "path_alias": ALIAS}
    taken = {"taken": photo.taken, "takengranularity": photo.granularity, "takenunknown": _unknown(photo)}
    tags = [
        {"id": f"1-{photo.number}-{i}", "author": NSID, "raw": tag, "_content": tag, "machine_tag": 0}
        for i, tag in enumerate(photo.tags)
    ]
    page = {"type": "photopage", "_content": f"{HOME}{photo.number}/"}
    return {
        "photo": {
            "id": str(photo.number),
            "secret": photo.secret,
            "server": photo.server,
            "farm": 66,
            "dateuploaded": str(photo.uploaded),
            "isfavorite": 0,
            "license": photo.license,
            "safety_level": "0",
            "rotation": 0,
            "owner": {**person, "iconserver": "0", "iconfarm": 0},
            "title": {"_content": photo.title},
            "description": {"_content": photo.description},
            "visibility": {"ispublic": 1, "isfriend": 0, "isfamily": 0},
            "dates": {"posted": str(photo.uploaded), **taken, "lastupdate": str(photo.updated)},
            "views": str(photo.views),
            "editability": {"cancomment": 0, "canaddmeta": 0},
            "publiceditability": {"cancomment": 1, "canaddmeta": 0},
            "usage": {"candownload": int(photo.original_offered), "canblog": 0, "canprint": 0, "canshare": 1},
            "comments": {"_content": "0"},
            "notes": {"note": []},
            "people": {"haspeople": 0},
            "tags": {"tag": tags},
            "urls": {"url": [page]},
            "media": "video" if photo.is_video else "photo",
        }
    }


METHODS: dict[str, Callable[[Stream, Mapping[str, str], str], dict[str, Any]]] = {
    "flickr.urls.lookupUser": _lookup_user,
    "flickr.people.findByUsername": _find_by_username,
    "flickr.people.getInfo": _person,
    "flickr.people.getPublicPhotos": _public_photos,
    "flickr.photosets.getPhotos": _album_photos,
    "flickr.photosets.getInfo": _album,
    "flickr.photosets.getList": _albums,
    "flickr.photos.getSizes": _sizes,
    "flickr.photos.getInfo": _info,
}


def entry(photo: DemoPhoto, extras: set[str], host: str) -> dict[str, Any]:
    """A photo's row in a list, without its owner: what is always there, and what the extras asked for add."""
    row: dict[str, Any] = {
        "id": str(photo.number),
        "secret": photo.secret,
        "server": photo.server,
        "farm": 66,
        "title": photo.title,
        "ispublic": 1,
        "isfriend": 0,
        "isfamily": 0,
    }
    for extra, fields in _EXTRAS.items():
        if extra in extras:
            row |= fields(photo)
    for offer in offers(photo, listed=True):
        if f"url_{offer.letter}" in extras:
            row[f"url_{offer.letter}"] = host + offer.path
            row[f"height_{offer.letter}"] = offer.height
            row[f"width_{offer.letter}"] = offer.width
    return row


def _unknown(photo: DemoPhoto) -> str:
    return "0" if photo.taken_known else "1"


def _taken(photo: DemoPhoto) -> dict[str, Any]:
    # The granularity comes as a number or a string, as it pleases Flickr.
    granularity = photo.granularity if photo.number % 2 else str(photo.granularity)
    return {
        "datetaken": photo.taken,
        "datetakengranularity": granularity,
        "datetakenunknown": _unknown(photo),
    }


def _geo(photo: DemoPhoto) -> dict[str, Any]:
    if photo.place is None:
        return {"latitude": 0, "longitude": 0, "accuracy": 0, "context": 0}
    return {"latitude": photo.place[0], "longitude": photo.place[1], "accuracy": "11", "context": 0}


def _original(photo: DemoPhoto) -> dict[str, Any]:
    if not photo.original_offered:
        return {}
    return {"originalsecret": photo.original_secret, "originalformat": "jpg"}


def _original_size(photo: DemoPhoto) -> dict[str, Any]:
    return {"o_width": str(photo.width), "o_height": str(photo.height)} if photo.original_offered else {}


_EXTRAS: dict[str, Callable[[DemoPhoto], dict[str, Any]]] = {
    "description": lambda photo: {"description": {"_content": photo.description}},
    "license": lambda photo: {"license": photo.license},
    "date_upload": lambda photo: {"dateupload": str(photo.uploaded)},
    "last_update": lambda photo: {"lastupdate": str(photo.updated)},
    "date_taken": _taken,
    "owner_name": lambda photo: {"ownername": OWNER},
    "realname": lambda photo: {"realname": ""},
    "original_format": _original,
    "o_dims": _original_size,
    "tags": lambda photo: {"tags": " ".join(photo.tags)},
    "machine_tags": lambda photo: {"machine_tags": " ".join(photo.machine_tags)},
    "geo": _geo,
    "views": lambda photo: {"views": str(photo.views)},
    "media": lambda photo: {"media": "video" if photo.is_video else "photo", "media_status": "ready"},
    "path_alias": lambda photo: {"pathalias": ALIAS},
}


def _extras(parameters: Mapping[str, str]) -> set[str]:
    return set(parameters.get("extras", "").split(","))


def _page(photos: list[DemoPhoto], parameters: Mapping[str, str]) -> tuple[list[DemoPhoto], dict[str, Any]]:
    """The photos of the page asked for, and what the answer says of the paging."""
    size = max(1, min(500, _number(parameters, "per_page", 100)))
    page = max(1, _number(parameters, "page", 1))
    rows = photos[(page - 1) * size : page * size]
    return rows, {"page": page, "pages": -(-len(photos) // size), "perpage": size, "total": len(photos)}


def _number(parameters: Mapping[str, str], name: str, default: int) -> int:
    text = parameters.get(name, "")
    return int(text) if text.isdecimal() else default


def _check_user(parameters: Mapping[str, str]) -> None:
    if parameters.get("user_id") != NSID:
        raise Fail(1, "User not found")


def _check_album(stream: Stream, parameters: Mapping[str, str]) -> None:
    if parameters.get("photoset_id") != str(stream.album.number) or parameters.get("user_id", NSID) != NSID:
        raise Fail(1, "Photoset not found")


def _photo(stream: Stream, parameters: Mapping[str, str]) -> DemoPhoto:
    for photo in stream.photos:
        if str(photo.number) == parameters.get("photo_id") and photo.trouble not in ("gone_404", "gone_410"):
            return photo
    raise Fail(1, "Photo not found")
