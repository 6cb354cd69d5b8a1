"""How people name a photostream or an album: an NSID, a path alias, or any page of it on flickr.com."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.photo import UserError

_NSID = re.compile(r"\d+@N\d\d")
_ALIAS = re.compile(r"[\w@.-]+")
_PAGE = re.compile(r"/(?:photos|people)/(?P<user>[^/]+)(?:/(?:albums|sets)/(?P<album>\d+))?")


@dataclass(frozen=True, slots=True)
class Address:
    user: str  # NSID ("8623220@N02") or path alias ("library_of_congress")
    album: str | None  # id, a number

    @property
    def is_nsid(self) -> bool:
        return _NSID.fullmatch(self.user) is not None

    @property
    def url(self) -> str:
        """The photostream's page, which is what flickr.urls.lookupUser is asked about."""
        return f"https://www.flickr.com/photos/{self.user}/"


def parse_address(user: str, album: str | None) -> Address:
    """The photostream, or the album of it, that is meant; an album's URL given as `user` means the album.

    Raises UserError where either of them is something else.
    """
    of_user = _page(user)
    of_album = _page(album) if album is not None else None
    name = of_user["user"] if of_user else user.strip()
    if not _ALIAS.fullmatch(name):
        raise UserError(f"{user!r} names no Flickr user: give an NSID, a path alias or a flickr.com/photos/… URL")
    number = of_album["album"] if of_album else album
    if album is not None and not (number or "").isdigit():
        raise UserError(f"{album!r} names no Flickr album: give its number or its flickr.com/photos/…/albums/… URL")
    if number is None and of_user:
        number = of_user["album"]
    return Address(name, number)


def _page(text: str) -> re.Match[str] | None:
    url = urlsplit(text if "//" in text else f"https://{text}")
    if (url.hostname or "").removeprefix("www.").removeprefix("m.") != "flickr.com":
        return None
    return _PAGE.match(url.path)


def photo_id(text: str) -> str:
    """The id of a photo that people name by it, by its number, or by its page on flickr.com. Raises UserError."""
    text = text.strip()
    match = re.search(r"flickr\.com/photos/[^/]+/(\d+)", text)
    if match or text.isdigit():
        return f"flickr:{match[1] if match else text}"
    if "://" in text or ":" not in text:
        raise UserError(
            f"{text!r} names no photo: give its id as a search shows it, such as flickr:2179931434, or its page"
        )
    return text
