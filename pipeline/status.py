"""What an archive holds and lacks: the figures behind `tintype status`."""

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.archive import Archive, Table
from pipeline.stages import index
from pipeline.stages.list import last_listing


def status(archive: Archive) -> dict[str, Any]:
    """`{"archive", "photos": {…}, "failures": {reason: n}, "tables": {…}, "listings": {source: …}, "indexes": {…}}`.

    A contract: see docs/tables.md. `photos` counts each photo once, by its last outcome; `tables` count rows.
    """
    images, forgotten = archive.table("images"), archive.forgotten()
    last = last_outcomes(images)
    gone = {photo_id for photo_id, facts in archive.changes().items() if facts.get("visible") is False}
    outcomes: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for photo_id, outcome, reason in last:
        if photo_id in forgotten:
            continue
        outcomes["gone" if photo_id in gone else outcome] += 1
        if reason is not None:
            failures[reason] += 1
    tables = {name: table_status(archive, name) for name in archive.tables()}
    return {
        "archive": archive.url,
        "photos": {
            "live": outcomes["fetched"],
            "gone": outcomes["gone"],
            "failed": outcomes["failed"],
            "forgotten": len(forgotten),
        },
        "failures": dict(failures.most_common()),
        "tables": tables,
        "listings": listings(archive),
        "indexes": {name: index_status(archive, name) for name in storage.names(storage.join(archive.url, "index"))},
    }


def last_outcomes(images: Table) -> list[tuple[str, str, str | None]]:
    """(photo id, outcome, reason) of each photo: `fetched` if it ever was, else its last row's."""
    parts = [images.read(part, ["row_id", "photo_id", "outcome", "reason"]) for part in images.parts()]
    if not parts:
        return []
    rows = pa.concat_tables(parts)
    fetched = pc.equal(rows["outcome"], "fetched")
    rows = rows.append_column("fetched", fetched).sort_by([("fetched", "ascending"), ("row_id", "ascending")])
    latest = {photo_id: i for i, photo_id in enumerate(rows["photo_id"].to_pylist())}
    rows = rows.take(list(latest.values()))
    return list(zip(*(rows[name].to_pylist() for name in ("photo_id", "outcome", "reason")), strict=True))


def table_status(archive: Archive, name: str) -> dict[str, Any]:
    """Parts, rows, what is pending, and outcomes by kind, of one table; from listings and receipts alone."""
    table = archive.table(name)
    source = {"photos": None, "images": "photos"}.get(name, "images")
    rows, outcomes, precisions = 0, Counter[str](), set()
    for receipt in receipts(archive, table):
        rows += receipt["rows"]
        outcomes.update(receipt.get("outcomes", {}))
        precisions.add(receipt.get("precision"))
    said: dict[str, Any] = {
        "parts": len(table.parts()),
        "rows": rows,
        "pending": len(table.pending(archive.table(source))) if source else 0,
        "outcomes": dict(outcomes),
    }
    if precisions - {None}:
        said["precisions"] = sorted(precisions - {None})
    return said


KEPT = ("rows", "outcomes", "precision", "seconds")


def receipts(archive: Archive, table: Table) -> list[dict[str, Any]]:
    """The receipts of a table's parts, through a roll-up in reports/ that saves opening every part again.

    The roll-up is a cache: parts never change, so it is only ever added to, and deleting it costs time alone.
    """
    url = storage.join(archive.url, "reports", "rollup-" + table.name.replace("/", "-") + ".json")
    try:
        kept = json.loads(storage.read(url))
    except FileNotFoundError:
        kept = {}
    parts = [str(part) for part in table.parts()]
    missing = [part for part in parts if part not in kept]
    for part in missing:
        receipt = table.receipt(int(part))
        kept[part] = {key: receipt[key] for key in KEPT if key in receipt}
    if missing:
        storage.replace(url, json.dumps(kept).encode())
    return [kept[part] for part in parts]


def listings(archive: Archive) -> dict[str, Any]:
    """source → what its last listing said: complete, total, seen, note."""
    photos = archive.table("photos")
    names: set[str] = set()
    for part in photos.parts():
        names.update(filter(None, photos.read(part, ["source"])["source"].to_pylist()))
    found = {}
    for name in sorted(names):
        said = last_listing(archive, name) or {}
        found[name] = {key: said.get(key) for key in ("complete", "total", "seen", "note")}
    return found


def index_status(archive: Archive, of: str) -> dict[str, Any]:
    """The live build of an index, and whether building again would change it."""
    card = index.current(archive, of)
    if card is None:
        return {"build": None}
    shown = {key: card[key] for key in ("build", "rows", "kind", "recall")}
    return {**shown, "fresh": index.is_fresh(archive, card)}
