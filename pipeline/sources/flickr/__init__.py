"""A Flickr photostream or album as a source of photos."""

from collections.abc import Callable, Container, Generator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

from pipeline.gate import Gate, Gates
from pipeline.photo import Photo, Size, UserError
from pipeline.sources import Listing
from pipeline.sources.flickr.address import parse_address
from pipeline.sources.flickr.client import Client, Refused, connect
from pipeline.sources.flickr.parse import EXTRAS, Page, parse_photo, photo_number, read_page, read_sizes, read_user_id
from pipeline.sources.flickr.walk import Walk

PER_PAGE = 500  # the most that the API gives
NOT_FOUND, NOT_PERMITTED, DELETED = 1, 2, 5  # Flickr's codes for users, albums, photos not there, or not for us

T = TypeVar("T")


@dataclass(frozen=True)
class FlickrSource:
    """All public photos of one user, or of one album."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    user: str
    """Whose photos: an NSID (8623220@N02), a path alias (library_of_congress) or any flickr.com/photos/… URL."""
    kind: Literal["flickr"] = "flickr"
    """This kind of source."""
    album: str | None = None
    """Only this album of the user: its number or URL."""
    limit: int | None = None
    """Only the first so many photos, to try it out; the same archive grows when it is raised."""
    contact: str | None = None
    """A URL or e-mail address by which Flickr can reach you, sent with every call."""
    api_rate: float = 1.0
    """Calls of the API a second; Flickr allows a key 3,600 an hour."""
    api_url: str = "https://api.flickr.com/services/rest/"
    """Where the API is; another address for a test or a demo."""

    @property
    def name(self) -> str:
        """How the archive calls this source: `flickr:library_of_congress`, with `/<album>` after it for an album."""
        address = parse_address(self.user, self.album)
        return f"flickr:{address.user}" + (f"/{address.album}" if address.album else "")

    @property
    def default_store(self) -> Literal["original", "derivative"]:
        return "original"

    @property
    def default_max_pixels(self) -> int:
        return 100_000_000

    def check(self) -> None:
        """Raise UserError for a missing or refused key and for a user or album that Flickr does not know."""
        self._page(1, per_page=1)

    def photos(self, known: Container[str], newest: datetime | None = None) -> Generator[list[Photo], None, Listing]:
        """Yield the photos whose ids are not in `known`, a page at a time, newest first (an album: in its own order).

        Every page is asked for each time, about 90 calls for 45,000 photos: `known` may come of a listing cut short.
        Raises UserError as `check` does, and where Flickr does not answer.
        """
        observed_at = datetime.now(UTC)
        walk = Walk(self._page, self.limit)
        for page in walk:
            rows = [row for row in page.rows if f"flickr:{photo_number(row)}" not in known]
            if rows:
                yield [parse_photo(row, page, source=self.name, observed_at=observed_at) for row in rows]
        return walk.listing()

    def sizes(self, photo_id: str) -> list[Size] | None:
        """The photo's uncropped pictures, smallest first, asked for anew; None: it is gone (deleted or private)."""
        try:
            return self._client.call("photos.getSizes", read_sizes, photo_id=photo_id.removeprefix("flickr:"))
        except Refused as refused:
            if refused.code in (NOT_FOUND, NOT_PERMITTED):
                return None
            raise

    def is_gone(self, photo_id: str) -> bool:
        return self.sizes(photo_id) is None

    def forgets(self, license_id: str | None) -> bool:
        return license_id not in ("7", "8", "9", "10")

    def _page(self, number: int, per_page: int = PER_PAGE) -> Page:
        wanted: dict[str, str | int] = {
            "user_id": self._user_id,
            "extras": EXTRAS,
            "per_page": per_page,
            "page": number,
        }
        album = parse_address(self.user, self.album).album
        if album is None:
            return self._ask("people.getPublicPhotos", read_page, **wanted)
        return self._ask("photosets.getPhotos", read_page, photoset_id=album, **wanted)

    @cached_property
    def _user_id(self) -> str:
        address = parse_address(self.user, self.album)
        return address.user if address.is_nsid else self._ask("urls.lookupUser", read_user_id, url=address.url)

    def _ask(self, method: str, read: Callable[[dict[str, Any]], T], **parameters: str | int) -> T:
        try:
            return self._client.call(method, read, **parameters)
        except Refused as refused:
            if refused.code in (NOT_FOUND, NOT_PERMITTED, DELETED):
                asked = f"user {self.user!r}" + (f", album {self.album!r}" if self.album else "")
                raise UserError(f"{refused}: check the source's {asked}") from None
            raise

    def pace(self, gates: Gates) -> None:
        """Take turns at the gate before the API, which the sources of a run share."""
        gate = gates.join(self.api_url, self._gate)
        if gate is not self._gate:
            vars(self)["_gate"] = gate
            vars(self).pop("_client", None)  # it holds the other

    @cached_property
    def _gate(self) -> Gate:
        return Gate(self.api_rate)

    @cached_property
    def _client(self) -> Client:
        return connect(api_url=self.api_url, gate=self._gate, contact=self.contact)

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: the client holds the key, which goes to no other process."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
