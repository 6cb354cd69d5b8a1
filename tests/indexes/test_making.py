"""Indexes made block by block are, byte for byte, those that FAISS makes in one piece."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from pipeline import indexes
from pipeline.indexes import making
from tests.indexes.conftest import DIM, ROW_IDS, ROWS, STORED, VECTORS

FACTORIES = {"ivf_flat": "IVF32,Flat", "ivf_pq": "IVF32,PQ8"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind, a file with an index that is trained and empty."""
    folder = tmp_path_factory.mktemp("trained")
    for kind, factory in FACTORIES.items():
        making.write(making.train(factory, VECTORS), folder / kind)
    return {kind: folder / kind for kind in FACTORIES}


def blocks(trained: Path, folder: Path, cuts: list[int], rows: np.ndarray) -> list[Path]:
    """Files of the rows between cuts."""
    paths = []
    for number, here in enumerate(np.split(rows, cuts)):
        paths.append(folder / f"block-{number}")
        making.encode(trained, ROW_IDS[here], VECTORS[here], paths[-1])
    return paths


def some_lists(trained: Path, lists: int) -> np.ndarray:
    """Rows that fall into the first few lists: the others stay empty."""
    index = making.read(trained)
    _, found = index.quantizer.search(VECTORS, 1)
    return np.flatnonzero(found[:, 0] < lists)


@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.parametrize("lists", [32, 20, 3], ids="{} lists filled".format)
@pytest.mark.parametrize("cuts", [[], [100, 100, 1000], [0]], ids=["one", "four, one of them empty", "first empty"])
def test_a_merge_is_what_faiss_writes(
    trained: dict[str, Path], kind: str, lists: int, cuts: list[int], tmp_path: Path
) -> None:
    rows = some_lists(trained[kind], lists)
    assert making.merge(trained[kind], blocks(trained[kind], tmp_path, cuts, rows), tmp_path / "merged") == len(rows)
    with making.one_thread():
        whole = making.read(trained[kind])
        whole.add_with_ids(VECTORS[rows], ROW_IDS[rows])
    making.write(whole, tmp_path / "whole")
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_merge_of_nothing_is_an_empty_index(trained: dict[str, Path], tmp_path: Path) -> None:
    assert making.merge(trained["ivf_flat"], [], tmp_path / "index.faiss") == 0
    assert len(indexes.open_index(tmp_path, "ivf_flat")) == 0


@pytest.mark.parametrize("kind", FACTORIES)
def test_threads_make_no_difference(trained: dict[str, Path], kind: str, tmp_path: Path) -> None:
    before = faiss.omp_get_max_threads()
    try:
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            making.encode(trained[kind], ROW_IDS, VECTORS, tmp_path / str(threads))
            assert faiss.omp_get_max_threads() == threads
    finally:
        faiss.omp_set_num_threads(before)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_vectors_are_added_a_few_at_a_time(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making.encode(trained["ivf_pq"], ROW_IDS, VECTORS, tmp_path / "at once")
    monkeypatch.setattr(making, "ADDED", 700)
    making.encode(trained["ivf_pq"], ROW_IDS, VECTORS, tmp_path / "in five")
    assert (tmp_path / "at once").read_bytes() == (tmp_path / "in five").read_bytes()


@pytest.mark.parametrize("kind", FACTORIES)
def test_emptied_is_the_training(trained: dict[str, Path], kind: str, tmp_path: Path) -> None:
    making.merge(trained[kind], blocks(trained[kind], tmp_path, [1000], np.arange(ROWS)), tmp_path / "filled")
    making.write(making.emptied(tmp_path / "filled"), tmp_path / "emptied")
    assert (tmp_path / "emptied").read_bytes() == trained[kind].read_bytes()


def test_training_is_the_same_each_time_and_short(trained: dict[str, Path], tmp_path: Path) -> None:
    """Codes are trained as briefly as lists, and not ordered for a comparison that nobody makes."""
    again = making.train(FACTORIES["ivf_pq"], VECTORS)
    assert (again.cp.niter, again.pq.cp.niter) == (making.TRAIN_ITERATIONS, making.CODE_ITERATIONS)
    assert not again.do_polysemous_training
    making.write(again, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == trained["ivf_pq"].read_bytes()


def test_what_faiss_does_not_know_is_told() -> None:
    for factory in ("nonsense", "IVF32,PQ7", ""):
        with pytest.raises(making.UnknownKind, match=f"FAISS has no index '{factory}' for 32 dimensions"):
            making.empty(factory, DIM)


@pytest.mark.parametrize("rows", [0, 1, ROWS])
def test_rows_files_read_as_numpy_wrote_them(rows: int, tmp_path: Path) -> None:
    with making.rows_file(tmp_path, 10**9, DIM) as keep:
        for first in range(0, rows, 1024):
            here = slice(first, min(first + 1024, rows))
            keep(ROW_IDS[here], STORED[here])
    vectors, row_ids = (np.load(tmp_path / name, mmap_mode="r") for name in ("vectors.npy", "row_ids.npy"))
    assert (vectors.dtype, row_ids.dtype) == (np.float16, np.int64)
    assert np.array_equal(vectors, STORED[:rows]) and np.array_equal(row_ids, ROW_IDS[:rows])


def test_a_plain_index_counts_from_nought() -> None:
    index = making.plain([VECTORS[:10], VECTORS[10:30]], DIM)
    assert index.search(VECTORS[:30], 1)[1][:, 0].tolist() == list(range(30))
