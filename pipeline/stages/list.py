"""list: what a source says → rows of `photos`, each photo once however often and by however many runs it is listed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline import schemas
from pipeline.archive import Archive
from pipeline.photo import Photo
from pipeline.sources import Listing, Source


def photo_rows(photos: Sequence[Photo], part: int) -> pa.Table:
    """The rows of a photos part: schemas.PHOTOS."""
    now = datetime.now(UTC)
    rows = []
    for photo, row_id in zip(photos, schemas.row_ids(part, len(photos)).to_pylist(), strict=True):
        row = {name: getattr(photo, name) for name in schemas.PHOTOS.names if hasattr(photo, name)}
        row |= {
            "row_id": row_id,
            "license_id": photo.rights.license_id,
            "license_name": photo.rights.license_name,
            "license_url": photo.rights.license_url,
            "rights_observed_at": photo.rights.observed_at,
            "sizes": [{"url": size.url, "width": size.width, "height": size.height} for size in photo.sizes],
            "attempt": 1,
            "listed_at": now,
        }
        rows.append(row)
    return pa.Table.from_pylist(rows, schemas.PHOTOS)


@dataclass
class Known:
    """Ids that need no listing: those in committed parts, by whichever run, and the forgotten."""

    archive: Archive
    ids: set[str] = field(default_factory=set)
    parts: set[int] = field(default_factory=set)

    def refresh(self) -> None:
        table = self.archive.table("photos")
        for part in table.parts():
            if part not in self.parts:
                self.ids.update(table.read(part, ["photo_id"])["photo_id"].to_pylist())
                self.parts.add(part)


def list_source(archive: Archive, source: Source, part_size: int) -> Iterator[dict[str, Any]]:
    """List one source; yields the receipt of each photos part as it is committed.

    A part is committed when it is full and more is known to follow, so that the last one always carries
    `{complete, total, seen}` in its footer. A listing that finds nothing new writes nothing, unless the one before
    was incomplete: then an empty part says that all has now been seen.
    """
    known = Known(archive)
    known.ids.update(archive.forgotten())
    known.refresh()
    waiting: list[Photo] = []
    pages = source.photos(known.ids)
    while True:
        try:
            page = next(pages)
        except StopIteration as stop:
            listing: Listing = stop.value
            break
        waiting += [photo for photo in page if photo.photo_id not in known.ids]
        while len(waiting) > part_size:
            yield from _commit(known, source, waiting[:part_size], {"complete": False})
            waiting = waiting[part_size:]
    said = {"complete": listing.complete, "total": listing.total, "seen": listing.seen, "note": listing.note}
    if waiting or (listing.complete and not was_complete(archive, source.name)):
        yield from _commit(known, source, waiting, said)


def _commit(known: Known, source: Source, photos: list[Photo], said: dict[str, Any]) -> Iterator[dict[str, Any]]:
    receipt: dict[str, Any] = {"source": source.name, **said}

    def build(part: int) -> pa.Table | None:
        known.refresh()  # another run may list the same source just now
        new = [photo for photo in photos if photo.photo_id not in known.ids]
        return photo_rows(new, part) if new or not photos else None

    part = known.archive.table("photos").append(build, receipt, schemas.PHOTOS)
    if part is not None:
        known.refresh()
        yield receipt


def was_complete(archive: Archive, source: str) -> bool:
    """Whether the last listing of a source saw all of it; False where it was never listed."""
    last = last_listing(archive, source)
    return bool(last and last["complete"])


def last_listing(archive: Archive, source: str) -> dict[str, Any] | None:
    """Receipt of the newest photos part of a source."""
    table = archive.table("photos")
    for part in reversed(table.parts()):
        receipt = table.receipt(part)
        if receipt.get("source") == source:
            return receipt
    return None
