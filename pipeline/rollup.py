"""What the receipts of an archive's parts come to, without opening each part again.

A roll-up in reports/ keeps of each receipt what status, index and plan ask for. It is a cache: parts do not change, so
it is only ever added to, and deleting it costs time alone.
"""

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline import schemas, storage
from pipeline.archive import Archive, Table

Receipt = dict[str, Any]

KEPT = (
    *("table", "part", "write_id", "rows", "outcomes", "reasons", "exceptions"),
    *("bytes", "seconds", "precision", "device"),
    *("written_at", "source", "complete", "total", "seen", "note", "limited", "forgotten"),
)
OPENED = 32  # footers at a time: at an object store each is a request or two


def receipts(archive: Archive, table: Table) -> dict[int, Receipt]:
    """Part → what is kept of its receipt, for the parts that are there, ascending."""
    kept = _read(archive, table.name)
    parts = table.parts()
    missing = [part for part in parts if str(part) not in kept]
    if missing:
        with ThreadPoolExecutor(OPENED) as pool:
            kept |= zip(map(str, missing), pool.map(lambda part: _opened(archive, table, part), missing), strict=True)
        _write(archive, table.name, kept)
    return {part: kept[str(part)] for part in parts}


def keep(archive: Archive, done: Iterable[Receipt]) -> None:
    """Add receipts that are at hand, as a run has them, so that nobody needs to open those parts."""
    by_table: dict[str, dict[str, Receipt]] = {}
    for receipt in done:
        by_table.setdefault(receipt["table"], {})[str(receipt["part"])] = receipt
    for name, new in by_table.items():
        _write(archive, name, _read(archive, name) | new)


def lose(archive: Archive, name: str, parts: Iterable[int]) -> None:
    """Drop what is kept of parts that were rewritten."""
    kept = _read(archive, name)
    _write(archive, name, {part: receipt for part, receipt in kept.items() if int(part) not in set(parts)})


def _url(archive: Archive, name: str) -> str:
    return storage.join(archive.url, "reports", "rollup-" + name.replace("/", "-") + ".json")


def _read(archive: Archive, name: str) -> dict[str, Receipt]:
    try:
        return json.loads(storage.read(_url(archive, name)))
    except FileNotFoundError:
        return {}


def _write(archive: Archive, name: str, kept: dict[str, Receipt]) -> None:
    storage.spare(_url(archive, name), json.dumps(kept, separators=(",", ":")).encode())


def shortened(receipt: Receipt) -> Receipt:
    """What a roll-up keeps of a receipt."""
    return {key: receipt[key] for key in KEPT if key in receipt}


def _opened(archive: Archive, table: Table, part: int) -> Receipt:
    receipt = table.receipt(part)
    if table.name == "images" and "exceptions" not in receipt:  # another program wrote it
        receipt |= _counted(archive, part)
    return shortened(receipt)


def _counted(archive: Archive, part: int) -> Receipt:
    """What fetch writes into the receipt of an images part, from its rows."""
    rows = archive.table("images").read(part, ["photo_id", "outcome", "reason"])
    attempts = archive.table("photos").read(part, ["attempt"])
    found = [
        [row["photo_id"], attempt or 1, row["outcome"], row["reason"]]
        for row, attempt in zip(rows.to_pylist(), attempts["attempt"].to_pylist(), strict=True)
    ]
    return {
        "outcomes": dict(Counter(outcome for _, _, outcome, _ in found)),
        "exceptions": [row for row in found if row[2] != "fetched" or row[1] > 1],
    }


def photos(archive: Archive, images: dict[int, Receipt]) -> tuple[Counter[str], Counter[str]]:
    """Each photo counted once: (live, gone, failed, forgotten; failures by reason).

    A photo is live if it was ever fetched and is neither gone nor forgotten, else what its last row says.
    """
    outcomes = sum((Counter(receipt["outcomes"]) for receipt in images.values()), Counter[str]())
    rows: dict[str, list[tuple[int, str, str | None]]] = {}
    for receipt in images.values():
        for photo_id, attempt, outcome, reason in receipt["exceptions"]:
            rows.setdefault(photo_id, []).append((attempt, outcome, reason))
            outcomes[outcome] -= 1
    # What is left of `outcomes` is photos fetched at once; of some of them later attempts are among the exceptions.
    last: dict[str, tuple[str, str | None]] = {}
    for photo_id, seen in rows.items():
        at_once = seen[0][0] > 1
        fetched = at_once or any(outcome == "fetched" for _, outcome, _ in seen)
        last[photo_id] = ("fetched", None) if fetched else seen[-1][1:]
        outcomes[last[photo_id][0]] += not at_once
    forgotten = archive.forgotten()
    for photo_id, row_id in (archive.gone() | forgotten).items():
        if photo_id in last or schemas.part_of(row_id)[0] in images:  # else it was never fetched
            outcomes[last.get(photo_id, ("fetched", None))[0]] -= 1
            outcomes["gone"] += photo_id not in forgotten
    reasons = Counter(reason for photo_id, (_, reason) in last.items() if reason and photo_id not in forgotten)
    said = {"live": outcomes["fetched"], "gone": outcomes["gone"], "failed": outcomes["failed"]}
    return Counter(said | {"forgotten": len(forgotten)}), reasons
