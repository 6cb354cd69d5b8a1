"""An index of each kind answers the same questions in the same way; what is damaged is told from an index."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import indexes
from pipeline.indexes.segments import Segment, nearest
from tests.indexes.conftest import (
    CLUSTERS,
    DIM,
    KINDS,
    QUERIES,
    ROW_IDS,
    ROWS,
    STORED,
    VECTORS,
    by_numpy,
    clustered,
    make,
)
from tests.small_archive import INDEX_FILES, unit

LISTED = ("ivf_flat", "ivf_pq")


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.mean([np.isin(w, f).mean() for f, w in zip(found, wanted, strict=True)]))


def test_it_finds_the_nearest(index: indexes.Index) -> None:
    scores, found = indexes.search(index, QUERIES, 10)
    assert (scores.dtype, found.dtype, found.shape) == (np.float32, np.int64, (len(QUERIES), 10))
    assert overlap(found, by_numpy(QUERIES, 10)) > 0.99
    places = np.searchsorted(ROW_IDS, found)
    assert scores == pytest.approx(np.einsum("qd,qkd->qk", QUERIES, VECTORS[places]), abs=1e-5)
    assert (np.diff(scores) <= 0).all()
    assert len(index) == ROWS


def test_rows_left_out_make_room_for_others(index: indexes.Index) -> None:
    _, found = indexes.search(index, QUERIES, 4)
    without = np.unique(found[:, :2])
    keep = ~np.isin(ROW_IDS, without)
    for left_out in (without, frozenset(without.tolist())):
        _, others = indexes.search(index, QUERIES, 4, without=left_out)
        assert not np.isin(others, without).any()
        assert overlap(others, by_numpy(QUERIES, 4, keep)) > 0.99


def test_a_small_set_is_searched_exactly_with_whatever_effort(index: indexes.Index, kind: str) -> None:
    indexes.set_effort(index, next(iter(indexes.ladder(index))))
    keep = np.random.default_rng(4).random(ROWS) < 0.3
    _, found = indexes.search(index, QUERIES, 10, among=ROW_IDS[keep])
    assert np.array_equal(found, by_numpy(QUERIES, 10, keep))
    keep[np.isin(ROW_IDS, found[:, 0])] = False
    _, others = indexes.search(
        index, QUERIES, 10, among=ROW_IDS[keep | np.isin(ROW_IDS, found[:, 0])], without=found[:, 0]
    )
    assert np.array_equal(others, by_numpy(QUERIES, 10, keep))


@pytest.mark.parametrize("share", [0.9, 0.2])
def test_effort_rises_for_a_large_set(index: indexes.Index, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "EXACT_ROWS", 100)
    if index.kind in LISTED:
        indexes.set_effort(index, {"rerank": 40, "nprobe": 4})
    keep = np.random.default_rng(5).random(ROWS) < share
    _, found = indexes.search(index, QUERIES, 10, among=ROW_IDS[keep])
    assert np.isin(found, ROW_IDS[keep]).all()
    assert overlap(found, by_numpy(QUERIES, 10, keep)) > 0.95


def test_a_large_set_far_from_the_query_is_found(index: indexes.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows lie in lists that a query does not come to: nothing found, twice, is not an answer that stands."""
    monkeypatch.setattr(indexes, "EXACT_ROWS", 100)
    if index.kind in LISTED:
        indexes.set_effort(index, {"rerank": 40, "nprobe": 1})
    for query in QUERIES[:10]:
        keep = np.zeros(ROWS, bool)
        keep[np.argsort(VECTORS @ query)[: ROWS // 4]] = True
        _, found = indexes.search(index, query[None], 10, among=ROW_IDS[keep])
        assert overlap(found, by_numpy(query[None], 10, keep)) > 0.95


def test_a_set_of_which_the_index_holds_little_is_found(index: indexes.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of what was added to a base: most rows of a filter are the base's."""
    monkeypatch.setattr(indexes, "EXACT_ROWS", 100)
    if index.kind in LISTED:
        indexes.set_effort(index, {"rerank": 40, "nprobe": 8})
    among = np.sort(np.concatenate([ROW_IDS, np.arange(100_000) * 16 + 7]))
    _, found = indexes.search(index, QUERIES, 10, among=among)
    assert overlap(found, by_numpy(QUERIES, 10)) > 0.95


def test_fewer_than_k_end_in_minus_one(index: indexes.Index) -> None:
    scores, found = indexes.search(index, QUERIES, 5, among=ROW_IDS[:3])
    assert (np.sort(found[:, :3], axis=1) == ROW_IDS[:3]).all()
    assert (found[:, 3:] == -1).all() and np.isneginf(scores[:, 3:]).all()
    assert (indexes.search(index, QUERIES[:1], 2, among=np.empty(0, np.int64))[1] == -1).all()
    _, found = indexes.search(index, QUERIES[:2], ROWS + 7)
    assert (found[:, -7:] == -1).all()
    known = found[0][found[0] >= 0]
    assert len(known) == len(np.unique(known)) and np.isin(known, ROW_IDS).all()


def test_equals_are_ordered_by_row_id(kind: str, tmp_path: Path) -> None:
    stored = np.concatenate([np.repeat(STORED[:1], 5, axis=0), STORED[1:]])
    row_ids = np.arange(len(stored)) * 3 + 1
    opened = indexes.open_index(make(tmp_path / "index", kind, row_ids, stored), kind)
    indexes.set_effort(opened, list(indexes.ladder(opened))[-1])
    _, found = indexes.search(opened, unit(STORED[:1]), 5)
    assert found[0].tolist() == [1, 4, 7, 10, 13]


def test_rows_and_vectors_by_row_id(index: indexes.Index) -> None:
    assert np.array_equal(indexes.all_row_ids(index), ROW_IDS)
    assert indexes.held(index, np.array([ROW_IDS[0], ROW_IDS[5], 3])) == 2
    if index.kind == "ivf_flat":
        return
    assert indexes.vector(index, int(ROW_IDS[33])) == pytest.approx(VECTORS[33], abs=1e-6)
    for missing in (0, 12345, int(ROW_IDS[-1]) + 1):
        with pytest.raises(KeyError):
            indexes.vector(index, missing)


def test_more_effort_finds_no_less(index: indexes.Index) -> None:
    truth = by_numpy(QUERIES, 10)
    shares = []
    for effort in indexes.ladder(index):
        indexes.set_effort(index, effort)
        shares.append(overlap(indexes.search(index, QUERIES, 10)[1], truth))
    assert shares[-1] == max(shares) > 0.99
    assert shares[0] < shares[-1] or index.kind in ("flat", "HNSW32")


def test_it_is_mapped_and_only_read(index: indexes.Index, folders: dict[str, Path], kind: str) -> None:
    before = {path.name: path.read_bytes() for path in folders[kind].iterdir()}
    mapped = Path("/proc/self/maps").read_text()
    named = [line.split() for line in mapped.splitlines() if str(folders[kind]) in line]
    assert {Path(line[5]).name for line in named} >= before.keys() - {"row_ids.npy"}
    assert not any("w" in line[1] and "s" in line[1] for line in named)
    indexes.search(index, QUERIES, 10)
    assert {path.name: path.read_bytes() for path in folders[kind].iterdir()} == before


@pytest.mark.parametrize("name", INDEX_FILES)
def test_a_file_that_is_missing_or_cut_short_is_told_from_an_index(kind: str, name: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "index", kind)
    path = folder / name
    if not path.exists():
        return
    whole = path.read_bytes()
    kept = [len(whole) - 8, len(whole) - 2 * DIM, len(whole) // 2, 200, 60, 4, 0]
    for damage in [*(whole[:size] for size in kept), b"not an index", bytes(len(whole)), whole[::-1], None]:
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(indexes.Damaged, match="is not a readable index"):
            indexes.open_index(folder, kind)
    path.write_bytes(whole)
    assert len(indexes.open_index(folder, kind)) == ROWS


def test_another_kind_of_index_is_told_from_it(folders: dict[str, Path], kind: str) -> None:
    for other in KINDS.keys() - {kind}:
        if (other in LISTED) and kind in ("flat", "HNSW32"):
            with pytest.raises(indexes.Damaged):
                indexes.open_index(folders[kind], other)


def test_segments_are_searched_as_one(kind: str, tmp_path: Path) -> None:
    """Rows of a base that hold no longer are in no answer, though a later segment has the same row id."""
    base = indexes.open_index(make(tmp_path / "base", kind), kind)
    indexes.set_effort(base, list(indexes.ladder(base))[-1])
    masked = ROW_IDS[::7]
    moved = clustered(len(masked), seed=9)
    own_kind = kind if kind in LISTED else "flat"
    own = indexes.open_index(make(tmp_path / "own", own_kind, masked, moved), own_kind, base.effort)
    vectors = VECTORS.copy()
    vectors[::7] = unit(moved)
    segments = [Segment(base, masked), Segment(own)]
    for keep in (None, np.random.default_rng(6).random(ROWS) < 0.3):
        among = None if keep is None else ROW_IDS[keep]
        without = ROW_IDS[:CLUSTERS]
        held = ~np.isin(ROW_IDS, without) if keep is None else keep & ~np.isin(ROW_IDS, without)
        scores, found = nearest(segments, QUERIES, 10, among=among, without=without.tolist())
        wanted = ROW_IDS[held][np.argsort(-(QUERIES @ vectors[held].T), axis=1)[:, :10]]
        assert overlap(found, wanted) > 0.99
        places = np.searchsorted(ROW_IDS, found)
        assert scores == pytest.approx(np.einsum("qd,qkd->qk", QUERIES, vectors[places]), abs=1e-5)
