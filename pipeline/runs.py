"""What runs did: a record of each in reports/runs/, for reports and for whoever asks later. Nothing depends on them."""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline import __version__, storage
from pipeline.archive import Archive
from pipeline.photo import UserError
from pipeline.rollup import Receipt

log = logging.getLogger(__name__)

Record = dict[str, Any]


@contextlib.contextmanager
def recorded(archive: Archive, run: str, steps: Sequence[str], *, refresh: bool, runner: str) -> Iterator[Record]:
    """Keep a record of the run in the block, however it ends; see docs/tables.md for its keys.

    The block adds what was done, by `add` and `index`. One that did nothing, and was meant to, leaves no record.
    """
    began = datetime.now(UTC)
    record: Record = {
        "run": run,
        "command": "refresh" if refresh else steps[0] if len(steps) == 1 else "run",
        "steps": list(steps),
        "runner": runner,
        "tintype": __version__,
        "started_at": began.isoformat(timespec="seconds"),
    }
    ended = "done"
    try:
        yield record
    except KeyboardInterrupt:
        ended = "stopped"
        raise
    except BaseException as error:
        ended = f"error: {error}" if isinstance(error, UserError) else f"error: {type(error).__name__}"
        raise
    finally:
        now = datetime.now(UTC)
        record |= {"ended_at": now.isoformat(timespec="seconds"), "seconds": round((now - began).total_seconds(), 3)}
        record["ended"] = ended
        if ended != "done" or record.get("rows") or record.get("failed_parts") or record.get("index"):
            url = storage.join(archive.url, "reports", "runs", f"{run}.json")
            try:
                storage.spare(url, json.dumps(record, ensure_ascii=False).encode())
            except OSError as error:  # what ended the run, or that it is done, is more than its record
                log.warning("the record of this run could not be kept: %s", error)


def add(record: Record, receipts: Iterable[Receipt], failed: Iterable[Any]) -> None:
    """Add to a record what the parts of a run came to; `failed`: those given up, as work.Failure."""
    rows, parts, devices = Counter[str](), Counter[str](), Counter[str]()
    outcomes, reasons = Counter[str](), Counter[str]()
    phases: dict[str, Counter[str]] = {}
    fetched = 0
    for receipt in receipts:
        table = receipt["table"]
        rows[table] += receipt["rows"]
        parts[table] += 1
        phases.setdefault(table, Counter()).update(receipt.get("seconds", {}))
        if table == "images":
            outcomes.update(receipt.get("outcomes", {}))
            reasons.update(receipt.get("reasons", {}))
            fetched += receipt.get("bytes", 0)
        if "device" in receipt:
            devices[f"{receipt['device']} {receipt['precision']}"] += 1
    record |= {
        "rows": dict(rows),
        "parts": dict(parts),
        "outcomes": dict(outcomes),
        "reasons": dict(reasons),
        "bytes": fetched,
        "phases": {table: {name: round(s, 3) for name, s in spent.items()} for table, spent in phases.items() if spent},
        "devices": dict(devices),
        "failed_parts": [{"stage": one.stage, "part": one.part, "error": one.error} for one in failed],
    }


def all_of(archive: Archive, last: int | None = None) -> list[Record]:
    """The records of an archive's runs, or of so many last ones, oldest first. Raises UserError for a damaged one."""
    folder = storage.join(archive.url, "reports", "runs")
    names = sorted(name for name in storage.names(folder) if name.endswith(".json"))
    return [_read(storage.join(folder, name)) for name in (names[-last:] if last else names)]


def _read(url: str) -> Record:
    try:
        record = json.loads(storage.read(url))
        if not isinstance(record, dict):
            raise ValueError("not a record")
    except (ValueError, RecursionError) as error:
        raise UserError(f"the record of a run in {url} is damaged; delete it") from error
    return record
