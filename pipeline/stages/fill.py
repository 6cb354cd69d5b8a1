"""The index files of a build: made in this process where that is quick, else block by block by many workers.

Blocks lie in the archive, under `making/`, until their index is there: a build that was killed goes on with those that
it finds. What they hold follows from the rows alone, and so does where one ends: the workers make no difference.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pipeline import indexes, schemas, storage
from pipeline.archive import Archive, Table, rows_in
from pipeline.indexes import exact, kinds, making
from pipeline.indexes.kinds import Choice
from pipeline.photo import UserError
from pipeline.stages.contents import read_vectors, vectors

BLOCK_BYTES = 64 << 20  # of a block's vectors as float32
LEFT = timedelta(hours=6)  # blocks this old are of a build that was given up
SEED = 0

Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]  # a function, done for each item, somewhere


@dataclass(frozen=True)
class Plan:
    """What is to be made: an index of this kind of these rows."""

    archive: Archive
    of: str
    row_ids: np.ndarray  # int64[n], ascending
    held_out: np.ndarray  # those of them not to train on: recall is measured with them
    choice: Choice
    memory: int  # bytes
    making: str  # URL of the folder for what is not done yet

    @property
    def embeddings(self) -> Table:
        return self.archive.table(f"embeddings/{self.of}")


@dataclass(frozen=True)
class Block:
    """Rows to encode, by an index that is trained already."""

    plan: Plan
    number: int
    row_ids: np.ndarray

    def url(self, suffix: str) -> str:
        return storage.join(self.plan.making, f"block-{self.number:05d}.{suffix}")


def in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Do it for each item in this process, one a CPU at a time."""
    with ThreadPoolExecutor(exact.cpus()) as pool:
        yield from pool.map(function, items)


def fill(plan: Plan, folder: Path, each: Each) -> dict[str, float]:
    """Write the files of an index into a local folder; seconds by phase. Raises UserError.

    Only an exact and a custom kind are ever held whole: FAISS cannot make those otherwise.
    """
    start = perf_counter()
    if plan.choice.kind == indexes.FLAT:
        write_flat(plan.embeddings, plan.row_ids, folder)
        return {"add": round(perf_counter() - start, 3)}
    if plan.choice.kind not in kinds.OWN:
        _write_custom(plan, folder)
        return {"train_and_add": round(perf_counter() - start, 3)}
    storage.create(storage.join(plan.making, "begun"), datetime.now(UTC).isoformat().encode())
    trained = storage.join(plan.making, "trained.faiss")
    if not storage.exists(trained):
        with storage.scratch(trained) as path:
            making.write(_train(plan), path)
            storage.create(trained, path)
    trained_at = perf_counter()
    blocks = list(_blocks(plan))
    for _ in each(encode, blocks):
        pass
    added_at = perf_counter()
    _merge(plan, trained, blocks, folder)
    merged_at = perf_counter()
    seconds = {"train": trained_at - start, "add": added_at - trained_at, "merge": merged_at - added_at}
    return {phase: round(took, 3) for phase, took in seconds.items()}


def check(choice: Choice, dim: int) -> None:
    """Raises UserError for a kind that neither we nor FAISS know."""
    try:
        making.empty(choice.factory, dim)
    except making.UnknownKind as error:
        raise UserError(f"index.kind: {error}; give auto, flat, ivf_flat, ivf_pq, hnsw or a factory string") from error


def write_flat(embeddings: Table, row_ids: np.ndarray, folder: Path) -> None:
    index = making.identified(making.empty("Flat", embeddings_dim(embeddings)))
    for found in vectors(embeddings, row_ids):
        index.add_with_ids(found.unit, found.row_ids)
    making.write(index, folder / "index.faiss")


def embeddings_dim(embeddings: Table) -> int:
    identity = embeddings.identity()
    assert identity is not None
    return int(identity["dim"])


def _write_custom(plan: Plan, folder: Path) -> None:
    index = making.identified(_train(plan))
    with making.rows_file(folder, len(plan.row_ids), embeddings_dim(plan.embeddings)) as keep:
        for found in vectors(plan.embeddings, plan.row_ids):
            try:
                index.add_with_ids(found.unit, found.row_ids)
            except RuntimeError as error:  # its text names C++ lines
                told = f"index.kind: FAISS cannot add to a {plan.choice.factory} part by part; choose another"
                raise UserError(told) from error
            keep(found.row_ids, found.stored)
    making.write(index, folder / "index.faiss")


def _train(plan: Plan) -> Any:
    """An index of the plan's kind, trained on a seeded sample of its rows."""
    dim = embeddings_dim(plan.embeddings)
    known = plan.row_ids[~np.isin(plan.row_ids, plan.held_out, kind="sort")]
    rows = min(len(known), kinds.training_rows(len(plan.row_ids), dim, plan.memory))
    some = np.sort(np.random.default_rng(SEED).choice(known, rows, replace=False))
    sample = np.concatenate([found.unit for found in vectors(plan.embeddings, some)] or [np.empty((0, dim), "f4")])
    try:
        return making.train(plan.choice.factory, sample)
    except RuntimeError as error:  # its text names C++ lines
        reason = f"{len(sample):,} vectors are not enough to train {plan.choice.factory}"
        raise UserError(f"{reason}; choose another index.kind, or leave the choice to `auto`") from error


def _blocks(plan: Plan) -> Iterator[Block]:
    """The rows by whole parts, as many as make a block."""
    rows = BLOCK_BYTES // (4 * embeddings_dim(plan.embeddings))
    number, held = 0, []
    for part in np.unique(plan.row_ids >> schemas.ROW_BITS).tolist():
        held.append(rows_in(plan.row_ids, part))
        if sum(map(len, held)) >= rows:
            yield Block(plan, number, np.concatenate(held))
            number, held = number + 1, []
    if held:
        yield Block(plan, number, np.concatenate(held))


def encode(block: Block) -> None:
    """Commit a block, unless it is there. Its vectors come first: with its lists it is done."""
    url = block.url("faiss")
    if storage.exists(url):
        return
    parts = np.unique(block.row_ids >> schemas.ROW_BITS).tolist()
    found = [read_vectors(block.plan.embeddings, part, rows_in(block.row_ids, part)) for part in parts]
    row_ids = np.concatenate([piece.row_ids for piece in found])
    stored = np.concatenate([piece.stored for piece in found])
    if block.plan.choice.kind != indexes.IVF_FLAT:
        with storage.scratch(block.url("npy")) as path:
            with path.open("wb") as file:
                np.save(file, stored)
            storage.create(block.url("npy"), path)
    with storage.scratch(url) as path, tempfile.TemporaryDirectory(prefix="tintype-") as here:
        trained = storage.brought(storage.join(block.plan.making, "trained.faiss"), Path(here))
        making.encode(trained, row_ids, exact.unit(stored), path)
        storage.create(url, path)


def _merge(plan: Plan, trained: str, blocks: Sequence[Block], folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tintype-", dir=folder) as here:
        lists = [storage.brought(block.url("faiss"), Path(here)) for block in blocks]
        making.merge(storage.brought(trained, Path(here)), lists, folder / "index.faiss")
        if plan.choice.kind != indexes.IVF_FLAT:
            with making.rows_file(folder, len(plan.row_ids), embeddings_dim(plan.embeddings)) as keep:
                for block, path in zip(blocks, lists, strict=True):
                    stored = np.load(storage.brought(block.url("npy"), Path(here)), mmap_mode="r")
                    keep(indexes.all_row_ids(indexes.Index(plan.choice.kind, making.read(path))), stored)


def grow(plan: Plan, base: Path, folder: Path) -> dict[str, float]:
    """Write an index of rows that came after those of a base, in one block: by its training, or exact."""
    start = perf_counter()
    if plan.choice.kind not in (indexes.IVF_FLAT, indexes.IVF_PQ):
        write_flat(plan.embeddings, plan.row_ids, folder)
        return {"add": round(perf_counter() - start, 3)}
    dim = embeddings_dim(plan.embeddings)
    found = list(vectors(plan.embeddings, plan.row_ids))
    row_ids = np.concatenate([piece.row_ids for piece in found] or [np.empty(0, np.int64)])
    stored = np.concatenate([piece.stored for piece in found] or [np.empty((0, dim), np.float16)])
    with tempfile.TemporaryDirectory(prefix="tintype-", dir=folder) as here:
        making.write(making.emptied(base / "index.faiss"), Path(here) / "trained.faiss")
        making.encode(Path(here) / "trained.faiss", row_ids, exact.unit(stored), folder / "index.faiss")
    if plan.choice.kind == indexes.IVF_PQ:
        with making.rows_file(folder, len(row_ids), dim) as keep:
            keep(row_ids, stored)
    return {"add": round(perf_counter() - start, 3)}


def sweep(archive: Archive, made: str | None = None, older_than: timedelta = LEFT) -> None:
    """Delete the blocks of a build that is there now, and those that builds given up have left."""
    there = storage.join(archive.url, "making")
    for name in storage.names(there):
        url = storage.join(there, name)
        try:
            begun = datetime.fromisoformat(storage.read(storage.join(url, "begun")).decode())
        except FileNotFoundError:
            begun = datetime.now(UTC)
        if url == made or begun < datetime.now(UTC) - older_than:
            storage.delete_folder(url)
