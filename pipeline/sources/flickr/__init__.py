"""Flickr as a source of photos: whatever has an address there, a search's answers, or a list of such addresses."""

from collections.abc import Container, Generator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar, Literal

from pipeline.gate import Gate, Gates
from pipeline.photo import Photo, Size, UserError
from pipeline.sources import Listing
from pipeline.sources.flickr.address import Address, Photostream, SinglePhoto, parse_url, parse_user
from pipeline.sources.flickr.ask import PER_PAGE, Asker, leads_nowhere, one_photo
from pipeline.sources.flickr.client import Refused, connect
from pipeline.sources.flickr.lists import Several, read_list
from pipeline.sources.flickr.parse import is_public, parse_photo, photo_number, read_info, read_sizes, uploaded_at
from pipeline.sources.flickr.search import Search, Windows
from pipeline.sources.flickr.walk import Walk

__all__ = ["PER_PAGE", "FlickrSource", "Search"]

NOT_FOUND, NOT_PERMITTED = 1, 2  # Flickr's codes for photos not there, or not for us
OVERLAP = timedelta(days=1)  # a quick listing reads so much further back than it has to
# Of pictures without known copyright, of the United States' government, CC0 and in the public domain, copies may be
# kept whatever their owners do.
FREE = ("7", "8", "9", "10")

Pages = Generator[list[Photo], None, Listing]
Sizes = list[Size]  # within the class `list` is a setting


@dataclass(frozen=True)
class FlickrSource:
    """Public photos on Flickr, named in one of four ways: `user`, `url`, `search` or `list`."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}
    default_store: ClassVar[Literal["original", "derivative"]] = "original"
    default_max_pixels: ClassVar[int] = 100_000_000

    user: str | None = None
    """Whose photos: an NSID (8623220@N02), a path alias (library_of_congress) or any flickr.com/photos/… URL."""
    kind: Literal["flickr"] = "flickr"
    """This kind of source."""
    album: str | None = None
    """Only this album of the user: its number or URL."""
    url: str | None = None
    """The photos behind an address on flickr.com: a photostream, album, gallery, group's pool, search, tag or photo."""
    search: Search | None = None
    """The photos that a search finds."""
    list: str | None = None
    """A text file of such addresses, or photo numbers, one a line: a local path or any fsspec URL."""
    limit: int | None = None
    """Only the first so many photos, to try it out; the same archive grows when it is raised."""
    on_gone: Literal["keep", "forget"] | None = None
    """Whether pictures are kept of photos that Flickr no longer shows. Unset: they are kept under Flickr's licences 7
    to 10, which leave all free, and forgotten under any other."""
    contact: str | None = None
    """A URL or e-mail address by which Flickr can reach you, sent with every call."""
    api_rate: float = 1.0
    """Calls of the API a second; Flickr allows a key 3,600 an hour."""
    api_url: str = "https://api.flickr.com/services/rest/"
    """Where the API is; another address for a test or a demo."""

    def __post_init__(self) -> None:
        given = [name for name in ("user", "url", "search", "list") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of user, url, search or list, not {' and '.join(given) or 'none'}")
        if self.album is not None and self.user is None:
            raise ValueError("album goes with user: an album's own address is a url")

    @property
    def name(self) -> str:
        """How the archive calls this source: `flickr:library_of_congress`, with `/<album>` after it for an album.

        Others are `flickr:galleries/<number>`, `flickr:groups/<group>`, `flickr:photos/<number>`,
        `flickr:search?<parameters>` and `flickr:list:<path>`.
        """
        # As it was given: a job's working folder is another each time.
        return f"flickr:list:{self.list}" if self.list is not None else self._address.name

    def check(self) -> None:
        """Raise UserError for a missing or refused key, for what Flickr does not know, and for a list's wrong lines."""
        address = next(iter(read_list(self.list))) if self.list is not None else self._address
        try:
            self._asker.pages(address)(1, per_page=1)
        except Refused as refused:
            if self.list is None or not leads_nowhere(refused):  # of a list, others may lead somewhere
                raise self._explained(refused) from None

    def photos(self, known: Container[str], newest: datetime | None = None) -> Pages:
        """Yield the photos whose ids are not in `known`, a page at a time, in Flickr's order: a stream newest first.

        Every page is asked for each time, about 90 calls for 45,000 photos: `known` may come of a listing cut short.
        With `newest`, when the newest known photo was uploaded, the listing of a photostream ends at the first page
        that brings none unknown and reaches a day further back: what was made public later it does not see. Raises
        UserError as `check` does, and where Flickr does not answer.
        """
        try:
            return (yield from self._photos(known, newest))
        except Refused as refused:
            raise self._explained(refused) from None

    def _photos(self, known: Container[str], newest: datetime | None) -> Pages:
        observed_at = datetime.now(UTC)
        walk = self._all(known, observed_at)
        is_stream = self.list is None and isinstance(self._address, Photostream)
        old = newest - OVERLAP if newest and is_stream else None
        for number, page in enumerate(walk, start=1):
            rows = [row for row in page.rows if f"flickr:{photo_number(row)}" not in known]
            if rows:
                yield [parse_photo(row, page, source=self.name, observed_at=observed_at) for row in rows]
            elif old and isinstance(walk, Walk) and any(at < old for row in page.rows if (at := uploaded_at(row))):
                walk.enough = f"nothing new on page {number}, and no need to look further"
                break
        return walk.listing()

    def _all(self, known: Container[str], now: datetime) -> Walk | Windows | Several:
        def walk(address: Address, limit: int | None = None) -> Walk | Windows:
            if isinstance(address, SinglePhoto) and f"flickr:{address.number}" in known:
                return Walk(lambda number: one_photo({"id": address.number}))  # two calls saved
            ask = self._asker.pages(address)
            return Windows(ask, *address.window(now), limit) if isinstance(address, Search) else Walk(ask, limit)

        if self.list is not None:
            return Several(read_list(self.list), walk, self.limit)
        return walk(self._address, self.limit)

    def sizes(self, photo_id: str) -> Sizes | None:
        """The photo's uncropped pictures, smallest first, asked for anew; None: it is gone (deleted or private)."""
        try:
            return self._asker.client.call("photos.getSizes", read_sizes, photo_id=photo_id.removeprefix("flickr:"))
        except Refused as refused:
            if refused.code in (NOT_FOUND, NOT_PERMITTED):
                return None
            raise

    def is_gone(self, photo_id: str) -> bool:
        """Whether the photo was deleted or made private, which Flickr does not tell apart. Raises UserError."""
        try:
            row = self._asker.client.call("photos.getInfo", read_info, photo_id=photo_id.removeprefix("flickr:"))
        except Refused as refused:
            if refused.code in (NOT_FOUND, NOT_PERMITTED):
                return True
            raise
        return not is_public(row)

    def forgets(self, license_id: str | None) -> bool:
        """Whether the picture of a photo gone from Flickr, under this licence when last seen, is to be forgotten."""
        return license_id not in FREE if self.on_gone is None else self.on_gone == "forget"

    @property
    def _address(self) -> Address:
        if self.search is not None:
            return self.search
        if self.url is not None:
            return parse_url(self.url)
        assert self.user is not None
        return parse_user(self.user, self.album)

    def _explained(self, refused: Refused) -> UserError:
        """A refusal of what was asked about, with the setting that names it."""
        if not leads_nowhere(refused):
            return refused
        asked = ((name, getattr(self, name)) for name in ("user", "album", "url", "search"))
        told = ", ".join(f"{name} {value!r}" if name != "search" else name for name, value in asked if value)
        return UserError(f"{refused}: check the source's {told}")

    def pace(self, gates: Gates) -> None:
        """Take turns at the gate before the API, which the sources of a run share."""
        gate = gates.join(self.api_url, self._gate)
        if gate is not self._gate:
            vars(self)["_gate"] = gate
            vars(self).pop("_asker", None)  # it holds the other

    @cached_property
    def _gate(self) -> Gate:
        return Gate(self.api_rate)

    @cached_property
    def _asker(self) -> Asker:
        return Asker(connect(api_url=self.api_url, gate=self._gate, contact=self.contact))

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: the client holds the key, which goes to no other process."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
