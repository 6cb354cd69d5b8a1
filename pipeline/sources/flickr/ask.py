"""Which calls of the API bring the photos that an address names."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.sources.flickr.address import Address, Album, Gallery, Group, Photostream, SinglePhoto
from pipeline.sources.flickr.client import Client, Refused
from pipeline.sources.flickr.parse import (
    EXTRAS,
    Page,
    read_group_id,
    read_info,
    read_page,
    read_renditions,
    read_user_id,
)
from pipeline.sources.flickr.search import NSID, Search

PER_PAGE = 500  # the most that the API gives

_GENERAL = 95  # codes from here on say the same of every method: key, signature, format, service


def leads_nowhere(refused: Refused) -> bool:
    """Whether Flickr refuses what was asked about, which is not there or not for us, and not us or the call."""
    return refused.code is not None and refused.code < _GENERAL


@dataclass(frozen=True)
class Asker:
    """Asks Flickr about addresses; users and groups are looked up once. Raises as Client.call does."""

    client: Client
    ids: dict[str, str] = field(default_factory=dict)  # page of a user or group → NSID

    def pages(self, address: Address) -> Callable[..., Page]:
        """Page number, and what else to ask, → that page of the photos. A single photo is a list of one."""
        if isinstance(address, SinglePhoto):
            return lambda number, **more: self._single(address.number)
        method, about = self._about(address)

        def ask(number: int, *, per_page: int = PER_PAGE, **more: str | int) -> Page:
            wanted: dict[str, str | int] = {**about, "extras": EXTRAS, "per_page": per_page, "page": number, **more}
            return self.client.call(method, read_page, **wanted)

        return ask

    def _about(self, address: Photostream | Album | Gallery | Group | Search) -> tuple[str, dict[str, str]]:
        """The method that lists an address, and what it wants to know of it."""
        match address:
            case Photostream(user):
                return "people.getPublicPhotos", {"user_id": self._user(user)}
            case Album(user, number):
                return "photosets.getPhotos", {"user_id": self._user(user), "photoset_id": number}
            case Gallery(number):
                return "galleries.getPhotos", {"gallery_id": number}
            case Group(group):
                return "groups.pools.getPhotos", {"group_id": self._group(group)}
            case Search(user=user, group=group):
                asked = {**address.parameters(), "sort": "date-posted-asc"}
                if user is not None:
                    asked["user_id"] = self._user(user)
                if group is not None:
                    asked["group_id"] = self._group(group)
                return "photos.search", asked

    def _user(self, user: str) -> str:
        return self._nsid(user, "urls.lookupUser", read_user_id, f"https://www.flickr.com/photos/{user}/")

    def _group(self, group: str) -> str:
        return self._nsid(group, "urls.lookupGroup", read_group_id, f"https://www.flickr.com/groups/{group}/")

    def _nsid(self, name: str, method: str, read: Callable[[dict[str, Any]], str], url: str) -> str:
        if NSID.fullmatch(name):
            return name
        if url not in self.ids:
            self.ids[url] = self.client.call(method, read, url=url)
        return self.ids[url]

    def _single(self, number: str) -> Page:
        row = self.client.call("photos.getInfo", read_info, photo_id=number)
        pictures = self.client.call("photos.getSizes", read_renditions, photo_id=number)
        return one_photo({**row, **pictures})


def one_photo(row: dict[str, Any]) -> Page:
    """A list of the one photo in this row."""
    return Page([row], number=1, pages=1, total=1, owner_id=None, owner=None)
