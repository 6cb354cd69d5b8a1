"""index: live rows → a build (index, facts, words, card) → recall measured → CURRENT switched.

A build is a folder that never changes; readers keep theirs while CURRENT moves on to the next. Vectors are read part by
part, so that only FAISS ever holds them all.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import builds, indexes, rollup, schemas, storage, words
from pipeline.archive import Archive, Change, Table, versions
from pipeline.indexes import flat
from pipeline.indexes.recall import recall
from pipeline.photo import UserError

RECALL_QUERIES = 1000
RECALL_SEED = 0

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


class NothingToIndex(UserError):
    """There are live photos, or none, but no vector of one."""


@dataclass(frozen=True)
class IndexSettings:
    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    of: str | None = None
    """The embeddings table to index; to be named only where there are several."""
    captions: str | None = None
    """The captions table whose captions the hits show; to be named only where there are several."""
    kind: Literal["auto", "flat"] = "auto"
    """`flat` compares a query with every vector: exact. So does `auto`, so far."""


def build(archive: Archive, settings: IndexSettings) -> tuple[dict[str, Any], bool]:
    """Index the live photos and switch to that build: (its card, True). Nothing changed: (the current card, False).

    Raises UserError where there is nothing to index, or where the settings do not say which of several tables.
    """
    of = _choose(archive, "embeddings", settings.of, "index.of")
    captions = _choose(archive, "captions", settings.captions, "index.captions")
    if of is None:
        raise UserError(f"{archive.url} has no embeddings yet; `tintype annotate CONF` makes them")
    made_of = _made_of(archive, of, captions)
    card = builds.current(archive, of)
    if card is not None and _is_made_of(card, made_of):
        return card, False
    return _build(archive, of, captions, made_of), True


def is_fresh(archive: Archive, card: dict[str, Any]) -> bool:
    """Whether building again, of the same tables, would give what the build of this card holds."""
    captions = card["captions"]["table"] if card["captions"] else None
    return _is_made_of(card, _made_of(archive, card["of"], captions))


def _choose(archive: Archive, kind: str, name: str | None, setting: str) -> str | None:
    """The name of the embeddings or captions table asked for, else of the only one there is, else None."""
    there = [table.removeprefix(f"{kind}/") for table in archive.tables() if table.startswith(f"{kind}/")]
    if name is None and len(there) > 1:
        raise UserError(f"{archive.url} has {kind} {', '.join(there)}: choose with --set {setting}=builds.NAME")
    if name is not None and name not in there:
        raise UserError(f"{archive.url} has no {kind} {name!r} yet; `tintype annotate CONF` makes them")
    return name or next(iter(there), None)


def _made_of(archive: Archive, of: str, captions: str | None) -> dict[str, Any]:
    """Everything that a build follows from: what is equal here builds alike."""
    embeddings = archive.table(f"embeddings/{of}")
    captioned = archive.table(f"captions/{captions}") if captions else None
    tables = [archive.table(name) for name in ("images", "changes", "forgotten")] + [embeddings]
    tables += [captioned] if captioned else []
    return {
        "format": builds.FORMAT,
        "of": of,
        "kind": "flat",  # the only kind: `auto` need not choose
        "identity": embeddings.identity(),
        "captions": {"table": captions, "identity": captioned.identity()} if captioned else None,
        "parts": {
            t.name: {str(p): receipt["write_id"] for p, receipt in rollup.receipts(archive, t).items()} for t in tables
        },
    }


def _is_made_of(card: dict[str, Any], made_of: dict[str, Any]) -> bool:
    return all(card.get(key) == value for key, value in made_of.items())


def _build(archive: Archive, of: str, captions: str | None, made_of: dict[str, Any]) -> dict[str, Any]:
    created_at = datetime.now(UTC)
    name = f"{created_at:{builds.NAME}}-{secrets.token_hex(2)}"
    here = builds.folder(archive, of, name)
    embeddings = archive.table(f"embeddings/{of}")
    parts = [int(part) for part in made_of["parts"][embeddings.name]]

    start = perf_counter()
    everything = archive.live().replace_schema_metadata(None)
    live = everything.filter(pa.array(np.isin(everything["row_id"].to_numpy() >> schemas.ROW_BITS, parts)))
    row_ids = live["row_id"].to_numpy()
    read = perf_counter()

    problems: dict[str, int] = {}
    index = flat.build(_vectors(embeddings, parts, row_ids, problems), made_of["identity"]["dim"])
    if index.ntotal == 0:
        raise NothingToIndex(
            f"none of the {len(row_ids)} live photos has a vector in {embeddings.name}: nothing to index"
        )
    added = perf_counter()
    measured = _measure(index, embeddings, parts, row_ids)
    recalled = perf_counter()
    corrected = {photo_id: facts["caption"] for photo_id, facts in archive.changes().items() if "caption" in facts}
    captioned = archive.table(f"captions/{captions}") if captions else None
    sizes = _write_photos(here, live, parts, captioned, corrected) | {"index.faiss": _write_index(here, index)}
    written = perf_counter()

    seconds = {"live": read - start, "add": added - read, "recall": recalled - added, "write": written - recalled}
    card = made_of | {
        "build": name,
        "photos": live.num_rows,  # rows of photos.parquet
        "rows": index.ntotal,  # those of them that have a vector
        "problems": problems,  # why the others have none
        "not_annotated": everything.num_rows - live.num_rows,  # live, but in parts without vectors: not in the build
        "dim": index.d,
        "recall": measured,
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
        "bytes": sizes,
        "created_at": created_at.isoformat(timespec="seconds"),
        "versions": versions(),
    }
    storage.create(storage.join(here, "card.json"), json.dumps(card, indent=2).encode())
    storage.replace(storage.join(builds.folder(archive, of), "CURRENT"), name.encode())
    return card


def _slice(row_ids: np.ndarray, part: int) -> slice:
    """Where the rows of a part lie among ascending row ids."""
    first, after = np.searchsorted(row_ids, [part << schemas.ROW_BITS, (part + 1) << schemas.ROW_BITS])
    return slice(first, after)


def _unit(embedding: pa.ChunkedArray) -> np.ndarray:
    """Vectors without nulls as float32[n, dim], of unit length again: float16 rounds it off by some 1e-4."""
    vectors = embedding.combine_chunks().flatten().to_numpy().reshape(len(embedding), -1).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _vectors(
    embeddings: Table, parts: list[int], row_ids: np.ndarray, problems: dict[str, int] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The vectors of these rows, part by part: (row ids, unit vectors). `problems` counts the rows that have none."""
    for part in parts:
        rows = embeddings.take(part, row_ids[_slice(row_ids, part)], ["embedding", "problem"])
        if problems is not None:
            for problem in rows.filter(pc.is_null(rows["embedding"]))["problem"].to_pylist():
                problems[problem] = problems.get(problem, 0) + 1
        rows = rows.filter(pc.is_valid(rows["embedding"]))
        if rows.num_rows:
            yield rows["row_id"].to_numpy(), _unit(rows["embedding"])


def _measure(index: indexes.Index, embeddings: Table, parts: list[int], row_ids: np.ndarray) -> dict[str, Any]:
    """Recall for a seeded sample of the indexed rows, the truth read anew from the Parquet table."""
    sample = np.random.default_rng(RECALL_SEED).choice(row_ids, min(RECALL_QUERIES, len(row_ids)), replace=False)
    rows = embeddings.read_rows(sample.tolist(), ["row_id", "embedding"])
    rows = rows.filter(pc.is_valid(rows["embedding"]))
    k = min(10, index.ntotal - 1)
    if k == 0 or rows.num_rows == 0:
        return {"queries": 0, "seed": RECALL_SEED}
    truth = _vectors(embeddings, parts, row_ids)
    value = recall(index, rows["row_id"].to_numpy(), _unit(rows["embedding"]), truth, k)
    return {f"recall@{k}": round(value, 4), "queries": rows.num_rows, "seed": RECALL_SEED}


def _write_photos(
    here: str, live: pa.Table, parts: list[int], captions: Table | None, corrected: Mapping[str, Change]
) -> dict[str, int]:
    """Commit photos.parquet, a row group a part, and the words in it as words.sqlite; the bytes of each."""
    row_ids = live["row_id"].to_numpy()
    schema = pa.schema([*live.schema, *CAPTION])
    captioned = set(captions.parts()) if captions else set()
    url = storage.join(here, "photos.parquet")
    with storage.scratch(url) as path:
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            for part in parts:
                place = _slice(row_ids, part)
                rows = live.slice(place.start, place.stop - place.start)
                if captions and part in captioned:
                    found = captions.take(part, row_ids[place], ["caption", "model", "logprob", "cosine"])
                    found = found.drop_columns(["row_id"]).append_column("by", pa.nulls(rows.num_rows, pa.string()))
                    written = found.rename_columns(CAPTION.names).cast(CAPTION)
                else:
                    written = CAPTION.empty_table().take(pa.nulls(rows.num_rows, pa.int64()))
                written = _corrected(rows["photo_id"].to_pylist(), written, corrected)
                writer.write_table(pa.table([*rows.columns, *written.columns], schema=schema))
        sizes = {"photos.parquet": path.stat().st_size, "words.sqlite": _write_words(here, path)}
        storage.create(url, path)
    return sizes


def _write_words(here: str, photos: Path) -> int:
    """Commit words.sqlite; its bytes."""
    url = storage.join(here, "words.sqlite")
    with storage.scratch(url) as path:
        words.write(photos, path)
        size = path.stat().st_size
        storage.create(url, path)
    return size


def _corrected(photo_ids: list[str], written: pa.Table, corrected: Mapping[str, Change]) -> pa.Table:
    """Captions, with people's own in the place of the machine's."""
    said = {row: corrected[photo_id] for row, photo_id in enumerate(photo_ids) if photo_id in corrected}
    if not said:
        return written
    rows = written.to_pylist()
    for row, word in said.items():
        rows[row] = dict.fromkeys(CAPTION.names) | {"caption": word.value, "caption_by": word.by}
    return pa.Table.from_pylist(rows, CAPTION)


def _write_index(here: str, index: indexes.Index) -> int:
    """Commit index.faiss; its bytes."""
    url = storage.join(here, "index.faiss")
    with storage.scratch(url) as path:
        indexes.write(index, path)
        size = path.stat().st_size
        storage.create(url, path)
    return size
