"""The files of an export, made part by part: what would come out the same is left as it is.

What an earlier export held and this one does not is listed in `removed.parquet`, so that whoever copied that one knows
what to delete.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import rollup, schemas, storage
from pipeline.export.selection import Selection

MADE = b"tintype"  # key of what a file was made of, in its footer
REMOVED = pa.schema([("photo_id", pa.string()), ("removed_at", schemas.MOMENT), ("reason", pa.string())])


@dataclass(frozen=True)
class Files:
    """The numbered Parquet files of an export: `<folder>/<prefix>000000.parquet`."""

    folder: str
    prefix: str

    def url(self, part: int) -> str:
        return storage.join(self.folder, f"{self.prefix}{part:06d}.parquet")

    def made_of(self) -> dict[int, str]:
        """Part → what the footer of its file says it was made of, for the files that are there."""
        names = (re.fullmatch(rf"{self.prefix}(\d{{6,}})\.parquet", name) for name in storage.names(self.folder))
        found = {}
        for part in (int(name[1]) for name in names if name):
            with storage.open_file(self.url(part)) as file:
                found[part] = pq.read_metadata(file).metadata.get(MADE, b"").decode()
        return found

    def photo_ids(self, part: int) -> list[str]:
        with storage.open_file(self.url(part)) as file:
            return pq.read_table(file, columns=["photo_id"])["photo_id"].to_pylist()


def carry_out(
    selection: Selection, kind: str, out: str, files: Files, write: Callable[[int, np.ndarray, str], None]
) -> dict[str, Any]:
    """Bring the files of an export to what the selection asks for; returns what `tintype export --json` prints.

    `write(part, row ids, what it is made of)` writes one; it is called for those that are missing or differ.
    """
    wanted = _made_of(selection, kind)
    held = files.made_of()
    changed = [part for part, made in held.items() if wanted.get(part) != made]
    removed = _write_removals(selection, out, [photo_id for part in changed for photo_id in files.photo_ids(part)])
    for part in held.keys() - wanted.keys():
        storage.delete(files.url(part))
    missing = [part for part in wanted if part in changed or part not in held]
    chosen = selection.parts()
    for part in missing:
        write(part, chosen[part], wanted[part])
    return {
        "export": out,
        "kind": kind,
        "build": selection.build.card["build"],
        "photos": len(selection.row_ids),
        "parts": {"written": len(missing), "kept": len(wanted) - len(missing)},
        "left_out": selection.left_out,
        "removed": removed,
    }


def _made_of(selection: Selection, kind: str) -> dict[int, str]:
    """Part → a hash of all that its file follows from."""
    archive = selection.build.archive
    sources = [rollup.receipts(archive, archive.table(name)) for name in ("images", selection.embeddings)]
    found = {}
    for part, row_ids in selection.parts().items():
        digest = hashlib.sha256(json.dumps([kind, *(source[part]["write_id"] for source in sources)]).encode())
        digest.update(json.dumps(selection.facts(row_ids).to_pylist(), default=str).encode())
        found[part] = digest.hexdigest()
    return found


def _write_removals(selection: Selection, out: str, held: list[str]) -> int:
    """Enter into `removed.parquet` which of the photos that an earlier export held are not to leave any more.

    This comes before their files change, so that no photo goes without a word. Returns how many are new there.
    """
    wanted = set(selection.facts(selection.row_ids, ["row_id", "photo_id"])["photo_id"].to_pylist())
    forgotten, now = selection.build.archive.forgotten(), datetime.now(UTC)
    gone = [
        {"photo_id": photo_id, "removed_at": now, "reason": "forgotten" if photo_id in forgotten else "not selected"}
        for photo_id in sorted(set(held) - wanted)
    ]
    url = storage.join(out, "removed.parquet")
    before: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError), storage.open_file(url) as file:
        before = pq.read_table(file).to_pylist()
    anew = wanted.union(row["photo_id"] for row in gone)
    rows = [row for row in before if row["photo_id"] not in anew] + gone
    if rows != before:
        put(url, [pa.Table.from_pylist(rows, REMOVED)], REMOVED)
    return len(gone)


def put(url: str, tables: Iterable[pa.Table], schema: pa.Schema, made: str = "") -> None:
    """Write a Parquet file, a row group a table, whatever was there."""
    with storage.scratch(url) as path:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table.select(schema.names).cast(schema))
            writer.add_key_value_metadata({MADE: made})
        storage.replace(url, path)
