"""An index and what was added to it since: searched as one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline import indexes
from pipeline.indexes import Index, exact

NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Segment:
    """An index, and those of its rows that hold no longer: int64[n], ascending."""

    index: Index
    masked: np.ndarray = field(default_factory=lambda: NONE)


def nearest(
    segments: Sequence[Segment],
    queries: np.ndarray,
    k: int,
    *,
    among: np.ndarray | None = None,
    without: Iterable[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each query over all segments: as `indexes.search`."""
    excluded = np.fromiter(without, np.int64)
    found = [
        indexes.search(segment.index, queries, k, among=among, without=np.concatenate([excluded, segment.masked]))
        for segment in segments
    ]
    if len(found) == 1:
        return found[0]
    scores, row_ids = (np.hstack(part) for part in zip(*found, strict=True))
    return exact.best(np.where(row_ids >= 0, scores, -np.inf), row_ids, k)
