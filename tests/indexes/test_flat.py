"""Exact search answers what numpy answers, by row id."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import indexes
from pipeline.indexes import flat
from tests.small_archive import unit

ROW_IDS = np.random.default_rng(1).permutation(10_000)[:500].astype(np.int64) << 20
VECTORS = unit(np.random.default_rng(2).standard_normal((500, 24)))
QUERIES = unit(np.random.default_rng(3).standard_normal((7, 24)))


@pytest.fixture
def index() -> indexes.Index:
    return flat.build(((ROW_IDS[i : i + 100], VECTORS[i : i + 100]) for i in range(0, 500, 100)), 24)


def numpy_search(queries: np.ndarray, k: int, keep: np.ndarray) -> np.ndarray:
    ids, vectors = ROW_IDS[keep], VECTORS[keep]
    return ids[np.argsort(-(queries @ vectors.T), axis=1)[:, :k]]


def test_search_is_exact(index: indexes.Index) -> None:
    scores, found = indexes.search(index, QUERIES, 10)
    assert np.array_equal(found, numpy_search(QUERIES, 10, np.full(500, True)))
    assert scores[0, 0] == pytest.approx((QUERIES[0] @ VECTORS.T).max(), abs=1e-6)
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_search_among_and_without_is_exact_too(index: indexes.Index, share: float) -> None:
    keep = np.random.default_rng(4).random(500) < share
    _, found = indexes.search(index, QUERIES, 3, among=ROW_IDS[keep])
    assert np.array_equal(found, numpy_search(QUERIES, 3, keep))
    without = found[:2, 0]
    _, others = indexes.search(index, QUERIES[:1], 2, among=ROW_IDS[keep], without=without)
    assert np.array_equal(others, numpy_search(QUERIES[:1], 2, keep & ~np.isin(ROW_IDS, without)))
    _, others = indexes.search(index, QUERIES[:1], 2, without=without.tolist())
    assert np.array_equal(others, numpy_search(QUERIES[:1], 2, ~np.isin(ROW_IDS, without)))


def test_fewer_than_k_end_in_minus_one(index: indexes.Index) -> None:
    _, found = indexes.search(index, QUERIES[:1], 4, among=ROW_IDS[:2])
    assert set(found[0, :2]) == set(ROW_IDS[:2])
    assert found[0, 2:].tolist() == [-1, -1]
    _, found = indexes.search(index, QUERIES[:1], 2, among=np.empty(0, np.int64))
    assert found.tolist() == [[-1, -1]]


def test_equals_are_ordered_by_row_id() -> None:
    twins = flat.build([(np.array([9, 4, 7]), np.ones((3, 4), np.float32) / 2)], 4)
    assert indexes.search(twins, np.ones((1, 4)) / 2, 3)[1].tolist() == [[4, 7, 9]]


def test_a_vector_comes_back_by_its_row_id(index: indexes.Index, tmp_path: Path) -> None:
    indexes.write(index, tmp_path / "index.faiss")
    again = indexes.read(tmp_path / "index.faiss")
    assert np.array_equal(indexes.vector(again, int(ROW_IDS[33])), VECTORS[33])
    with pytest.raises(KeyError):
        indexes.vector(again, 12345)


def test_a_damaged_file_is_told_from_an_index(index: indexes.Index, tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    with pytest.raises(indexes.Damaged):
        indexes.read(path)
    path.write_bytes(b"not an index")
    with pytest.raises(indexes.Damaged):
        indexes.read(path)
    indexes.write(index, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(indexes.Damaged):
        indexes.read(path)
