"""Unsplash as a source of photos: what a keyword search of its API finds.

https://unsplash.com/documentation, and https://help.unsplash.com/en/articles/2511245 on what is asked of those who use
it: credit with links, and a word of each download.
"""

from collections.abc import Callable, Container, Generator, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar, Literal
from urllib.parse import quote, urlencode

from pipeline.gate import Gate, Gates
from pipeline.photo import Photo, Size
from pipeline.sources import Listing
from pipeline.sources.unsplash import parse
from pipeline.sources.unsplash.client import HOUR, Client, NotFound, connect, has_key
from pipeline.sources.unsplash.parse import Offer, Page, Row, photo_number

__all__ = ["PER_PAGE", "Offer", "Offers", "UnsplashSource", "has_key"]

PER_PAGE = 30  # the most that the API gives
DEADLINE = 300.0  # seconds for all tries of a call of a run,
HASTE = 15.0  # and where somebody waits for it
PATIENCE = HOUR + 300.0  # seconds that a run waits for a limit that is used up
FILTERS = ("query", "order_by", "orientation", "color", "content_filter")


@dataclass(frozen=True, slots=True)
class Offers:
    """What a search brought, in Unsplash's order. `total`: how many photos it says that there are."""

    offers: tuple[Offer, ...]
    total: int | None


@dataclass(frozen=True)
class UnsplashSource:
    """What a keyword search of Unsplash finds. Each photo that is fetched takes two calls of the API."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}
    default_store: ClassVar[Literal["original", "derivative"]] = "original"
    default_max_pixels: ClassVar[int] = 100_000_000

    query: str
    """The words to search for."""
    kind: Literal["unsplash"] = "unsplash"
    """This kind of source."""
    limit: int | None = None
    """Only the first so many photos; the same archive grows when it is raised."""
    order_by: Literal["relevant", "latest"] = "relevant"
    """Which come first."""
    orientation: Literal["landscape", "portrait", "squarish"] | None = None
    """Only pictures of this shape."""
    color: (
        Literal[
            "black_and_white", "black", "white", "yellow", "orange", "red", "purple", "magenta", "green", "teal", "blue"
        ]
        | None
    ) = None
    """Only pictures in this colour."""
    content_filter: Literal["low", "high"] = "low"
    """How much of what may not suit everybody is left out."""
    app_name: str = "tintype"
    """What the application of the key is called at Unsplash: links back there carry it."""
    api_rate: float = 1.0
    """Calls of the API a second; a key is allowed 50 an hour at first, and a run waits when they are used up."""
    api_url: str = "https://api.unsplash.com"
    """Where the API is; another address for a test or a demo."""

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise ValueError("query holds no words to search for")

    @property
    def name(self) -> str:
        """How the archive calls this source: `unsplash:search?query=red+sailboat`, with what else it asks for."""
        return f"unsplash:search?{urlencode(self._asked())}"

    def pace(self, gates: Gates) -> None:
        """Take turns at the gate before the API, which the sources of a run share."""
        gate = gates.join(self.api_url, self._gate)
        if gate is not self._gate:
            vars(self)["_gate"] = gate
            vars(self).pop("_client", None)  # it holds the other

    def check(self) -> None:
        """Raise UserError for a missing or refused key, TryLater where its calls of this hour are used up."""
        self._search(self._connect(HASTE, 0.0), 1)(1)

    def photos(self, known: Container[str], newest: datetime | None = None) -> Generator[list[Photo], None, Listing]:
        """Yield the photos whose ids are not in `known`, a page at a time, in Unsplash's order. Raises UserError."""
        about: dict[str, Any] = {"source": self.name, "app_name": self.app_name, "observed_at": datetime.now(UTC)}
        walk = Walk(self._search(self._client, PER_PAGE), self.limit)
        for rows in walk:
            new = [row for row in rows if f"unsplash:{photo_number(row)}" not in known]
            if new:
                yield [parse.parse_photo(row, **about) for row in new]
        return walk.listing()

    def offers(self) -> Offers:
        """The first `limit` photos, to be looked at and not to be kept: no download is told of.

        Waits for nothing: raises TryLater where the key's calls of this hour are used up, UserError as `check`.
        """
        about: dict[str, Any] = {"source": self.name, "app_name": self.app_name, "observed_at": datetime.now(UTC)}
        walk = Walk(self._search(self._connect(HASTE, 0.0), min(self.limit or PER_PAGE, PER_PAGE)), self.limit)
        found = tuple(parse.parse_offer(row, **about) for rows in walk for row in rows)
        return Offers(found, walk.total)

    def sizes(self, photo_id: str) -> list[Size] | None:
        """The photo's uncropped pictures, smallest first, one of which is downloaded now, as Unsplash is told.

        None: the photo is gone. The addresses carry a token of this asking, so a listing has none to compare.
        """
        number = quote(photo_id.removeprefix("unsplash:"), safe="")
        try:
            row = self._client.call(f"/photos/{number}", parse.read_photo)
            token = parse.tracking(row)
            # Not by the address that is given: the key goes where the settings say, and nowhere else.
            self._client.call(f"/photos/{number}/download", lambda answer: answer, **({"ixid": token} if token else {}))
        except NotFound:
            return None
        return parse.sizes(row)

    def is_gone(self, photo_id: str) -> bool:
        """Whether the photo is there no more. Raises UserError where that cannot be told."""
        number = quote(photo_id.removeprefix("unsplash:"), safe="")
        try:
            self._client.call(f"/photos/{number}", parse.read_photo)
        except NotFound:
            return True
        return False

    def forgets(self, license_id: str | None) -> bool:
        """The licence that Unsplash's photos come with cannot be revoked."""
        return False

    def _asked(self) -> dict[str, str]:
        """The parameters of the search that are not those it has anyway."""
        defaults = {field.name: field.default for field in fields(self)}
        given = {name: getattr(self, name) for name in FILTERS}
        return {name: value for name, value in given.items() if value != defaults[name]}

    def _search(self, client: Client, per_page: int) -> Callable[[int], Page]:
        asked: dict[str, str | int] = {**self._asked(), "per_page": per_page}
        return lambda number: client.call("/search/photos", parse.read_page, **asked, page=number)

    def _connect(self, deadline: float, patience: float) -> Client:
        return connect(api_url=self.api_url, gate=self._gate, deadline=deadline, patience=patience)

    @cached_property
    def _gate(self) -> Gate:
        return Gate(self.api_rate)

    @cached_property
    def _client(self) -> Client:
        return self._connect(DEADLINE, PATIENCE)

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: the client holds the key, which goes to no other process."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass
class Walk:
    """The pages of a search, each photo once: they shift while they are read. Iterating raises as `ask` does."""

    ask: Callable[[int], Page]
    limit: int | None = None
    seen: set[str] = field(default_factory=set)  # ids
    total: int | None = None  # as Unsplash said last
    others: int = 0  # rows that are no photo
    finished: bool = False

    def __iter__(self) -> Iterator[list[Row]]:
        number = 0
        while not (self.finished or self._full()):
            number += 1
            page = self.ask(number)
            self.total = page.total
            if fresh := list(self._fresh(page)):
                yield fresh
            self.finished = number >= page.pages or not page.rows

    def _fresh(self, page: Page) -> Iterator[Row]:
        for row in page.rows:
            photo = photo_number(row)
            self.others += photo is None
            if photo is not None and photo not in self.seen and not self._full():
                self.seen.add(photo)
                yield row

    def _full(self) -> bool:
        return self.limit is not None and len(self.seen) >= self.limit

    def listing(self) -> Listing:
        """What the walk, now over, came to. A limit reached is complete: everything asked for was seen."""
        notes = []
        if self._full():
            notes.append(f"stopped at the limit of {self.limit}")
        elif len(self.seen) != self.total:
            notes.append(f"{len(self.seen)} photos where Unsplash counts {self.total}")
        if self.others:
            notes.append(f"passed over {self.others} entries that are no photos")
        note = "; ".join(notes) or None
        return Listing(complete=True, total=self.total, seen=len(self.seen), note=note, limited=self._full())
