"""How much of the truth an index finds, against numpy over vectors that it was not handed."""

from collections.abc import Iterable

import numpy as np

from pipeline.indexes import Index, search

TIE = 1e-6  # float32 sums taken in another order differ by about this much: such photos are equally near


def recall(
    index: Index,
    query_ids: np.ndarray,
    queries: np.ndarray,
    vectors: Iterable[tuple[np.ndarray, np.ndarray]],
    k: int,
) -> float:
    """Mean share of the k nearest other rows that the index finds; a row as near as the k-th is as good as it.

    `queries`: float32[n, dim], rows of the index, whose ids are `query_ids`. `vectors`: the whole truth, piece by
    piece, as (ascending row ids int64[m], unit vectors float32[m, dim]).
    """
    _, found = search(index, queries, k + 1)  # each finds itself too
    found[~(found == query_ids[:, None]).any(axis=1), -1] = -1
    found_scores = np.full(found.shape, -np.inf, np.float32)
    best = np.full((len(queries), k), -np.inf, np.float32)
    for row_ids, rows in vectors:
        scores = queries @ rows.T
        scores[query_ids[:, None] == row_ids] = -np.inf
        best = np.partition(np.concatenate([best, scores], axis=1), -k, axis=1)[:, -k:]
        position = np.searchsorted(row_ids, found).clip(max=len(row_ids) - 1)
        here = row_ids[position] == found
        found_scores[here] = scores[np.nonzero(here)[0], position[here]]
    right = (found_scores >= best.min(axis=1, keepdims=True) - TIE) & np.isfinite(found_scores)
    return float(np.minimum(right.sum(axis=1), k).mean() / k)
