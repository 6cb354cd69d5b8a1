"""forget: photos taken out for good, at once from every answer, then from every byte of the archive.

First their ids are written to `forgotten/`, which searches, listings and fetches heed from that moment on. Then their
rows are blanked in the derived tables, in images and in photos, in that order, so that what says where they are goes
last; their changes go, and the index builds that hold them. Each step can be taken again: where it was killed, `finish`
ends the work, and so does every run that indexes.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import builds, rollup, schemas, storage
from pipeline.archive import Archive, Table
from pipeline.photo import UserError
from pipeline.stages import index
from pipeline.stages.fill import sweep

log = logging.getLogger(__name__)

LOOKS = 5  # for what is left to blank
NOWHERE = -1  # row id of a photo that the archive does not hold
MARKS = {"outcome": "gone", "detail": "forgotten", "problem": "forgotten"}  # what a blanked row says, by column
KEY = ("row_id", "photo_id")

Receipt = dict[str, Any]


@dataclass
class Removed:
    """What `finish` did."""

    rows: Counter[str] = field(default_factory=Counter)  # by table
    rebuilt: list[str] = field(default_factory=list)  # indexes
    builds: int = 0  # deleted


def find(archive: Archive, owner: str) -> list[str]:
    """Ids of the photos whose owner has, or had, this name or id. Raises UserError where there is none."""
    photos = archive.table("photos")
    parts = [photos.read(part, ["photo_id", "owner", "owner_id"]) for part in photos.parts()]
    if not parts:
        raise UserError(f"{archive.url} holds no photos yet")
    rows = pa.concat_tables(parts)
    changed = {
        photo_id
        for photo_id, facts in archive.changes().items()
        if owner in [facts[name].value for name in ("owner", "owner_id") if name in facts]
    }
    renamed = pa.array(sorted(changed), pa.string())
    named = (pc.field("owner") == owner) | (pc.field("owner_id") == owner) | pc.field("photo_id").isin(renamed)
    theirs = rows.filter(named)
    # The same account under another name, as it was when other photos were listed.
    same = rows.filter(pc.field("owner_id").isin(theirs["owner_id"].drop_null().combine_chunks()))
    found = {*theirs["photo_id"].to_pylist(), *same["photo_id"].to_pylist()}
    if not found:
        raise UserError(f"no photo of {archive.url} has the owner {owner!r}")
    return sorted(found)


def forget(archive: Archive, photo_ids: Iterable[str], reason: str) -> list[str]:
    """Write ids to `forgotten/`; those of them that the archive does not hold, and now never will.

    From here on no search shows these photos, and no listing, fetch or refresh asks for them. `finish` takes out what
    is held of them.
    """
    asked = sorted(set(photo_ids))
    last = {photo_id: row_id for row_id, photo_id in rows_of(archive, asked).items()}
    table = archive.table("forgotten")

    def build(_: int) -> pa.Table | None:
        there = archive.forgotten()
        facts = {"forgotten_at": datetime.now(UTC), "reason": reason}
        rows = [{"row_id": last.get(p, NOWHERE), "photo_id": p, **facts} for p in asked if p not in there]
        return pa.Table.from_pylist(rows, schemas.FORGOTTEN) if rows else None

    table.append(build, {}, schemas.FORGOTTEN)
    return [photo_id for photo_id in asked if photo_id not in last]


def rows_of(archive: Archive, photo_ids: Collection[str]) -> dict[int, str]:
    """row id → photo id of every row of `photos` that speaks of these, ascending."""
    photos, wanted = archive.table("photos"), pa.array(sorted(photo_ids), pa.string())
    found: dict[int, str] = {}
    for part in photos.parts():
        rows = photos.read(part, list(KEY))
        rows = rows.filter(pc.is_in(rows["photo_id"], value_set=wanted))
        found |= dict(zip(rows["row_id"].to_pylist(), rows["photo_id"].to_pylist(), strict=True))
    return found


def finish(archive: Archive) -> Removed:
    """Take out all that is still held of forgotten photos. Where there are none it costs one listing."""
    removed = Removed()
    if archive.forgotten():
        blank(archive, removed)
        renew(archive, removed)
        storage.sweep(archive.url, builds.ORPHAN.total_seconds())
        sweep(archive, older_than=timedelta(0))
    return removed


def blank(archive: Archive, removed: Removed | None = None) -> None:
    """Blank the rows of the forgotten in every table, but for their ids, and drop their changes.

    It looks again until nothing is left: another `forget` may write a part back that it read before.
    """
    for _ in range(LOOKS):
        forgotten = archive.forgotten()
        rewritten = _blank(archive, forgotten.keys()) if forgotten else None
        if not rewritten:
            return
        if removed:
            removed.rows.update(rewritten)


def _blank(archive: Archive, forgotten: Collection[str]) -> Counter[str]:
    """As `blank`, once; how many rows were blanked by table."""
    # Found by their ids, since a listing under way may add a row of a photo after it was forgotten.
    rows: dict[int, set[int]] = {}
    for row_id in rows_of(archive, forgotten):
        part, row = schemas.part_of(row_id)
        rows.setdefault(part, set()).add(row)
    blanked: Counter[str] = Counter()
    for name in reversed(archive.tables()) if rows else ():
        table, done = archive.table(name), []
        receipts = rollup.receipts(archive, table)
        for part in sorted(rows.keys() & receipts.keys()):
            left = rows[part] - set(receipts[part].get("forgotten", ()))
            if left:
                _blank_part(table, part, rows[part])
                done.append(part)
                blanked[name] += len(left)
        if done:
            rollup.lose(archive, name, done)
    _drop_changes(archive, set(forgotten))
    return blanked


def _blank_part(table: Table, part: int, rows: set[int]) -> None:
    """Rewrite a part with these rows blank, and a receipt that says so."""
    receipt = table.receipt(part)
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    ids: list[str] = []
    first = 0

    def change(group: pa.Table) -> pa.Table:
        nonlocal first
        here = np.isin(np.arange(first, first + group.num_rows), list(rows))
        first += group.num_rows
        ids.extend(group["photo_id"].filter(pa.array(here)).to_pylist())
        if here.any():
            group = _blanked(group, here)
        if "outcome" in group.column_names:
            outcomes.update(group["outcome"].to_pylist())
            reasons.update(group["reason"].drop_null().to_pylist())
        elif "problem" in group.column_names:
            outcomes.update(problem or "annotated" for problem in group["problem"].to_pylist())
        if first == receipt["rows"]:
            receipt.update(_told(receipt, outcomes, reasons, ids), forgotten=sorted(rows))
        return group

    table.rewrite(part, change, receipt)


def _blanked(group: pa.Table, here: np.ndarray) -> pa.Table:
    """A row group, with nothing but ids left in the rows `here`, bool[n]."""
    left = pa.array(np.arange(group.num_rows), mask=here)  # to take what is at null gives null, of whatever type
    for i, column in enumerate(group.schema):
        if column.name not in KEY:
            values = group[column.name].take(left)
            if column.name in MARKS:
                values = pc.if_else(pa.array(here), MARKS[column.name], values)
            group = group.set_column(i, column, values)
    return group


def _told(receipt: Receipt, outcomes: Counter[str], reasons: Counter[str], ids: list[str]) -> Receipt:
    """What the receipt says of outcomes, now that the photos of these ids have none any more."""
    told: Receipt = {"outcomes": dict(outcomes)} if outcomes else {}
    if "exceptions" in receipt:
        kept = [row for row in receipt["exceptions"] if row[0] not in ids]
        attempts = {row[0]: row[1] for row in receipt["exceptions"]}
        told["reasons"] = dict(reasons)
        told["exceptions"] = kept + [[photo_id, attempts.get(photo_id, 1), "gone", None] for photo_id in ids]
    return told


def _drop_changes(archive: Archive, photo_ids: set[str]) -> None:
    table, unwanted = archive.table("changes"), pa.array(sorted(photo_ids), pa.string())
    for part in table.parts():
        held = pc.is_in(table.read(part, ["photo_id"])["photo_id"], value_set=unwanted)
        if pc.any(held).as_py():
            receipt = table.receipt(part) | {"rows": pc.sum(pc.invert(held)).as_py()}
            table.rewrite(
                part, lambda group: group.filter(pc.invert(pc.is_in(group["photo_id"], value_set=unwanted))), receipt
            )


def renew(archive: Archive, removed: Removed | None = None) -> None:
    """Build anew the indexes that may hold forgotten photos, and delete the builds that do.

    Where nothing is left to index, the index goes.
    """
    removed = removed or Removed()
    if not archive.table("forgotten").parts():
        return
    for of in storage.names(storage.join(archive.url, "index")):
        before = len(builds.all_of(archive, of))
        card = builds.current(archive, of)
        if card is not None and not _knows(archive, card):
            try:
                index.build(archive, index.settings_of(card), update=True)
                removed.rebuilt.append(of)
                before += 1
            except UserError as error:
                # Nothing is left to index, or it cannot be made as it was. What is there shows what was forgotten.
                if not isinstance(error, index.NothingToIndex):
                    log.warning("the index %s holds forgotten photos and is deleted: %s", of, error)
                storage.delete(storage.join(builds.folder(archive, of), "CURRENT"))
        prune(archive, of)
        removed.builds += before - len(builds.all_of(archive, of))


def prune(archive: Archive, of: str) -> None:
    """Delete the builds of an index that may hold forgotten photos and are not in use.

    So are those without a card: a run was killed at them, unless they are new.
    """
    cards = {name: builds.whole_card(archive, of, name) for name in builds.all_of(archive, of)}
    spared = {(builds.current(archive, of) or {}).get("build")}
    # What others stand on holds none of them, or they would not be grown from it.
    spared |= {card.get("base") for name, card in cards.items() if card and (name in spared or _knows(archive, card))}
    for name, card in cards.items():
        if name in spared:
            continue
        if not _knows(archive, card) if card else builds.made_at(name) < datetime.now(UTC) - builds.ORPHAN:
            builds.remove(archive, of, name)


def _knows(archive: Archive, card: dict[str, Any]) -> bool:
    """Whether a build was made when all that is forgotten now was forgotten already."""
    return set(map(str, archive.table("forgotten").parts())) <= card["parts"]["forgotten"].keys()
