"""A photo of the demo's stream as a row in Flickr's lists, and the pictures of it that are offered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.demo.stream import ALIAS, OWNER, DemoPhoto

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


def unknown(photo: DemoPhoto) -> str:
    return "0" if photo.taken_known else "1"


def _taken(photo: DemoPhoto) -> dict[str, Any]:
    # The granularity comes as a number or a string, as it pleases Flickr.
    granularity = photo.granularity if photo.number % 2 else str(photo.granularity)
    return {
        "datetaken": photo.taken,
        "datetakengranularity": granularity,
        "datetakenunknown": unknown(photo),
    }


def geo(photo: DemoPhoto) -> dict[str, Any]:
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
    "tags": lambda photo: {"tags": " ".join((*photo.tags, *photo.machine_tags))},
    "machine_tags": lambda photo: {"machine_tags": " ".join(photo.machine_tags)},
    "geo": geo,
    "views": lambda photo: {"views": str(photo.views)},
    "media": lambda photo: {"media": "video" if photo.is_video else "photo", "media_status": "ready"},
    "path_alias": lambda photo: {"pathalias": ALIAS},
}
