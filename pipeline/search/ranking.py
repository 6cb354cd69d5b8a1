"""What one build finds for many queries at once: a ranking by vectors, and one by words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.search.query import Picture, Query
from pipeline.search.vectors import Space, vectors

Ranking = list[tuple[int, float]]  # row ids and scores, best first


@dataclass(frozen=True)
class Asked:
    """A query, as it is put to one build."""

    query: Query
    depth: int  # how many its rankings are to find
    own: frozenset[int]  # the photos it names, never hits of it
    vector: np.ndarray | None  # unit, float32[dim]; None where it is about words alone


def ask(
    space: Space,
    queries: Sequence[Query],
    depths: Sequence[int],
    held: Mapping[str, int],
    named: Mapping[str, Picture],
) -> list[Asked]:
    """Queries as they are put to a build; `held` and `named` as in `vectors`. Raises UserError."""
    seeing = [query for query in queries if query.mode != "words"]
    found = iter(vectors(space, seeing, held, named) if seeing else ())
    return [
        Asked(
            query,
            depth,
            frozenset(held[name] for name in query.names() if name in held),
            None if query.mode == "words" else next(found),
        )
        for query, depth in zip(queries, depths, strict=True)
    ]


def by_vector(space: Space, asked: Sequence[Asked], among: np.ndarray | None) -> Iterator[tuple[int, Ranking]]:
    """(place among `asked`, ranking by cosine) of each query that has a vector.

    Those of one depth are searched together. Photos that they name are not kept from the search, since each names
    others: as many more are asked for, and dropped after.
    """
    for depth in {one.depth for one in asked}:
        places = [place for place, one in enumerate(asked) if one.depth == depth and one.vector is not None]
        if not places:
            continue
        together = np.stack([one.vector for one in asked if one.depth == depth and one.vector is not None])
        more = max(len(asked[place].own) for place in places)
        k = min(depth + more, space.build.card["photos"])
        cosines, row_ids = space.build.nearest(together, k, among=among, without=space.news.hidden)
        for place, scores, rows in zip(places, cosines.tolist(), row_ids.tolist(), strict=True):
            own = asked[place].own
            found = [(row, score) for row, score in zip(rows, scores, strict=True) if row >= 0 and row not in own]
            yield place, found[:depth]


def by_words(space: Space, asked: Sequence[Asked], among: np.ndarray | None) -> Iterator[tuple[int, Ranking]]:
    """(place among `asked`, ranking by BM25) of each query that is about words."""
    for place, one in enumerate(asked):
        if one.query.mode != "vector":
            without = space.news.hidden | one.own
            yield place, space.build.words(one.query.text or "", one.depth, among=among, without=without)
