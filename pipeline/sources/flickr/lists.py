"""Addresses on Flickr in a text file, one a line, and the photos of all of them."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline import storage
from pipeline.photo import UserError
from pipeline.sources import Listing
from pipeline.sources.flickr.address import Address, SinglePhoto, parse_url
from pipeline.sources.flickr.ask import leads_nowhere
from pipeline.sources.flickr.client import Refused
from pipeline.sources.flickr.parse import Page
from pipeline.sources.flickr.search import Windows
from pipeline.sources.flickr.walk import Walk, fresh

NAMED = 3  # addresses that a note names; of more it tells the number

_PHOTO = re.compile(r"(?:flickr:)?([0-9]+)")


def read_list(path: str) -> dict[Address, str]:
    """Address → how the file has it, each once; `path` is a local path or any fsspec URL.

    A line is an address on flickr.com, or a photo's number, bare or as `flickr:2179931434`. Empty lines are passed
    over, and what stands behind a # at the start of a line or after a space. Raises UserError naming a wrong line.
    """
    try:
        lines = storage.read(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {path}: {getattr(error, 'strerror', None) or error}") from error
    found: dict[Address, str] = {}
    for number, line in enumerate(lines, start=1):
        text = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not text:
            continue
        photo = _PHOTO.fullmatch(text)
        try:
            found.setdefault(SinglePhoto(photo[1]) if photo else parse_url(text), text)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    if not found:
        raise UserError(f"the list {path} names no photos: write addresses on flickr.com into it, one a line")
    return found


@dataclass
class Several:
    """Iterate over it for the pages of many addresses, one after the other, each with only the rows not met before.

    Addresses that Flickr refuses are told in the listing: they say nothing against the others.
    """

    addresses: Mapping[Address, str]
    walk: Callable[[Address], Walk | Windows]  # may raise Refused, as may what it brings
    limit: int | None = None
    seen: set[str] = field(default_factory=set)  # ids
    nowhere: list[str] = field(default_factory=list)  # addresses refused
    notes: list[str] = field(default_factory=list)  # of listings
    complete: bool = True

    def __iter__(self) -> Iterator[Page]:
        for address, text in self.addresses.items():
            try:
                walk = self.walk(address)
                for page in walk:
                    new = fresh(page, self.seen, self.limit)
                    if new.rows:
                        yield new
                    if self._full():
                        return
            except Refused as refused:
                if not leads_nowhere(refused):
                    raise
                self.nowhere.append(text)
                continue
            listing = walk.listing()
            self.complete = self.complete and listing.complete
            if listing.note:
                self.notes.append(f"{text}: {listing.note}")

    def _full(self) -> bool:
        return self.limit is not None and len(self.seen) >= self.limit

    def listing(self) -> Listing:
        """What the walks, now over, came to. Nobody counts the photos of a list: `total` is None."""
        notes = self.notes[:NAMED]
        if len(self.notes) > NAMED:
            notes.append(f"notes on {len(self.notes) - NAMED} more addresses")
        if self.nowhere:
            named = ", ".join(self.nowhere[:NAMED]) + (", …" if len(self.nowhere) > NAMED else "")
            notes.append(f"{len(self.nowhere)} of {len(self.addresses)} addresses lead nowhere: {named}")
        if self._full():
            notes.append(f"stopped at the limit of {self.limit}")
        return Listing(
            complete=self.complete or self._full(),
            total=None,
            seen=len(self.seen),
            note="; ".join(notes) or None,
            limited=self._full(),
        )
