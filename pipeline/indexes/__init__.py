"""FAISS: unit vectors in, row ids out. The only folder that imports it; one file for each kind of index.

Every index, whatever its kind, is an `IndexIDMap2` over inner products of unit vectors: it answers cosines and row
ids, and gives a stored vector back by its row id.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:  # it takes 190 MB, which those who only fetch can do without
    import faiss

Index: TypeAlias = "faiss.Index"


class Damaged(Exception):
    """A file that is not, or no longer, a whole index."""


def write(index: Index, path: Path) -> None:
    import faiss

    faiss.write_index(index, str(path))


def read(path: Path) -> Index:
    """Raises Damaged for a file that is missing, cut short or something else."""
    import faiss

    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:  # FAISS has no other exception; its text names C++ lines, not the cause
        raise Damaged(f"{path} is not a readable index") from error


def search(
    index: Index,
    queries: np.ndarray,
    k: int,
    *,
    among: np.ndarray | None = None,
    without: Iterable[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each query: (cosines float32[n, k], row ids int64[n, k]), best first, equals by row id.

    `queries`: unit vectors, float32[n, dim]. `among`: row ids to search within, all where None. `without`: row ids not
    to answer. Where fewer than k are found, the row ids end in -1.
    """
    import faiss

    excluded = np.fromiter(without, np.int64)
    selector: faiss.IDSelector | None = None
    if among is not None:
        selector = faiss.IDSelectorBatch(np.setdiff1d(among, excluded))
    elif len(excluded):
        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(excluded))
    params = faiss.SearchParameters()
    params.sel = selector
    scores, row_ids = index.search(np.ascontiguousarray(queries, np.float32), k, params=params)
    order = np.lexsort((row_ids, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(row_ids, order, 1)


def vector(index: Index, row_id: int) -> np.ndarray:
    """The stored unit vector, float32[dim]. Raises KeyError for a row id that is not in the index."""
    try:
        return np.asarray(index.reconstruct(row_id))
    except RuntimeError as error:
        raise KeyError(row_id) from error
