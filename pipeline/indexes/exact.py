"""Exact search: every query is compared with every vector. No training; recall is 1 by construction."""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

FEW = 20  # queries at a time up to which FAISS reads the matrix once a query; beyond it, it multiplies matrices
OVER = 1 << 14  # rows left out that are rather passed over among the hits than taken out of the matrix
BLOCK = 1 << 14  # rows gathered at a time


def search(
    vectors: np.ndarray, row_ids: np.ndarray, queries: np.ndarray, k: int, without: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each query, float32[n, dim], among float32[m, dim]: as `indexes.search`.

    `row_ids`, int64[m], ascending; `without`, int64[r], ascending: rows not to answer.
    """
    places, there = placed(row_ids, without)
    left_out = int(there.sum())
    if left_out > OVER:
        kept = np.ones(len(row_ids), bool)
        kept[places[there]] = False
        return gathered(vectors, row_ids, queries, k, row_ids[kept])
    scores, places = _nearest(vectors, queries, min(k + left_out, len(row_ids)))
    found = np.where(places >= 0, row_ids[places], -1)
    return best(np.where(np.isin(found, without) | (places < 0), -np.inf, scores), found, k)


def gathered(
    vectors: np.ndarray, row_ids: np.ndarray, queries: np.ndarray, k: int, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest within `among`, int64[r], ascending: only their vectors are read, float32 or float16[m, dim]."""
    places, there = placed(row_ids, among)
    among, places = among[there], places[there]
    scores, found = best(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64), k)
    for first in range(0, len(among), BLOCK):
        here = slice(first, first + BLOCK)
        products = queries @ unit(vectors[places[here]]).T
        ids = np.broadcast_to(among[here], products.shape)
        scores, found = best(np.hstack([scores, products]), np.hstack([found, ids]), k)
    return scores, found


def placed(row_ids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where row ids lie among others, ascending, and whether they do: (int64[n], bool[n])."""
    if not len(row_ids):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    places = np.minimum(np.searchsorted(row_ids, wanted), len(row_ids) - 1)
    return places, row_ids[places] == wanted


def best(scores: np.ndarray, row_ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each row, best first, equals by row id; scores of -inf stand for nothing, row id -1."""
    if scores.shape[1] < k:
        missing = ((0, 0), (0, k - scores.shape[1]))
        scores = np.pad(scores, missing, constant_values=-np.inf)
        row_ids = np.pad(row_ids, missing, constant_values=-1)
    if scores.shape[1] > 4 * k:  # sorting all of many would take longer than comparing them did
        floor = np.partition(scores, -k, axis=1)[:, -k, None]
        width = int((scores >= floor).sum(axis=1).max())  # more than k where the k-th has equals
        some = np.argpartition(scores, -width, axis=1)[:, -width:]
        scores, row_ids = np.take_along_axis(scores, some, 1), np.take_along_axis(row_ids, some, 1)
    row_ids = np.where(np.isneginf(scores), -1, row_ids)
    order = np.lexsort((row_ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1).astype(np.float32), np.take_along_axis(row_ids, order, 1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors as float32[n, dim], of unit length again: float16 rounds it off by some 1e-4."""
    if vectors.dtype == np.float32:
        return vectors
    full = vectors.astype(np.float32)
    return full / np.linalg.norm(full, axis=1, keepdims=True)


def _nearest(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(cosines, places) of the k nearest rows.

    For one query FAISS reads the matrix with one thread, which memory could serve twice: so each CPU takes a slice.
    """
    import faiss

    def within(first: int, after: int) -> tuple[np.ndarray, np.ndarray]:
        rows = vectors[first:after]
        if not len(rows) or not k:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        scores, places = faiss.knn(queries, rows, min(k, len(rows)), metric=faiss.METRIC_INNER_PRODUCT)
        return scores, np.where(places >= 0, places + first, -1)

    if len(queries) > FEW or not len(vectors):
        return within(0, len(vectors))
    cuts = np.linspace(0, len(vectors), cpus() + 1, dtype=int).tolist()
    slices = [cut for cut in itertools.pairwise(cuts) if cut[0] < cut[1]]
    found = list(_threads().map(lambda cut: within(*cut), slices))
    scores, places = (np.hstack(part) for part in zip(*found, strict=True))
    return best(scores, places, k)


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _threads() -> ThreadPoolExecutor:
    import faiss

    # Of each of these threads OpenMP would make as many again, to share one query out: they doubled its time.
    return ThreadPoolExecutor(cpus(), "exact", lambda: faiss.omp_set_num_threads(1))
