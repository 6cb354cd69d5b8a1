"""How much of the truth an index finds, against numpy over vectors that it was not handed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.indexes import exact

AT = (1, 10, 100)
DEPTH = 200  # rows that are kept of the truth: some of them may be gone when recall is measured again
TIE = 1e-6  # float32 sums taken in another order differ by about this much: such photos are equally near
ROWS, TEXTS = "rows", "texts"  # what queries are: vectors of photos, or of words


@dataclass(frozen=True)
class Truth:
    """Queries, and the rows that are nearest to each by exact search."""

    kinds: np.ndarray  # str[n]: ROWS or TEXTS
    own: np.ndarray  # int64[n]: the row that a query is, which is no answer to it; -1 for words
    queries: np.ndarray  # float32[n, dim]
    row_ids: np.ndarray  # int64[n, DEPTH], best first, -1 where there are no more
    scores: np.ndarray  # float32[n, DEPTH], cosines
    photo_ids: dict[int, str]  # of those rows, as the vectors' table names them


def asked(kinds: np.ndarray, own: np.ndarray, queries: np.ndarray) -> Truth:
    """Queries of which nothing is known yet."""
    nothing = np.full((len(queries), DEPTH), -1)
    return Truth(kinds, own, queries, nothing, np.full(nothing.shape, -np.inf, np.float32), {})


def told(truth: Truth, pieces: Iterable[tuple[np.ndarray, np.ndarray, pa.ChunkedArray]]) -> Truth:
    """The truth with more rows known: (row ids int64[m], unit vectors float32[m, dim], photo ids) piece by piece."""
    row_ids, scores, photo_ids = truth.row_ids, truth.scores, dict(truth.photo_ids)
    waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # (queries, row ids, cosines) that may be among them
    for ids, vectors, names in pieces:
        products = truth.queries @ vectors.T
        products[truth.own[:, None] == ids] = -np.inf
        query, place = np.nonzero(products > scores[:, -1:])
        waiting.append((query, ids[place], products[query, place]))
        some = np.unique(place)
        photo_ids |= zip(ids[some].tolist(), names.take(pa.array(some)).to_pylist(), strict=True)
        if sum(len(queries) for queries, _, _ in waiting) > scores.size:
            row_ids, scores = _settled(row_ids, scores, waiting)
            waiting = []
    row_ids, scores = _settled(row_ids, scores, waiting)
    kept = set(row_ids.ravel().tolist())
    names_kept = {row_id: name for row_id, name in photo_ids.items() if row_id in kept}
    return replace(truth, row_ids=row_ids, scores=scores, photo_ids=names_kept)


def _settled(
    row_ids: np.ndarray, scores: np.ndarray, waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """The DEPTH best of each query, of those so far and those that wait."""
    n = len(row_ids)
    pieces = [(np.repeat(np.arange(n), DEPTH), row_ids.ravel(), scores.ravel()), *waiting]
    query, ids, values = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.lexsort((ids, -values, query))
    first = np.searchsorted(query[order], np.arange(n))
    chosen = order[first[:, None] + np.arange(DEPTH)]
    return ids[chosen], values[chosen].astype(np.float32)


def some(truth: Truth, one_in: int) -> Truth:
    """Every so many of the queries."""
    rows = {name: getattr(truth, name)[::one_in] for name in ("kinds", "own", "queries", "row_ids", "scores")}
    return replace(truth, **rows)


def without(truth: Truth, gone: np.ndarray) -> Truth:
    """The truth without some rows."""
    if not len(gone):
        return truth
    scores = np.where(np.isin(truth.row_ids, gone, kind="sort"), -np.inf, truth.scores)
    scores, row_ids = exact.best(scores, truth.row_ids, DEPTH)
    return replace(truth, row_ids=row_ids, scores=scores)


def recall(
    truth: Truth,
    found: np.ndarray,
    names: Mapping[int, str],
    cosine: Callable[[int, int], float],
    at: Sequence[int] = AT,
) -> dict[str, dict[str, float]]:
    """By kind of query, the mean share of the k nearest that were found, for each k of `at`.

    A row as near as the k-th is as good as it.

    Args:
        found: row ids, int64[n, m], best first, -1 where there are none
        names: photo ids of rows found; one that is not the photo's whose vector was nearest is not right
        cosine: of a query (its number) and a row, from the vectors' table: asked only for what is tied with the last
    """
    right = np.zeros((len(found), len(at)))
    available = np.isfinite(truth.scores).sum(axis=1)
    for query, row_ids in enumerate(found):
        known = dict(zip(truth.row_ids[query].tolist(), truth.scores[query].tolist(), strict=True))
        hits = [row_id for row_id in row_ids.tolist() if row_id >= 0 and row_id != truth.own[query]]
        for place, k in enumerate(at):
            if (wanted := min(k, int(available[query]))) == 0:
                continue
            last = float(truth.scores[query, wanted - 1]) - TIE
            tied = truth.scores[query, available[query] - 1] >= last  # some of these may have been cut off
            for row_id in hits[:wanted]:
                if row_id in known:
                    good = known[row_id] >= last and names.get(row_id) == truth.photo_ids[row_id]
                else:
                    good = bool(tied) and cosine(query, row_id) >= last
                right[query, place] += good / wanted
    measured = {}
    for kind in (ROWS, TEXTS):
        if (here := (truth.kinds == kind) & (available > 0)).any():
            shares = {f"recall@{k}": round(float(right[here, place].mean()), 4) for place, k in enumerate(at)}
            measured[kind] = shares | {"queries": int(here.sum())}
    return measured


def write(truth: Truth, path: Path) -> None:
    ids = [[int(row_id) for row_id in row if row_id >= 0] for row in truth.row_ids]
    columns = {
        "kind": pa.array(truth.kinds.tolist(), pa.string()),
        "own": pa.array(truth.own),
        "query": pa.array(list(truth.queries), pa.list_(pa.float32(), truth.queries.shape[1])),
        "row_ids": pa.array(ids, pa.list_(pa.int64())),
        "photo_ids": pa.array([[truth.photo_ids[row_id] for row_id in row] for row in ids], pa.list_(pa.string())),
        "scores": pa.array([row[: len(i)] for row, i in zip(truth.scores, ids, strict=True)], pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def read(path: Path) -> Truth:
    rows = pq.read_table(path)
    queries = rows["query"].combine_chunks()
    truth = asked(
        np.array(rows["kind"].to_pylist()),
        rows["own"].to_numpy(),
        queries.flatten().to_numpy().reshape(len(queries), queries.type.list_size),
    )
    names: dict[int, str] = {}
    columns = (rows[name].to_pylist() for name in ("row_ids", "scores", "photo_ids"))
    for query, (row_ids, scores, photo_ids) in enumerate(zip(*columns, strict=True)):
        truth.row_ids[query, : len(row_ids)] = row_ids
        truth.scores[query, : len(scores)] = scores
        names |= zip(row_ids, photo_ids, strict=True)
    return replace(truth, photo_ids=names)
