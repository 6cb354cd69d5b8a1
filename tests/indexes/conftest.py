"""Indexes of every kind over the same clustered vectors, as files that nobody changes."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import indexes
from pipeline.indexes import making
from tests.small_archive import unit

DIM, ROWS, CLUSTERS = 32, 3000, 30
KINDS = {
    "flat": "Flat",
    "ivf_flat": "IVF32,Flat",
    "ivf_pq": "IVF32,PQ16",
    "HNSW32": "HNSW32",
    "IVF32,SQ8": "IVF32,SQ8",
    "PCA16,IVF32,PQ8x4fs": "PCA16,IVF32,PQ8x4fs",
}
MOST = {"rerank": 40, "nprobe": 32, "efSearch": 512}  # effort with which each kind finds all


def clustered(rows: int, seed: int) -> np.ndarray:
    """Unit vectors about shared centres, as tables keep them: float16[rows, DIM]."""
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, DIM))
    rng = np.random.default_rng(seed)
    near = centres[rng.integers(CLUSTERS, size=rows)] + 0.5 * rng.standard_normal((rows, DIM))
    return unit(near).astype(np.float16)


STORED = clustered(ROWS, seed=1)
VECTORS = unit(STORED)
ROW_IDS = np.sort(np.random.default_rng(2).permutation(20_000)[:ROWS]).astype(np.int64) << 4
QUERIES = unit(clustered(40, seed=3))


def make(folder: Path, kind: str, row_ids: np.ndarray = ROW_IDS, stored: np.ndarray = STORED) -> Path:
    """Write the files of an index of a kind into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = making.train(KINDS[kind], VECTORS)
    vectors = unit(stored)
    if kind in ("ivf_flat", "ivf_pq"):
        making.write(trained, folder / "trained")
        making.encode(folder / "trained", row_ids, vectors, folder / "index.faiss")
        (folder / "trained").unlink()
    else:
        index = making.identified(trained)
        index.add_with_ids(vectors, row_ids)
        making.write(index, folder / "index.faiss")
    if kind not in ("flat", "ivf_flat"):
        with making.rows_file(folder, len(row_ids), DIM) as keep:
            keep(row_ids[:1000], stored[:1000])
            keep(row_ids[1000:], stored[1000:])
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind, the folder of an index of all ROWS."""
    return {kind: make(tmp_path_factory.mktemp("index") / str(i), kind) for i, kind in enumerate(KINDS)}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def index(folders: dict[str, Path], kind: str) -> indexes.Index:
    """An index of each kind, opened, searched with all effort."""
    opened = indexes.open_index(folders[kind], kind)
    known = {name for effort in indexes.ladder(opened) for name in effort}
    indexes.set_effort(opened, {name: value for name, value in MOST.items() if name in known})
    return opened


def by_numpy(queries: np.ndarray, k: int, keep: np.ndarray | None = None) -> np.ndarray:
    """Row ids of the k nearest among those that `keep`, bool[ROWS], says."""
    ids, vectors = (ROW_IDS, VECTORS) if keep is None else (ROW_IDS[keep], VECTORS[keep])
    return ids[np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]]
