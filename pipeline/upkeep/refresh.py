"""refresh: what a source says now, held against what the archive knows: news, edits, new pictures, removals, returns.

Facts that changed are rows of `changes`, with when they were seen; a picture that was replaced is a new row of
`photos`, to be fetched. Only a listing that saw the whole source can tell that a photo is not there, and only the
source itself, asked about that photo, that it is gone.
"""

import json
from collections import Counter
from collections.abc import Callable, Container, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas
from pipeline.archive import Archive
from pipeline.changes import gone, overlaid
from pipeline.photo import Photo
from pipeline.sources import Listing, Source
from pipeline.stages.list import WHOLE, Known, photo_rows, record, standing
from pipeline.upkeep.forget import forget, rows_of

# What makes a row of `changes` when it changes. Views, counts and the time of the last update alone do not.
FACTS = ("title", "description", "tags", "machine_tags", "human_captions", "date_taken", "date_granularity", "latitude",
         "longitude", "owner", "owner_id", "page_url", "media")  # fmt: skip
LICENSE = ("id", "name", "url")

Receipt = dict[str, Any]
Row = dict[str, Any]


def refresh_source(archive: Archive, source: Source, part_size: int) -> Iterator[Receipt]:
    """List a source in full and follow it.

    Yields the receipt of each photos part committed, and last that of what changed: its `counts` say how many photos
    were edited, relicensed, replaced, found gone or back, or forgotten since they are gone.
    """
    known = Known(archive, source.name)
    known.refresh()
    compared = Compared(held(archive, source.name), archive.forgotten())
    listing = yield from record(known, compared.pages(source.photos(frozenset())), part_size)
    # First, since a new row holds the facts as they are now: the next refresh would see no change.
    _log(archive, compared)
    if compared.replaced:
        yield from _ask_again(archive, compared, part_size)
    if standing({"complete": listing.complete, "limited": listing.limited}) == WHOLE:
        compared.miss(source.is_gone)
        _part(archive, source, compared)
    counts = {name: count for name, count in compared.counts.items() if count}
    told = {"table": "changes", "source": source.name, "note": listing.note, "counts": counts}
    yield told | {"rows": compared.logged}


def held(archive: Archive, source: str) -> dict[str, Row]:
    """photo_id → what the archive knows of each photo that came from this source: its last row, as changed since.

    `gone` says whether it was last seen to be.
    """
    table = archive.table("photos")
    columns = ["row_id", "photo_id", "source", "rights_observed_at", "attempt", "sizes", *FACTS]
    columns += [f"license_{key}" for key in LICENSE]
    parts = [table.read(part, columns) for part in table.parts()]
    if not parts:
        return {}
    rows = pa.concat_tables(parts)
    rows = rows.filter(pc.equal(rows["source"], source))
    last = rows.group_by("photo_id").aggregate([("row_id", "max")])["row_id_max"]
    changes = archive.changes()
    away = gone(changes)
    rows = overlaid(rows.filter(pc.is_in(rows["row_id"], value_set=last)), changes)
    return {row["photo_id"]: row | {"gone": row["photo_id"] in away} for row in rows.to_pylist()}


@dataclass
class Compared:
    """What a relisting comes to, photo by photo."""

    held: Mapping[str, Row]
    forgotten: Container[str]
    seen: set[str] = field(default_factory=set)
    replaced: dict[str, Photo] = field(default_factory=dict)
    changes: list[Row] = field(default_factory=list)
    gone: list[Row] = field(default_factory=list)  # of `held`, whether they are since now or were before
    logged: int = 0  # changes
    counts: Counter[str] = field(default_factory=Counter)

    def pages(self, pages: Generator[list[Photo], None, Listing]) -> Generator[list[Photo], None, Listing]:
        """Pass the pages on, and look at those of their photos that the archive holds."""
        while True:
            try:
                page = next(pages)
            except StopIteration as stop:
                return stop.value
            for photo in page:
                if photo.photo_id in self.held and photo.photo_id not in self.forgotten:
                    self.look(photo, self.held[photo.photo_id])
            yield page

    def look(self, photo: Photo, row: Row) -> None:
        self.seen.add(photo.photo_id)
        now = photo.rights.observed_at
        facts = {name: _plain(getattr(photo, name)) for name in FACTS}
        edited = [name for name in FACTS if facts[name] != row[name]]
        for name in edited:
            self._change(row, name, facts[name], now)
        self.counts["edited"] += bool(edited)
        licence = {key: getattr(photo.rights, f"license_{key}") for key in LICENSE}
        if any(row[f"license_{key}"] != value for key, value in licence.items()):
            self._change(row, "license", licence, now)
            self.counts["relicensed"] += 1
        if row["gone"]:
            self._change(row, "visible", True, now)
            self.counts["back"] += 1
        if _is_replaced({size["url"] for size in row["sizes"] or ()}, {size.url for size in photo.sizes}):
            self.replaced[photo.photo_id] = photo
            self.counts["replaced"] += 1

    def miss(self, is_gone: Callable[[str], bool]) -> None:
        """Ask after each photo that a whole listing did not show."""
        for photo_id, row in self.held.items():
            if photo_id in self.seen or photo_id in self.forgotten:
                continue
            if row["gone"]:
                self.gone.append(row)
            elif is_gone(photo_id):
                self._change(row, "visible", False, datetime.now(UTC))
                self.gone.append(row)
                self.counts["gone"] += 1
            else:
                self.counts["listed no more"] += 1  # taken out of an album, or overlooked: it is public all the same

    def _change(self, row: Row, name: str, value: Any, observed_at: datetime) -> None:
        key = {"row_id": row["row_id"], "photo_id": row["photo_id"]}
        self.changes.append(
            {**key, "field": name, "value": json.dumps(value), "observed_at": observed_at, "by": "source"}
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _is_replaced(before: set[str], now: set[str]) -> bool:
    """Whether there is another picture now, or one where there was none.

    Flickr gives a new picture new secrets in all its addresses, of which some are kept whatever else happens.
    """
    return bool(now) and before.isdisjoint(now)


def _ask_again(archive: Archive, compared: Compared, part_size: int) -> Iterator[Receipt]:
    """Append the replaced pictures to `photos`, to be fetched; once, even if another run sees the same."""
    waiting = list(compared.replaced.values())
    for start in range(0, len(waiting), part_size):
        some = waiting[start : start + part_size]

        def build(part: int, some: list[Photo] = some) -> pa.Table | None:
            last = {photo_id: row_id for row_id, photo_id in rows_of(archive, [p.photo_id for p in some]).items()}
            forgotten = archive.forgotten()
            held = {p.photo_id: compared.held[p.photo_id] for p in some}
            new = [p for p in some if last[p.photo_id] == held[p.photo_id]["row_id"] and p.photo_id not in forgotten]
            attempts = {photo_id: row["attempt"] + 1 for photo_id, row in held.items()}
            return photo_rows(new, part, attempts) if new else None

        receipt: Receipt = {"replaced": len(some)}
        if archive.table("photos").append(build, receipt, schemas.PHOTOS) is not None:
            yield receipt


def _part(archive: Archive, source: Source, compared: Compared) -> None:
    """Forget those of the photos gone that the source has forgotten, then log that the others are gone.

    The forgotten leave no change behind: a refresh that is killed in between finds the others again.
    """
    parting = {row["photo_id"] for row in compared.gone if source.forgets(row["license_id"])}
    compared.counts["forgotten"] += len(parting)
    if parting:
        forget(archive, parting, f"gone from {source.name}")
    compared.changes = [change for change in compared.changes if change["photo_id"] not in parting]
    _log(archive, compared)


def _log(archive: Archive, compared: Compared) -> None:
    """Commit the changes seen so far."""
    if compared.changes:
        rows = pa.Table.from_pylist(compared.changes, schemas.CHANGES)
        archive.table("changes").append(lambda _: rows, {}, schemas.CHANGES)
        compared.logged += len(compared.changes)
        compared.changes = []
