"""Recall is what numpy finds in the whole truth, of which the index holds all or some."""

import numpy as np
import pytest

from pipeline.indexes import flat
from pipeline.indexes.recall import recall
from tests.small_archive import unit

ROW_IDS = np.arange(500)
VECTORS = unit(np.random.default_rng(2).standard_normal((500, 24)))


def in_pieces(vectors: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(ROW_IDS[i : i + 90], vectors[i : i + 90]) for i in range(0, 500, 90)]


def test_recall_of_exact_search_is_one() -> None:
    index = flat.build([(ROW_IDS, VECTORS)], 24)
    assert recall(index, ROW_IDS[:50], VECTORS[:50], in_pieces(VECTORS), 10) == 1.0


def test_recall_counts_what_is_missing() -> None:
    """An index that holds half of the rows finds about half of the neighbours: the share that numpy says."""
    held = np.arange(500) < 250
    half = flat.build([(ROW_IDS[held], VECTORS[held])], 24)
    queries = np.arange(40)
    others = VECTORS[queries] @ VECTORS.T
    others[queries, queries] = -np.inf
    truth = np.argsort(-others, axis=1)[:, :10]
    expected = held[truth].mean()
    assert 0.3 < expected < 0.7
    assert recall(half, ROW_IDS[queries], VECTORS[queries], in_pieces(VECTORS), 10) == pytest.approx(expected)


def test_recall_takes_equals_for_equal() -> None:
    """Of five twins any two are the nearest two."""
    ids, twins = np.arange(6), np.ones((6, 4), np.float32) / 2
    assert recall(flat.build([(ids, twins)], 4), ids[:1], twins[:1], [(ids, twins)], 2) == 1.0
