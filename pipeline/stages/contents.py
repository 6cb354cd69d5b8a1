"""What goes into an index build: which rows, their vectors, and what is said of them."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schemas, storage
from pipeline.archive import Archive, Table, rows_in
from pipeline.changes import Change
from pipeline.facts import SOUGHT
from pipeline.indexes import exact

GROUP_ROWS = 20_000  # of photos.parquet: at a million rows, groups of a thousand make a footer of megabytes

# What photos.parquet of a build holds beside the columns of `Archive.live`.
CAPTION = pa.schema(
    [
        ("caption", pa.string()),  # written by a machine, unless `caption_by` names a person
        ("caption_model", pa.string()),
        ("caption_logprob", pa.float32()),
        ("caption_cosine", pa.float32()),
        ("caption_by", pa.string()),
    ]
)
LABELS = pa.schema([schemas.LABELS.field("labels"), ("labels_model", pa.string())])
OBJECTS = pa.schema([schemas.OBJECTS.field("objects"), ("objects_model", pa.string())])
SAID = pa.schema([*CAPTION, *LABELS, *OBJECTS])
LOGS = ("changes", "forgotten")  # tables that are read whole
# By whatever else makes a table, Arrow looks for pandas, and each command would take a second more to start.
EMPTY = pa.Table.from_batches([], pa.schema([("row_id", pa.int64()), ("photo_id", pa.string())]))


@dataclass(frozen=True)
class Contents:
    """The rows of a build, or what is new of them since a base."""

    keys: pa.Table  # row_id and photo_id, by row id
    changes: Mapping[str, Mapping[str, Change]]  # the archive's
    not_annotated: int  # live photos in parts without vectors: they are not in the build
    masked: np.ndarray  # row ids of the base that hold no longer, int64[n], ascending

    @property
    def row_ids(self) -> np.ndarray:
        return self.keys["row_id"].to_numpy()

    def parts(self) -> list[int]:
        return np.unique(self.row_ids >> schemas.ROW_BITS).tolist()


def everything(archive: Archive, embedded: Collection[int]) -> Contents:
    """All live photos, of the parts that have vectors."""
    changes = archive.changes()
    live = archive.live_keys(changes)
    keys = _of_parts(live, embedded)
    return Contents(keys, changes, live.num_rows - keys.num_rows, np.empty(0, np.int64))


def since(
    archive: Archive, base: pa.Table, before: Mapping[str, Collection[int]], embedded: Collection[int]
) -> Contents:
    """What is new since a base build of these rows (row_id, photo_id), which was made of the parts `before` by table.

    Photos in new parts, or with new changes, are taken up anew; the rows that the base has of them are masked, and so
    are those of photos gone or forgotten. Only parts that such photos are in are read.
    """
    changes = archive.changes()
    told = archive.changes(without=before["changes"])
    new = {part for name in before if name not in LOGS for part in _new_parts(archive, name, before[name])}
    new |= set(archive.table("images").parts()) - set(embedded)
    visible = {photo_id: facts["visible"].value for photo_id, facts in told.items() if "visible" in facts}
    edited = base["row_id"].to_numpy()[_isin(base["photo_id"], told)] if told else np.empty(0, np.int64)
    back = {photo_id for photo_id, seen in visible.items() if seen}
    parts = new.union((edited >> schemas.ROW_BITS).tolist(), _parts_of(archive, back))
    live = archive.live_keys(changes, parts) if parts else EMPTY
    row_ids = live["row_id"].to_numpy()
    touched = np.isin(row_ids >> schemas.ROW_BITS, sorted(new)) | _isin(live["photo_id"], told)
    gone = {photo_id for photo_id, seen in visible.items() if not seen}
    hidden = {*gone, *archive.forgotten()}
    base = base.filter(pa.array(_isin(base["photo_id"], {*live["photo_id"].to_pylist(), *hidden})))
    # A part that is read for one photo's sake may hold older rows of others, which the base knows better.
    place = pc.fill_null(pc.index_in(live["photo_id"], value_set=base["photo_id"]), -1).to_numpy()
    held = np.where(place >= 0, base["row_id"].to_numpy()[place], -1) if base.num_rows else place
    live = live.filter(pa.array(touched & (row_ids >= held)))
    keys = _of_parts(live, embedded)
    masked = _isin(base["photo_id"], {*live["photo_id"].to_pylist(), *hidden})
    return Contents(keys, changes, live.num_rows - keys.num_rows, base["row_id"].to_numpy()[masked])


def _new_parts(archive: Archive, name: str, before: Collection[int]) -> set[int]:
    return set(archive.table(name).parts()) - set(before)


def _parts_of(archive: Archive, photo_ids: Collection[str]) -> Iterator[int]:
    """Parts of `images` that hold a row of one of these photos."""
    images = archive.table("images")
    known = images.parts() if photo_ids else []
    for part, rows in zip(known, storage.ahead(lambda part: images.read(part, ["photo_id"]), known), strict=True):
        if _isin(rows["photo_id"], photo_ids).any():
            yield part


def _isin(values: pa.ChunkedArray, wanted: Collection[str]) -> np.ndarray:
    return pc.is_in(values, value_set=pa.array(sorted(wanted), pa.string())).to_numpy()


def _of_parts(keys: pa.Table, parts: Collection[int]) -> pa.Table:
    return keys.filter(pa.array(np.isin(keys["row_id"].to_numpy() >> schemas.ROW_BITS, sorted(parts))))


@dataclass(frozen=True)
class Vectors:
    """Vectors of rows of one part, those that have one: unit vectors float32[n, dim], and as stored, float16."""

    row_ids: np.ndarray
    photo_ids: pa.ChunkedArray
    stored: np.ndarray
    problems: list[str]  # why the others have none

    @property
    def unit(self) -> np.ndarray:
        return exact.unit(self.stored)


def vectors(embeddings: Table, row_ids: np.ndarray) -> Iterator[Vectors]:
    """The vectors of these rows, int64[n], ascending, part by part."""
    parts = np.unique(row_ids >> schemas.ROW_BITS).tolist()
    yield from storage.ahead(lambda part: read_vectors(embeddings, part, rows_in(row_ids, part)), parts)


def read_vectors(embeddings: Table, part: int, row_ids: np.ndarray) -> Vectors:
    rows = embeddings.take(part, row_ids, ["photo_id", "embedding", "problem"])
    valid = pc.is_valid(rows["embedding"])
    problems = rows["problem"].filter(pc.invert(valid)).to_pylist()
    rows = rows.filter(valid)
    dim = rows.schema.field("embedding").type.list_size
    stored = rows["embedding"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, dim)
    return Vectors(rows["row_id"].to_numpy(), rows["photo_id"], stored, problems)


def write_photos(archive: Archive, contents: Contents, said: Mapping[str, str], path: Path) -> None:
    """Write photos.parquet: facts and rights of the rows, and what the tables `said` say, by row id."""
    tables = {kind: archive.table(f"{kind}/{name}") for kind, name in said.items()}
    there = {kind: set(table.parts()) for kind, table in tables.items()}
    corrected = {photo_id: facts["caption"] for photo_id, facts in contents.changes.items() if "caption" in facts}

    def read(part: int) -> pa.Table:
        row_ids = rows_in(contents.row_ids, part)
        rows = archive.facts(part, row_ids, contents.changes)
        telling = {kind: table for kind, table in tables.items() if part in there[kind]}
        written = _captions(telling.get("captions"), part, row_ids)
        written = _corrected(rows["photo_id"].to_pylist(), written, corrected)
        labels = _machines(telling.get("labels"), "labels", LABELS, part, row_ids)
        objects = _machines(telling.get("objects"), "objects", OBJECTS, part, row_ids)
        columns = [*rows.columns, *written.columns, *labels.columns, *objects.columns]
        return pa.table(columns, schema=pa.schema([*rows.schema, *SAID]))

    waiting: list[pa.Table] = []
    # Of a base that only lost photos nothing is new: the file has its columns all the same.
    parts: Sequence[int] = contents.parts() or archive.table("images").parts()[:1]
    schema = read(parts[0]).schema
    if "objects" in tables:
        sought = (tables["objects"].identity() or {}).get("queries", [])
        schema = schema.with_metadata({SOUGHT: json.dumps(sought)})
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for rows in storage.ahead(read, parts):
            waiting.append(rows)
            if sum(table.num_rows for table in waiting) >= GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def _captions(captions: Table | None, part: int, row_ids: np.ndarray) -> pa.Table:
    """The machine's captions of rows of one part; nulls where there are none yet."""
    if captions is None:
        return CAPTION.empty_table().take(pa.nulls(len(row_ids), pa.int64()))
    found = captions.take(part, row_ids, ["caption", "model", "logprob", "cosine"])
    found = found.drop_columns(["row_id"]).append_column("by", pa.nulls(found.num_rows, pa.string()))
    return found.rename_columns(CAPTION.names).cast(CAPTION)


def _machines(table: Table | None, what: str, schema: pa.Schema, part: int, row_ids: np.ndarray) -> pa.Table:
    """The labels, or objects, of rows of one part; nulls where there are none yet."""
    if table is None:
        return schema.empty_table().take(pa.nulls(len(row_ids), pa.int64()))
    found = table.take(part, row_ids, [what, "model"])
    return found.drop_columns(["row_id"]).rename_columns(schema.names).cast(schema)


def _corrected(photo_ids: list[str], written: pa.Table, corrected: Mapping[str, Change]) -> pa.Table:
    """Captions, with people's own in the place of the machine's."""
    words = {row: corrected[photo_id] for row, photo_id in enumerate(photo_ids) if photo_id in corrected}
    if not words:
        return written
    rows: list[dict[str, Any]] = written.to_pylist()
    for row, word in words.items():
        rows[row] = dict.fromkeys(CAPTION.names) | {"caption": word.value, "caption_by": word.by}
    return pa.Table.from_pylist(rows, CAPTION)


def commit(here: str, path: Path) -> int:
    """Commit a file of a build under its own name; its bytes."""
    size = path.stat().st_size
    storage.create(storage.join(here, path.name), path)
    return size
