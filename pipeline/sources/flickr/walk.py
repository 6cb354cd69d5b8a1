"""A walk over the pages of a stream, which may shift, repeat or end early under the walker's feet."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from pipeline.sources import Listing
from pipeline.sources.flickr.parse import Page, photo_number

REREADS = 20  # of page 1: a stream that brings news each time would keep us for ever


def fresh(page: Page, seen: set[str], limit: int | None) -> Page:
    """The page with only the photos whose ids are not in `seen`, to which they are added until it holds `limit`."""
    rows = []
    for row in page.rows:
        number = photo_number(row)
        if number is not None and number not in seen and (limit is None or len(seen) < limit):
            seen.add(number)
            rows.append(row)
    return replace(page, rows=rows)


@dataclass
class Walk:
    """Iterate over it for the pages that `ask` brings, from 1 on, each with only the rows not met before, in order.

    Flickr may answer a page past the end, or one in the middle, with another page, or go on for ever; so the walk ends
    at the first page that is not the one asked for or brings no new photo. Uploads meanwhile push photos to later pages
    and come in front: page 1 is read again until it brings nothing new. After `limit` photos the walk is over.
    """

    ask: Callable[[int], Page]
    limit: int | None = None
    rereads: int = REREADS
    seen: set[str] = field(default_factory=set)  # ids
    total: int | None = None  # as Flickr said last
    finished: bool = False  # the last page was reached, in order
    unusable: int = 0  # rows without an id
    oddity: str | None = None  # why the walk ended before the last page
    enough: str | None = None  # why whoever walks may end it, all that was asked for having been seen

    def __iter__(self) -> Iterator[Page]:
        number = 0
        while not (self.finished or self.oddity or self._full()):
            number += 1
            page = self.ask(number)
            if page.number not in (number, None):
                self.oddity = f"asked for page {number}, Flickr sent page {page.number}"
                break
            self.total = page.total
            fresh = self._fresh(page)
            if fresh.rows:
                yield fresh
            elif page.total != 0:
                self.oddity = f"page {number} of {page.pages} brought nothing new"
            self.finished = self.oddity is None and number >= page.pages
        if number > 1:
            yield from self._news()

    def _news(self) -> Iterator[Page]:
        for _ in range(self.rereads):
            if self._full():
                return
            fresh = self._fresh(self.ask(1))
            if not fresh.rows:
                return
            yield fresh

    def _fresh(self, page: Page) -> Page:
        self.unusable += sum(photo_number(row) is None for row in page.rows)
        return fresh(page, self.seen, self.limit)

    def _full(self) -> bool:
        return self.limit is not None and len(self.seen) >= self.limit

    def listing(self) -> Listing:
        """What the walk, now over, came to. A limit reached is complete: everything asked for was seen."""
        notes = [why for why in (self.oddity, self.enough) if why]
        if self._full():
            notes.append(f"stopped at the limit of {self.limit}")
        elif not self.enough and len(self.seen) != self.total:
            notes.append(f"{len(self.seen)} photos where Flickr counts {self.total}")
        if self.unusable:
            notes.append(f"{self.unusable} entries without an id")
        return Listing(
            complete=self.finished or self._full() or self.enough is not None,
            total=self.total,
            seen=len(self.seen),
            note="; ".join(notes) or None,
            limited=self._full(),
        )
