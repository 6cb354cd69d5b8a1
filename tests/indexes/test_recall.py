"""Recall is the share of what numpy finds, by photo id; it can be measured again after rows went and others came."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.indexes import recall
from pipeline.indexes.recall import DEPTH, ROWS, TEXTS, Truth
from tests.indexes.conftest import QUERIES, ROW_IDS, VECTORS, by_numpy

OWN = np.arange(0, 3000, 100)  # places of the rows that are queries
NAMES = {row_id: f"photo {row_id}" for row_id in ROW_IDS.tolist()}
EVERY = np.full(len(ROW_IDS), True)


def pieces(keep: np.ndarray, size: int = 700) -> Iterator[tuple[np.ndarray, np.ndarray, pa.ChunkedArray]]:
    places = np.flatnonzero(keep)
    for first in range(0, len(places), size):
        here = places[first : first + size]
        yield ROW_IDS[here], VECTORS[here], pa.chunked_array([[NAMES[row_id] for row_id in ROW_IDS[here].tolist()]])


def unknown() -> Truth:
    kinds = np.array([ROWS] * len(OWN) + [TEXTS] * len(QUERIES))
    own = np.concatenate([ROW_IDS[OWN], np.full(len(QUERIES), -1)])
    return recall.asked(kinds, own, np.concatenate([VECTORS[OWN], QUERIES]))


@pytest.fixture(scope="module")
def truth() -> Truth:
    return recall.told(unknown(), pieces(EVERY))


def answers(truth: Truth, k: int, keep: np.ndarray = EVERY) -> np.ndarray:
    """What numpy finds, the row that is the query among it."""
    return by_numpy(truth.queries, k, keep)


def never(query: int, row_id: int) -> float:
    raise AssertionError("no row is tied")


def test_the_truth_is_what_numpy_finds(truth: Truth) -> None:
    found = answers(truth, DEPTH + 1)
    for query in range(len(truth.queries)):
        wanted = [row_id for row_id in found[query].tolist() if row_id != truth.own[query]][:DEPTH]
        assert truth.row_ids[query].tolist() == wanted
        places = np.searchsorted(ROW_IDS, wanted)
        assert truth.scores[query] == pytest.approx(VECTORS[places] @ truth.queries[query], abs=1e-6)
    assert truth.photo_ids == {row_id: NAMES[row_id] for row_id in np.unique(truth.row_ids).tolist()}


def test_pieces_make_no_difference(truth: Truth) -> None:
    for size in (100, 3000):
        again = recall.told(unknown(), pieces(EVERY, size))
        assert np.array_equal(again.row_ids, truth.row_ids) and again.photo_ids == truth.photo_ids


def test_an_exact_answer_has_all_of_it(truth: Truth) -> None:
    said = recall.recall(truth, answers(truth, 101), NAMES, never)
    whole = {"recall@1": 1.0, "recall@10": 1.0, "recall@100": 1.0}
    assert said == {ROWS: whole | {"queries": len(OWN)}, TEXTS: whole | {"queries": len(QUERIES)}}


def test_an_answer_of_half_of_the_rows_has_the_share_that_numpy_says(truth: Truth) -> None:
    half = np.arange(3000) % 2 == 0
    said = recall.recall(truth, answers(truth, 101, half), NAMES, never)
    for kind in (ROWS, TEXTS):
        here = truth.kinds == kind
        for k in recall.AT:
            expected = np.isin(truth.row_ids[here, :k], ROW_IDS[half]).mean()
            assert said[kind][f"recall@{k}"] == pytest.approx(expected, abs=1e-4)


def test_another_photo_under_a_rows_id_is_a_miss(truth: Truth) -> None:
    wrong = {row_id: f"photo {row_id + (place % 2)}" for place, row_id in enumerate(ROW_IDS.tolist())}
    said = recall.recall(truth, answers(truth, 101), wrong, never)
    right = np.isin(truth.row_ids[truth.kinds == TEXTS, :100], ROW_IDS[::2]).mean()
    assert said[TEXTS]["recall@100"] == pytest.approx(right, abs=1e-4)
    assert recall.recall(truth, answers(truth, 101), {}, never)[ROWS]["recall@10"] == 0


def test_equals_are_equally_good() -> None:
    """Of 300 twins any one is the nearest, though the truth knows only 200 of them."""
    ids, twins = np.arange(300), np.tile(VECTORS[:1], (300, 1))
    names = {row_id: str(row_id) for row_id in range(300)}
    pieces = [(ids, twins, pa.chunked_array([[str(row_id) for row_id in range(300)]]))]
    known = recall.told(recall.asked(np.array([TEXTS]), np.array([-1]), twins[:1]), pieces)
    asked: list[int] = []

    def cosine(query: int, row_id: int) -> float:
        asked.append(row_id)
        return float(twins[row_id] @ twins[query])

    said = recall.recall(known, np.arange(299, 198, -1)[None], names, cosine)
    assert said[TEXTS] == {"recall@1": 1.0, "recall@10": 1.0, "recall@100": 1.0, "queries": 1}
    assert asked and min(asked) >= DEPTH


def test_few_rows_and_few_hits() -> None:
    known = recall.told(unknown(), pieces(np.arange(3000) < 5))
    found = np.pad(answers(known, 5, np.arange(3000) < 5), ((0, 0), (0, 96)), constant_values=-1)
    assert recall.recall(known, found, NAMES, never)[TEXTS]["recall@100"] == 1.0
    assert recall.recall(known, found[:, :0], NAMES, never)[TEXTS]["recall@10"] == 0
    nothing = recall.told(unknown(), [])
    assert recall.recall(nothing, found, NAMES, never) == {}


def test_rows_that_went_and_came(truth: Truth) -> None:
    """As told anew, as long as no query has lost so many that those beyond the depth would count."""
    rng = np.random.default_rng(4)
    before, gone = rng.random(3000) < 0.8, rng.random(3000) < 0.1
    base = recall.told(unknown(), pieces(before))
    now = recall.told(recall.without(base, ROW_IDS[gone]), pieces(~before))
    anew = recall.told(unknown(), pieces((before & ~gone) | ~before))
    assert np.array_equal(now.row_ids[:, :100], anew.row_ids[:, :100])
    assert now.scores[:, :100] == pytest.approx(anew.scores[:, :100], abs=1e-6)
    assert not np.isin(ROW_IDS[before & gone], now.row_ids).any()
    assert now.photo_ids.keys() == set(np.unique(now.row_ids[now.row_ids >= 0]).tolist())


def test_it_is_kept_as_parquet(truth: Truth, tmp_path: Path) -> None:
    few = recall.told(unknown(), pieces(np.arange(3000) < 5))
    for known in (truth, few, replace(truth, kinds=np.array([ROWS] * len(truth.kinds)))):
        recall.write(known, tmp_path / "truth.parquet")
        again = recall.read(tmp_path / "truth.parquet")
        for name in ("kinds", "own", "queries", "row_ids", "scores"):
            assert np.array_equal(getattr(again, name), getattr(known, name)), name
        assert again.photo_ids == known.photo_ids
        assert again.queries.dtype == np.float32
