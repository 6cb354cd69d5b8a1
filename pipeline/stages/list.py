"""list: what a source says → rows of `photos`, each photo once however often and by however many runs it is listed."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas
from pipeline.archive import Archive
from pipeline.photo import Photo
from pipeline.sources import Listing, Source

WHOLE = 2


def photo_rows(photos: Sequence[Photo], part: int, attempts: Mapping[str, int] | None = None) -> pa.Table:
    """The rows of a photos part: schemas.PHOTOS. `attempts` by photo id, where it is not the first."""
    now = datetime.now(UTC)
    attempts = attempts or {}
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
            "attempt": attempts.get(photo.photo_id, 1),
            "listed_at": now,
        }
        rows.append(row)
    return pa.Table.from_pylist(rows, schemas.PHOTOS)


@dataclass
class Known:
    """Ids that need no listing: those in committed parts, by whichever run, and the forgotten.

    `newest`: the last upload that the source's rows tell of.
    """

    archive: Archive
    source: str
    ids: set[str] = field(default_factory=set)
    newest: datetime | None = None
    parts: set[int] = field(default_factory=set)

    def refresh(self) -> None:
        self.ids.update(self.archive.forgotten())
        table = self.archive.table("photos")
        for part in table.parts():
            if part not in self.parts:
                rows = table.read(part, ["photo_id", "source", "uploaded_at"])
                self.ids.update(rows["photo_id"].to_pylist())
                uploads = rows.filter(pc.equal(rows["source"], self.source))["uploaded_at"]
                self.newest = max(filter(None, (self.newest, pc.max(uploads).as_py())), default=None)
                self.parts.add(part)


def list_source(archive: Archive, source: Source, part_size: int) -> Iterator[dict[str, Any]]:
    """List what one source has that is new; yields the receipt of each photos part as it is committed.

    A listing that broke off and brought nothing new is told by a receipt of no part.
    """
    known = Known(archive, source.name)
    known.refresh()
    whole = standing(last_listing(archive, source.name)) == WHOLE
    before = len(known.parts)
    listing = yield from record(known, source.photos(known.ids, known.newest if whole else None), part_size)
    if not listing.complete and len(known.parts) == before:
        yield {"table": "listing", "source": source.name, "rows": 0, "note": listing.note}


def record(
    known: Known, pages: Generator[list[Photo], None, Listing], part_size: int
) -> Generator[dict[str, Any], None, Listing]:
    """Commit the photos of these pages that are not known; yields the receipt of each part as it is committed.

    A part is committed when it is full and more is known to follow, so that the last one always carries
    `{complete, total, seen}` in its footer. A listing that finds nothing new writes nothing, unless the one before
    was incomplete: then an empty part says that all has now been seen.
    """
    waiting: list[Photo] = []
    while True:
        try:
            page = next(pages)
        except StopIteration as stop:
            listing: Listing = stop.value
            break
        waiting += [photo for photo in page if photo.photo_id not in known.ids]
        while len(waiting) > part_size:
            yield from _commit(known, waiting[:part_size], {"complete": False})
            waiting = waiting[part_size:]
    said = asdict(listing)
    if waiting or standing(said) > standing(last_listing(known.archive, known.source)):
        yield from _commit(known, waiting, said)
    return listing


def _commit(known: Known, photos: list[Photo], said: dict[str, Any]) -> Iterator[dict[str, Any]]:
    receipt: dict[str, Any] = {"source": known.source, **said}

    def build(part: int) -> pa.Table | None:
        known.refresh()  # another run may list the same source just now
        new = [photo for photo in photos if photo.photo_id not in known.ids]
        return photo_rows(new, part) if new or not photos else None

    part = known.archive.table("photos").append(build, receipt, schemas.PHOTOS)
    if part is not None:
        known.refresh()
        yield receipt


def standing(listing: Mapping[str, Any] | None) -> int:
    """How much a listing saw of its source: not all that was asked for, all of that, or all there is (WHOLE)."""
    if listing is None or not listing["complete"]:
        return 0
    return 1 if listing.get("limited") else WHOLE


def last_listing(archive: Archive, source: str) -> dict[str, Any] | None:
    """Receipt of the newest photos part of a source."""
    table = archive.table("photos")
    for part in reversed(table.parts()):
        receipt = table.receipt(part)
        if receipt.get("source") == source:
            return receipt
    return None
