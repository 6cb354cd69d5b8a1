"""What an archive holds and lacks, and how fast that changes: the figures behind `tintype status`."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline import builds, rollup, storage
from pipeline.archive import Archive
from pipeline.rollup import Receipt
from pipeline.stages import index

WINDOW_S = 600  # that a rate looks back


def status(archive: Archive) -> dict[str, Any]:
    """`{"archive", "photos": {…}, "failures": {reason: n}, "tables": {…}, "listings": {source: …}, "indexes": {…}}`.

    A contract: see docs/tables.md. `photos` counts each photo once, by its last outcome; `tables` count rows.
    """
    seen = {name: rollup.receipts(archive, archive.table(name)) for name in archive.tables()}
    photos, failures = rollup.photos(archive, seen.get("images", {}))
    return {
        "archive": archive.url,
        "photos": {key: photos[key] for key in ("live", "gone", "failed", "forgotten")},
        "failures": dict(failures.most_common()),
        "tables": {name: table_status(name, seen) for name in seen},
        "listings": listings(seen.get("photos", {})),
        "indexes": {name: index_status(archive, name) for name in storage.names(storage.join(archive.url, "index"))},
    }


def table_status(name: str, seen: Mapping[str, Mapping[int, Receipt]]) -> dict[str, Any]:
    """Parts, rows, what is pending, and outcomes by kind, of one of the tables, from the receipts of all."""
    receipts = seen[name]
    source = {"photos": {}, "images": seen.get("photos", {})}.get(name, seen.get("images", {}))
    said: dict[str, Any] = {
        "parts": len(receipts),
        "rows": sum(receipt["rows"] for receipt in receipts.values()),
        "pending": len(source.keys() - receipts.keys()),
        "outcomes": dict(sum((Counter(receipt.get("outcomes", {})) for receipt in receipts.values()), Counter[str]())),
    }
    rate = photos_per_second(receipts.values())
    if rate:
        said["photos_per_s"] = round(rate, 3)
    waiting = device_waiting(receipts.values())
    if waiting is not None:
        said["device_waiting"] = round(waiting, 3)
    precisions = {receipt.get("precision") for receipt in receipts.values()} - {None}
    if precisions:
        said["precisions"] = sorted(precisions)
    return said


def photos_per_second(receipts: Iterable[Receipt], now: datetime | None = None) -> float | None:
    """How fast parts of a table are being made, by when the last ones were written; None where none was of late."""
    now = now or datetime.now(UTC)
    recent = []
    for receipt in receipts:
        if "written_at" in receipt:
            age = (now - datetime.fromisoformat(receipt["written_at"])).total_seconds()
            recent += [(age, receipt["rows"])] if age <= WINDOW_S else []
    if len(recent) < 2:
        return None
    # The first of them only tells when the others began: its own beginning is not known.
    oldest = max(recent)
    return (sum(rows for _, rows in recent) - oldest[1]) / max(oldest[0], 1.0)


def device_waiting(receipts: Iterable[Receipt]) -> float | None:
    """The share of its time that the device waited for pictures, over all parts; None where no device was used."""
    spent: Counter[str] = Counter()
    for receipt in receipts:
        seconds = receipt.get("seconds", {})
        spent.update({phase: seconds.get(phase, 0.0) for phase in ("waiting", "embedding", "captioning")})
    busy = spent["embedding"] + spent["captioning"]
    return spent["waiting"] / (spent["waiting"] + busy) if busy else None


def listings(photos: Mapping[int, Receipt]) -> dict[str, Any]:
    """source → what its last listing said: complete, total, seen, note."""
    last = {receipt["source"]: receipt for receipt in photos.values() if "source" in receipt}
    return {name: {key: last[name].get(key) for key in ("complete", "total", "seen", "note")} for name in sorted(last)}


def index_status(archive: Archive, of: str) -> dict[str, Any]:
    """The live build of an index, and whether building again would change it."""
    card = builds.current(archive, of)
    if card is None:
        return {"build": None}
    shown = {key: card[key] for key in ("build", "rows", "kind", "recall")}
    return {**shown, "fresh": index.is_fresh(archive, card)}
