"""What runs did and cost: from the records in reports/runs, and from the receipts of all parts."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline import rollup, runs
from pipeline.archive import Archive
from pipeline.rollup import Receipt

SHOWN = 50  # the last ones
STAGES = {"photos": "list", "images": "fetch", "hashes": "hash"}  # what makes a table; annotate all others
BUSY = ("embedding", "captioning")  # a device at work
WRITING = "writing"  # the one phase that tables made together do not share


def last(archive: Archive) -> list[dict[str, Any]]:
    """The last runs, the latest first; see `_told`. Raises UserError for a damaged record."""
    return [_told(record) for record in reversed(runs.all_of(archive, SHOWN))]


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a run, with photos a second of wall time, seconds by stage and phase, the device's share.

    Stages overlap, so that each one's rate is what this run made of it in all its time.
    """
    rows: Counter[str] = Counter()
    for table, number in (record.get("rows") or {}).items():
        if stage(table) != "?":
            rows[stage(table)] = max(rows[stage(table)], number)
    seconds, fetched = record.get("seconds"), record.get("bytes") or 0
    tables = [(name, {"seconds": phases}) for name, phases in (record.get("phases") or {}).items()]
    index = record.get("index") or {}
    phases = by_phase(tables) | ({"index": index["seconds"]} if index.get("seconds") else {})
    kept = ("run", "command", "started_at", "ended_at", "seconds", "ended", "runner", "outcomes", "reasons")
    return {key: record.get(key) for key in kept} | {
        "rows": {name: number for name, number in rows.items() if number},
        "photos_per_s": {name: round(number / seconds, 3) for name, number in rows.items() if seconds and number},
        "phases": phases,
        "device_busy": device_busy(phases),
        "devices": record.get("devices") or {},
        "bytes": fetched,
        "bytes_per_s": round(fetched / seconds) if seconds else None,
        "failed_parts": record.get("failed_parts") or [],
    }


def so_far(archive: Archive) -> dict[str, Any]:
    """What all runs did, as the receipts of the parts that are there say: rows, seconds by stage and phase, bytes."""
    seen = {name: rollup.receipts(archive, archive.table(name)) for name in archive.tables()}
    rows: Counter[str] = Counter()
    ran: set[tuple[str, int]] = set()
    for name, receipts in seen.items():
        rows[stage(name)] = max(rows[stage(name)], sum(receipt["rows"] for receipt in receipts.values()))
        for part, receipt in receipts.items():
            ran.add((" ".join(filter(None, (receipt.get("device"), receipt.get("precision")))), part))
    by_part: dict[str, list[tuple[str, Receipt]]] = {}
    for name, receipts in seen.items():
        for part, receipt in receipts.items():
            by_part.setdefault(f"{stage(name)} {part}", []).append((name, receipt))
    phases: dict[str, Counter[str]] = {}
    for tables in by_part.values():
        for name, seconds in by_phase(tables).items():
            phases.setdefault(name, Counter()).update(seconds)
    spent = {name: {phase: round(value, 3) for phase, value in found.items()} for name, found in phases.items()}
    device_s = sum(spent.get("annotate", {}).get(phase, 0.0) for phase in (*BUSY, "waiting"))
    # Labels that were asked for later had the photos pass the device again.
    passes = {
        (part, *shared(receipt)): receipt["rows"]
        for name, receipts in seen.items()
        if stage(name) == "annotate"
        for part, receipt in receipts.items()
        if any((receipt.get("seconds") or {}).get(phase) for phase in BUSY)
    }
    return {
        "rows": dict(rows),
        "phases": spent,
        "device_busy": device_busy(spent),
        "photos_per_device_s": round(sum(passes.values()) / device_s, 3) if device_s else None,
        "devices": dict(Counter(name for name, _ in sorted(ran) if name)),
        "bytes": sum(receipt.get("bytes") or 0 for receipt in seen.get("images", {}).values()),
    }


def stage(table: str) -> str:
    """The stage that makes a table; "?" for logs such as `changes`, which none does."""
    kind, _, name = table.partition("/")
    return STAGES.get(kind, "annotate" if name else "?")


def shared(receipt: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The phases that a part of a table has in common with those made in the same pass, with their seconds."""
    return sorted((name, s) for name, s in (receipt.get("seconds") or {}).items() if name != WRITING)


def by_phase(tables: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Seconds by stage and phase of tables with what their receipts say; tables made together are counted once."""
    spent: dict[str, Counter[str]] = {}
    known: set[tuple[Any, ...]] = set()
    for name, receipt in tables:
        seconds = receipt.get("seconds") or {}
        if not seconds:
            continue
        found = spent.setdefault(stage(name), Counter())
        found.update({WRITING: seconds[WRITING]} if WRITING in seconds else {})
        made = (stage(name), *shared(receipt))
        if made not in known:
            known.add(made)
            found.update(dict(shared(receipt)))
    return {name: dict(found) for name, found in spent.items()}


def device_busy(phases: Mapping[str, Mapping[str, float]]) -> float | None:
    """The share of its time that the device worked and did not wait for pictures; None where none was used."""
    spent = phases.get("annotate", {})
    busy = sum(spent.get(phase, 0.0) for phase in BUSY)
    return round(busy / (busy + spent.get("waiting", 0.0)), 3) if busy else None
