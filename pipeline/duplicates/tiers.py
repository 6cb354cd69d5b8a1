"""Three tiers of alike photos, each made of the one before: exact copies, near copies, similar pictures.

A tier is told by the representative of each photo, int64[n]: places among the photos, which are sorted best first, so
that a representative stands before those that it represents. Photos alone in their group represent themselves.
"""

from collections.abc import Callable, Iterator

import numpy as np

from pipeline.builds import Build
from pipeline.duplicates.bits import components, distances

NEAR_BITS = 6  # of 64, that copies may differ in
NEAR_COSINE = 0.9  # at least, of copies: nearly blank pictures, say, have like hashes too
BATCH = 256  # photos at a time of which it is asked who is close to them
CROWD = 1 << 24  # bits and cosines of them with others, held at a time
NEIGHBOURS = 32  # of each, at first; where all are similar, more
DEEPER = 8  # times as many then

# (photos asked int64[m], the leader of each photo so far int64[n]) → for each asked, which are close, and how close
Close = Callable[[np.ndarray, np.ndarray], Iterator[tuple[np.ndarray, np.ndarray]]]
Vectors = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Told = Callable[[int], None]  # how many more photos are done


def exact(files: np.ndarray) -> np.ndarray:
    """Photos whose files are the same, byte for byte. `files`: int64[n], a number a file, -1 where it is not known."""
    known = np.flatnonzero(files >= 0)
    of = np.arange(len(files))
    _, first, which = np.unique(files[known], return_index=True, return_inverse=True)
    of[known] = known[first][which]
    return of


def near(exactly: np.ndarray, hashes: np.ndarray, hashed: np.ndarray, vectors: Vectors) -> np.ndarray:
    """Photos whose hashes are within NEAR_BITS of their representative's, and whose vectors agree that they are alike.

    `exactly`: the tier before. `hashes`: uint64[n], where `hashed`, bool[n]. `vectors(places)` → unit vectors
    float32[m, dim], and whether there is one, bool[m]; without one, the hash alone decides.
    """
    of = exactly.copy()
    files = np.flatnonzero(hashed & (exactly == np.arange(len(of))))
    component = components(hashes[files], NEAR_BITS)
    order = np.argsort(component, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(component[order])) + 1):
        if len(members) > 1:
            places = files[members]
            close = _close_by_hash(hashes[places], *vectors(places))
            of[places] = places[led(len(places), close, min(BATCH, 1 + CROWD // len(places)))]
    return of[exactly]


def _close_by_hash(hashes: np.ndarray, vectors: np.ndarray, has: np.ndarray) -> Close:
    def close(asked: np.ndarray, leader: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        bits = distances(hashes[asked], hashes[asked[0] :])  # whom they could lead stands behind them
        there = np.flatnonzero((bits <= NEAR_BITS).any(axis=0))
        bits, candidates = bits[:, there], asked[0] + there
        unlike = vectors[asked] @ vectors[candidates].T < NEAR_COSINE
        unlike &= has[asked, None] & has[candidates]
        for row in np.where(unlike, NEAR_BITS + 1, bits):
            here = row <= NEAR_BITS
            yield candidates[here], -row[here].astype(np.float32)

    return close


def similar(
    nearly: np.ndarray, row_ids: np.ndarray, build: Build, vectors: Vectors, least: float, told: Told
) -> np.ndarray:
    """Photos whose vectors have a cosine of at least `least` with their representative's.

    `nearly`: the tier before. As sure as the index is: one that is not exact may miss some.
    """
    of = nearly.copy()
    places = np.flatnonzero(nearly == np.arange(len(of)))
    by_row_id = np.argsort(row_ids[places])
    ascending = row_ids[places][by_row_id]

    def close(asked: np.ndarray, leader: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        queries, has = vectors(places[asked])
        shallow = zip(*build.nearest(queries, NEIGHBOURS), strict=True)
        for one, query, known, (cosines, found) in zip(asked, queries, has, shallow, strict=True):
            k = NEIGHBOURS
            while known and leader[one] == one and found[-1] >= 0 and cosines[-1] >= least and k < build.card["rows"]:
                k *= DEEPER
                [cosines], [found] = build.nearest(query[None], k)
            at = np.searchsorted(ascending, found).clip(max=len(ascending) - 1)
            # Not where the row id is -1, or that of a copy, which another photo represents.
            here = known & (ascending[at] == found) & (cosines >= least)
            yield by_row_id[at[here]], cosines[here]
        told(len(asked))

    of[places] = places[led(len(places), close, BATCH)]
    return of[nearly]


def led(number: int, close: Close, batch: int) -> np.ndarray:
    """The leader of each of so many photos, best first: int64[number].

    A photo to which no better leader is close leads itself. The others follow the closest of those leaders, the best
    where several are as close. So all of a group are close to its leader, and no chain ties unlike pictures together.
    """
    leader = np.arange(number)
    closeness = np.full(number, -np.inf, np.float32)
    for first in range(0, number, batch):
        asked = np.arange(first, min(first + batch, number))
        asked = asked[leader[asked] == asked]
        if not len(asked):
            continue
        for one, (others, how) in zip(asked, close(asked, leader), strict=True):
            if leader[one] == one:
                closer = (others > one) & (how > closeness[others])
                leader[others[closer]] = one
                closeness[others[closer]] = how[closer]
    return leader
