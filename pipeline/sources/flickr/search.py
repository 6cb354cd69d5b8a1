"""Searches of Flickr, whose answers end at 4,000 photos: asked for in windows of upload dates that hold fewer."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlencode

import pydantic

from pipeline.sources import Listing
from pipeline.sources.flickr.parse import Page
from pipeline.sources.flickr.walk import Walk, fresh

# Results of a query; past them the same ones repeat, while the total tells how many there would be
# (https://www.flickr.com/services/api/flickr.photos.search.html). Answers of 2016 said so: "max_allowed_results":4000.
CAP = 4000
FIRST = 1  # Unix seconds: dates of upload can be wrong by decades, and 0 would mean none
DEPTH = 32  # halvings from all of Unix time to a second

NSID = re.compile(r"[0-9]+@N[0-9]+")
USER = re.compile(r"[\w@.-]+")  # NSID or path alias


def _iso(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value  # YAML reads bare dates by itself


Date = Annotated[str, pydantic.BeforeValidator(_iso)]


@dataclass(frozen=True)
class Search:
    """A search of Flickr's public photos, which must meet all that is asked. Something that limits it must be."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    text: str | None = None
    """Words in title, description or tags."""
    tags: tuple[str, ...] = ()
    """Tags, any or all of them as `tag_mode` says."""
    tag_mode: Literal["any", "all"] = "any"
    """Whether a photo must have one of the tags or every one."""
    user: str | None = None
    """Only of this user: an NSID or a path alias."""
    group: str | None = None
    """Only in the pool of this group: an NSID or a path alias."""
    licenses: tuple[int, ...] = ()
    """Only under one of these licences, by Flickr's numbers: 7 is no known copyright restrictions, 9 CC0."""
    is_commons: bool = False
    """Only of institutions in the Flickr Commons."""
    media: Literal["photos", "videos"] | None = None
    """Only photos or only videos."""
    min_upload_date: Date | None = None
    """Uploaded on this date or later: an ISO date or datetime, in UTC where it names no zone."""
    max_upload_date: Date | None = None
    """Uploaded on this date or earlier; a date means its end."""
    min_taken_date: Date | None = None
    """Taken on this date or later, as the photo's own clock had it."""
    max_taken_date: Date | None = None
    """Taken on this date or earlier; a date means its end."""

    def __post_init__(self) -> None:
        for name in ("user", "group"):
            value = getattr(self, name)
            if value is not None and not USER.fullmatch(value):
                raise ValueError(f"{value!r} names no {name}: give an NSID or a path alias")
        if any("," in tag or not tag.strip() for tag in self.tags):
            raise ValueError("tags are a list, each without a comma")
        asked = self.parameters()
        if not asked.keys() - {"tag_mode", "media"}:
            raise ValueError(
                "a search must ask for something: text, tags, a user, a group, licences, dates, is_commons"
            )
        for kind in ("upload", "taken"):
            first, last = self.moment(f"min_{kind}_date"), self.moment(f"max_{kind}_date")
            if first and last and first > last:
                raise ValueError(f"min_{kind}_date is later than max_{kind}_date: there can be no such photos")

    @property
    def name(self) -> str:
        """The same for the same search, however it was written."""
        return f"flickr:search?{urlencode(sorted(self.parameters().items()))}"

    def moment(self, name: str) -> datetime | None:
        """The date of that name as a moment; ValueError for what is no ISO date."""
        text = getattr(self, name)
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{name}: {text!r} is no date such as 2020-01-31 or 2020-01-31T12:00:00") from None
        if name.startswith("max") and len(text) <= len("2020-01-31"):
            moment = datetime.combine(moment, time(23, 59, 59))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def parameters(self) -> dict[str, str]:
        """What photos.search is asked; users and groups as they were given, which it wants as NSIDs."""
        uploaded = {name: self.moment(name) for name in ("min_upload_date", "max_upload_date")}
        taken = {name: self.moment(name) for name in ("min_taken_date", "max_taken_date")}
        asked = {
            "text": self.text,
            "tags": ",".join(sorted(set(self.tags))),
            "tag_mode": self.tag_mode if self.tag_mode == "all" and len(self.tags) > 1 else None,
            "user_id": self.user,
            "group_id": self.group,
            "license": ",".join(str(number) for number in sorted(set(self.licenses))),
            "is_commons": "1" if self.is_commons else None,
            "media": self.media,
            **{name: str(int(moment.timestamp())) for name, moment in uploaded.items() if moment},
            **{name: moment.strftime("%Y-%m-%d %H:%M:%S") for name, moment in taken.items() if moment},
        }
        return {name: value for name, value in asked.items() if value}

    def window(self, now: datetime) -> tuple[int, int]:
        """First and last second of upload, Unix time, both inclusive. Without a last one it is now."""
        first, last = self.moment("min_upload_date"), self.moment("max_upload_date")
        oldest = int(first.timestamp()) if first else FIRST
        return oldest, max(oldest, int((last or now).timestamp()))


@dataclass
class Windows:
    """Iterate over it for the pages of a search, each with only the rows not met before.

    `ask` takes the number of a page, and as `min_upload_date` and `max_upload_date` a window in Unix seconds, both ends
    inclusive. The whole is asked first. A window that counts more photos than the cap, or whose walk met it, is halved,
    down to a second. After `limit` photos it is over.
    """

    ask: Callable[..., Page]
    oldest: int
    newest: int  # fixed when the listing starts, so that uploads meanwhile change nothing
    limit: int | None = None
    cap: int = CAP
    seen: set[str] = field(default_factory=set)  # ids
    total: int | None = None  # of the whole, as Flickr said first
    halved: int = 0  # windows
    gave_up: bool = False
    lacking: list[str] = field(default_factory=list)  # why not all can have been seen
    unusable: int = 0  # rows without an id

    def __iter__(self) -> Iterator[Page]:
        yield from self._window(self.oldest, self.newest)

    def _window(self, oldest: int, newest: int) -> Iterator[Page]:
        if self.gave_up:
            return
        walk = Walk(lambda number: self.ask(number, min_upload_date=oldest, max_upload_date=newest), rereads=0)
        for page in walk:
            if (page.total or 0) > self.cap and oldest < newest:
                break
            new = fresh(page, self.seen, self.limit)
            if new.rows:
                yield new
            if self._full():
                break
        self.total = walk.total if self.total is None else self.total
        if self._full():
            return
        if (walk.total or 0) <= self.cap and len(walk.seen) < self.cap:
            self.unusable += walk.unusable
            if walk.oddity:
                self.lacking.append(f"{walk.oddity}, {_period(oldest, newest)}")
        elif self._may_halve(oldest, newest):
            self.halved += 1
            middle = (oldest + newest) // 2
            yield from self._window(oldest, middle)
            if not self._full():
                yield from self._window(middle + 1, newest)

    def _may_halve(self, oldest: int, newest: int) -> bool:
        if oldest >= newest:
            self.lacking.append(f"more than {self.cap} photos {_period(oldest, newest)}, of which Flickr shows no more")
            return False
        # Of one halving after the other, no more windows than this can hold more than the cap; else the counts are
        # wrong, and following them would never end.
        self.gave_up = self.halved >= DEPTH * (1 + max(self.total or 0, len(self.seen)) // self.cap)
        if self.gave_up:
            self.lacking.insert(0, "gave up dividing the search: Flickr's counts contradict each other")
        return not self.gave_up

    def _full(self) -> bool:
        return self.limit is not None and len(self.seen) >= self.limit

    def listing(self) -> Listing:
        """What the search, now over, came to."""
        notes = self.lacking[:3] + ([f"{len(self.lacking) - 3} more such windows"] if len(self.lacking) > 3 else [])
        if self._full():
            notes.append(f"stopped at the limit of {self.limit}")
        elif len(self.seen) != self.total:
            notes.append(f"{len(self.seen)} photos where Flickr counts {self.total}")
        if self.unusable:
            notes.append(f"{self.unusable} entries without an id")
        return Listing(
            complete=self._full() or not self.lacking,
            total=self.total,
            seen=len(self.seen),
            note="; ".join(notes) or None,
            limited=self._full(),
        )


def _period(oldest: int, newest: int) -> str:
    first, last = (datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for second in (oldest, newest))
    return f"uploaded at {first}" if oldest == newest else f"uploaded from {first} to {last}"
