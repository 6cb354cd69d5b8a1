"""Exact search answers what numpy answers, by row id, however many queries and CPUs there are."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import indexes
from pipeline.indexes import exact
from tests.indexes.conftest import QUERIES, ROW_IDS, STORED, VECTORS, by_numpy
from tests.small_archive import unit

NONE = np.empty(0, np.int64)
EVERY = np.full(len(ROW_IDS), True)


@pytest.fixture
def flat(folders: dict[str, Path]) -> indexes.Index:
    return indexes.open_index(folders["flat"], "flat")


@pytest.mark.parametrize("queries", [1, exact.FEW, exact.FEW + 1], ids="{} queries".format)
@pytest.mark.parametrize("cpus", [1, 2, 7])
def test_it_is_what_numpy_finds(flat: indexes.Index, queries: int, cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "cpus", lambda: cpus)
    asked = np.resize(QUERIES, (queries, QUERIES.shape[1]))
    scores, found = indexes.search(flat, asked, 10)
    assert np.array_equal(found, by_numpy(asked, 10))
    assert scores == pytest.approx(np.sort(asked @ VECTORS.T, axis=1)[:, :-11:-1], abs=1e-6)
    assert (scores.dtype, found.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("share", [0.9, 0.05])
def test_among_and_without(flat: indexes.Index, share: float) -> None:
    keep = np.random.default_rng(4).random(len(ROW_IDS)) < share
    _, found = indexes.search(flat, QUERIES, 3, among=ROW_IDS[keep])
    assert np.array_equal(found, by_numpy(QUERIES, 3, keep))
    without = found[:2, 0]
    for left_out in (without, without.tolist(), frozenset(without.tolist())):
        _, others = indexes.search(flat, QUERIES[:1], 2, among=ROW_IDS[keep], without=left_out)
        assert np.array_equal(others, by_numpy(QUERIES[:1], 2, keep & ~np.isin(ROW_IDS, without)))
        _, others = indexes.search(flat, QUERIES[:1], 2, without=left_out)
        assert np.array_equal(others, by_numpy(QUERIES[:1], 2, ~np.isin(ROW_IDS, without)))


def test_many_left_out_are_taken_out_of_the_matrix(flat: indexes.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "OVER", 100)
    keep = np.random.default_rng(5).random(len(ROW_IDS)) < 0.5
    _, found = indexes.search(flat, QUERIES, 20, without=ROW_IDS[~keep])
    assert np.array_equal(found, by_numpy(QUERIES, 20, keep))


def test_rows_that_are_not_there_neither_hinder_nor_help(flat: indexes.Index) -> None:
    strange = ROW_IDS + 1
    assert np.array_equal(indexes.search(flat, QUERIES, 5, without=strange)[1], by_numpy(QUERIES, 5))
    among = np.sort(np.concatenate([ROW_IDS[:2], strange]))
    assert set(indexes.search(flat, QUERIES, 4, among=among)[1].ravel().tolist()) == {*ROW_IDS[:2].tolist(), -1}


def test_fewer_than_k_end_in_minus_one(flat: indexes.Index) -> None:
    scores, found = indexes.search(flat, QUERIES[:1], 4, among=ROW_IDS[:2])
    assert set(found[0, :2]) == set(ROW_IDS[:2])
    assert found[0, 2:].tolist() == [-1, -1] and np.isneginf(scores[0, 2:]).all()
    assert indexes.search(flat, QUERIES[:1], 2, among=NONE)[1].tolist() == [[-1, -1]]
    _, found = indexes.search(flat, QUERIES[:1], len(ROW_IDS) + 5)
    assert sorted(found[0, :-5]) == ROW_IDS.tolist() and (found[0, -5:] == -1).all()
    assert (indexes.search(flat, QUERIES[:1], 3, without=ROW_IDS)[1] == -1).all()


@pytest.mark.parametrize("queries", [1, exact.FEW + 1], ids="{} queries".format)
@pytest.mark.parametrize("k", [1, 3, 5, 150])
def test_equals_are_ordered_by_row_id(queries: int, k: int) -> None:
    """Also where not all of them are among the k: pictures that are uploaded twice are common."""
    vectors = np.concatenate([np.tile(VECTORS[0], (200, 1)), VECTORS[1:500]])
    row_ids = np.sort(np.random.default_rng(6).permutation(5000)[: len(vectors)])
    asked = np.tile(VECTORS[0], (queries, 1))
    _, found = exact.search(vectors, row_ids, asked, k, NONE)
    assert found.tolist() == [row_ids[:k].tolist()] * queries
    _, found = exact.search(vectors, row_ids, asked, k, row_ids[:7])
    assert found.tolist() == [row_ids[7 : k + 7].tolist()] * queries


def test_gathered_reads_either_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "BLOCK", 100)
    among = ROW_IDS[100:900]
    keep = np.isin(ROW_IDS, among)
    for vectors in (VECTORS, STORED):
        scores, found = exact.gathered(vectors, ROW_IDS, QUERIES, 10, among)
        assert np.array_equal(found, by_numpy(QUERIES, 10, keep))
        assert scores == pytest.approx(np.sort(QUERIES @ VECTORS[keep].T, axis=1)[:, :-11:-1], abs=1e-6)


def test_best_picks_and_orders() -> None:
    rng = np.random.default_rng(8)
    scores = rng.integers(0, 9, (5, 300)).astype(np.float32)  # many equals
    scores[3, 2:] = -np.inf
    ids = np.stack([rng.permutation(300) for _ in range(5)])
    for k in (1, 7, 100, 300, 320):
        values, found = exact.best(scores, ids, k)
        for row in range(5):
            order = [i for i in np.lexsort((ids[row], -scores[row])) if np.isfinite(scores[row, i])][:k]
            missing = k - len(order)
            assert found[row].tolist() == [*ids[row, order].tolist(), *[-1] * missing]
            assert values[row].tolist() == [*scores[row, order].tolist(), *[-np.inf] * missing]


def test_unit_makes_up_for_float16() -> None:
    assert np.linalg.norm(exact.unit(STORED), axis=1) == pytest.approx(1, abs=1e-6)
    assert exact.unit(VECTORS) is VECTORS
    assert np.array_equal(exact.unit(STORED), unit(STORED))
