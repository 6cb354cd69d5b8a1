"""Exact search: every query is compared with every vector. No training; recall is 1 by construction."""

from collections.abc import Iterable

import numpy as np

from pipeline.indexes import Index


def build(vectors: Iterable[tuple[np.ndarray, np.ndarray]], dim: int) -> Index:
    """An exact index of (row ids int64[n], unit vectors float32[n, dim]), drawn piece by piece; dim × 4 bytes a row."""
    import faiss

    index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
    for row_ids, rows in vectors:
        index.add_with_ids(rows, row_ids)
    return index


def plain(vectors: Iterable[np.ndarray], dim: int) -> Index:
    """An exact index as other programs expect it: of float32[n, dim] blocks, numbered from 0 in their order."""
    import faiss

    index = faiss.IndexFlatIP(dim)
    for rows in vectors:
        index.add(rows)
    return index
