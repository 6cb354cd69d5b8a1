"""Which photos of the demo's stream a search finds, after what Flickr says of flickr.photos.search.

https://www.flickr.com/services/api/flickr.photos.search.html
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from pipeline.demo.stream import NSID, DemoPhoto, Stream

_LIMITING = (
    *("user_id", "group_id", "text", "tags", "license", "is_commons"),
    *("min_upload_date", "max_upload_date", "min_taken_date", "max_taken_date"),
)
_COMMONS = "7"  # the licence by which institutions of the Commons publish


class Fail(Exception):
    """An answer `stat: fail`, with its code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def found(stream: Stream, parameters: Mapping[str, str]) -> list[DemoPhoto]:
    """The photos that a search finds, in the order that it asks for. Raises Fail for a search that Flickr refuses."""
    asked = {name: value for name, value in parameters.items() if value}
    if not any(name in asked for name in _LIMITING):
        raise Fail(3, "Parameterless searches have been disabled. Please use flickr.photos.getRecent instead.")
    if asked.get("user_id", NSID) != NSID:
        raise Fail(2, "Unknown user")
    if asked.get("group_id", stream.group.nsid) != stream.group.nsid:
        raise Fail(4, "You don't have permission to view this pool")
    photos = stream.photos
    if "group_id" in asked:
        pool = set(stream.group.photos)
        photos = tuple(photo for photo in photos if photo.number in pool)
    matching = [photo for photo in photos if _meets(photo, asked)]
    return matching[::-1] if asked.get("sort") == "date-posted-asc" else matching


def _meets(photo: DemoPhoto, asked: Mapping[str, str]) -> bool:
    words = set(_words(f"{photo.title} {photo.description} {' '.join(photo.tags)}"))
    if not set(_words(asked.get("text", ""))) <= words:
        return False
    wanted = [_normal(tag) for tag in asked.get("tags", "").split(",") if tag]
    tags = {_normal(tag) for tag in photo.tags}
    if wanted and not (all if asked.get("tag_mode") == "all" else any)(tag in tags for tag in wanted):
        return False
    if "license" in asked and photo.license not in asked["license"].split(","):
        return False
    if asked.get("is_commons") in ("1", "true") and photo.license != _COMMONS:
        return False
    if asked.get("media", "all") not in ("all", "videos" if photo.is_video else "photos"):
        return False
    if not int(asked.get("min_upload_date", 0)) <= photo.uploaded <= int(asked.get("max_upload_date", 2**40)):
        return False
    return _taken(asked, "min_taken_date", "0000") <= photo.taken <= _taken(asked, "max_taken_date", "9999")


def _taken(asked: Mapping[str, str], name: str, otherwise: str) -> str:
    """The moment as DemoPhoto.taken has it; Flickr takes Unix seconds too."""
    text = asked.get(name, otherwise)
    if text.isdecimal() and len(text) > len("2020"):
        return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%d %H:%M:%S")
    return text


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _normal(tag: str) -> str:
    return re.sub(r"\W", "", tag.lower())
