"""Queries → hits, from index builds. No cluster, and no network but for a query picture given by its URL.

A build is a snapshot: index, facts, rights, captions and words of the same live rows. Only what is forgotten, gone from
its source or corrected by a person since is read anew: that holds at once.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.builds import Build
from pipeline.duplicates.report import collapse
from pipeline.photo import Hit, UserError
from pipeline.search.fusing import fused
from pipeline.search.hits import hits_json, in_words
from pipeline.search.query import Answer, Embedder, Mode, Picture, Query, check
from pipeline.search.ranking import ask, by_vector, by_words
from pipeline.search.vectors import MAX_PICTURE_PIXELS, Space, from_anywhere, pictures, read_picture

__all__ = [
    "MAX_PICTURE_PIXELS", "Answer", "Embedder", "Mode", "Picture", "Query", "Space", "answers", "check", "hits_json",
    "in_words", "model_of", "ranking_name", "read_picture", "search", "search_many", "within",
]  # fmt: skip

BATCH = 256  # queries answered together,
MOST_FOUND = 500_000  # as long as they are not to find more than this
DEEPER = 8  # times as deep, where copies left too few
DEPTH = 100  # of the rankings that are fused, or ten times the hits asked for
WORDS = "words"  # the name of the ranking by words; those by vectors have their embeddings' names
FACTS = ("photo_id", "title", "caption", "caption_model", "caption_by", "labels", "objects", "date_taken",
         "license_id", "license_name", "license_url", "owner", "page_url", "width", "height")  # fmt: skip

Place = tuple[int, int]  # which of the builds, and the row id in it
Ranking = list[tuple[Place, float]]  # best first, with scores
Found = Sequence[tuple[Place, float, Mapping[str, int]]]  # the same, with the rank in each ranking that was fused


def search(build: Build, query: Query, load: Callable[[], Embedder]) -> Answer:
    """The best photos for one query; see `answers`."""
    return search_many(build, [query], load)[0]


def search_many(build: Build, queries: Sequence[Query], load: Callable[[], Embedder]) -> list[Answer]:
    """The best photos for each query; see `answers`."""
    return list(answers([build], queries, lambda _: load()))


def answers(
    builds: Sequence[Build],
    queries: Iterable[Query],
    load: Callable[[Build], Embedder],
    copies: Mapping[int, int] | None = None,
) -> Iterator[Answer]:
    """The best photos for each query in turn, within those that its `where` keeps.

    `load` gives the model that an index was made with; it is called once for each, and only if a query holds words or a
    picture from outside to be embedded. A photo that a query names by its id is never a hit of it. What several builds
    find is fused, photo by photo; words are those of the first. With `copies`, as duplicates.report.groups gives them,
    a hit stands for those of its exact and near copies that would follow it. Raises UserError.
    """
    spaces = [Space(build, build.news(), functools.cache(functools.partial(model_of, build, load))) for build in builds]
    yield from within(spaces, queries, copies)


def within(
    spaces: Sequence[Space],
    queries: Iterable[Query],
    copies: Mapping[int, int] | None = None,
    outside: Callable[[str], Picture] = from_anywhere,
) -> Iterator[Answer]:
    """As `answers`, of builds that are made ready; what pictures are that none of them holds, `outside` says."""
    for batch in _batches(queries, lambda query: _depth(query, len(spaces))):
        yield from _answers(spaces, batch, copies, outside)


def model_of(build: Build, load: Callable[[Build], Embedder]) -> Embedder:
    """The model that an index was made with. Raises UserError where `load` gives another."""
    embedder = load(build)
    ours, theirs = embedder.identity(), build.card["identity"]
    # The licence is a label: vectors do not depend on it, and it may become known only later.
    differing = [key for key in ours if key != "weights_license" and ours[key] != theirs.get(key)]
    if differing:
        made, given = (" / ".join(filter(None, (i.get("model"), i.get("pretrained")))) for i in (theirs, ours))
        raise UserError(
            f"the index of {build.card['of']} was made with {made}, this model is {given}: they differ in "
            f"{', '.join(differing)}; search with the index's own model, or annotate and index anew"
        )
    return embedder


def _batches(queries: Iterable[Query], cost: Callable[[Query], int]) -> Iterator[list[Query]]:
    batch: list[Query] = []
    found = 0
    for query in queries:
        if batch and (len(batch) == BATCH or found + cost(query) > MOST_FOUND):
            yield batch
            batch, found = [], 0
        batch.append(query)
        found += cost(query)
    if batch:
        yield batch


def _depth(query: Query, builds: int, deeper: int = 1) -> int:
    """How many a ranking is to find for a query: more than it asks for, where rankings are fused."""
    is_fused = query.mode == "hybrid" or (query.mode == "vector" and builds > 1)
    return (max(DEPTH, 10 * query.k) if is_fused else query.k) * deeper


def _answers(
    spaces: Sequence[Space],
    queries: Sequence[Query],
    copies: Mapping[int, int] | None,
    outside: Callable[[str], Picture],
    deeper: int = 1,
) -> list[Answer]:
    for query in queries:
        check(query)
    held = [space.photos(queries) for space in spaces]
    named = pictures(held, queries, outside)
    depths = [_depth(query, len(spaces), deeper) for query in queries]
    rankings, among = _rankings(spaces, queries, depths, held, named)
    homes = _homes(spaces, rankings)
    best = [_best(query, ranked, homes) for query, ranked in zip(queries, rankings, strict=True)]
    stands_for: list[dict[int, int]] = [{} for _ in queries]
    if copies is not None:
        stands_for = [collapse(copies, [place[1] for place, _, _ in found]) for found in best]
        best = [[hit for hit in found if hit[0][1] in kept] for found, kept in zip(best, stands_for, strict=True)]
    shown = [found[: query.k] for query, found in zip(queries, best, strict=True)]
    facts = _facts(spaces, {place for found in shown for place, _, _ in found})
    answers = []
    for number, (query, found, kept) in enumerate(zip(queries, shown, among, strict=True)):
        full = any(len(ranking) >= depths[number] for ranking in rankings[number].values())
        if copies is not None and len(found) < query.k and full:
            # So many copies stood before others that too few were left: only asking deeper tells.
            answers += _answers(spaces, [query], copies, outside, deeper * DEEPER)
            continue
        hits = [
            Hit(rank, score, row_id=place[1], **facts[place], ranks=ranks, copies=stands_for[number].get(place[1]))
            for rank, (place, score, ranks) in enumerate(found, 1)
        ]
        asked = [named[name] for name in dict.fromkeys(query.names()) if name in named]
        answers.append(Answer(query, tuple(hits), tuple(asked), kept))
    return answers


def _rankings(
    spaces: Sequence[Space],
    queries: Sequence[Query],
    depths: Sequence[int],
    held: Sequence[Mapping[str, int]],
    named: Mapping[str, Picture],
) -> tuple[list[dict[str, Ranking]], list[int | None]]:
    """What each query finds in each build, by the name of the ranking, and how many photos its `where` keeps."""
    rankings: list[dict[str, Ranking]] = [{} for _ in queries]
    among: list[int | None] = [None] * len(queries)
    for number, space in enumerate(spaces):
        of, asked = ranking_name(space.build), ask(space, queries, depths, held[number], named)
        for where, places in _alike(queries):
            kept = None if where is None else space.matching(where)
            group = [asked[place] for place in places]
            found = [(place, of, ranking) for place, ranking in by_vector(space, group, kept)]
            if number == 0:
                found += [(place, WORDS, ranking) for place, ranking in by_words(space, group, kept)]
            for place, name, ranking in found:
                rankings[places[place]][name] = [((number, row_id), score) for row_id, score in ranking]
                if kept is not None:
                    among[places[place]] = max(among[places[place]] or 0, len(kept))
    return rankings, among


def ranking_name(build: Build) -> str:
    """What a ranking by vectors is called: as its embeddings, unless those are called as the other kind of ranking."""
    of: str = build.card["of"]
    return f"embeddings/{of}" if of == WORDS else of


def _alike(queries: Sequence[Query]) -> list[tuple[str | None, list[int]]]:
    """The places of the queries that are asked within the same photos."""
    places: dict[str | None, list[int]] = {}
    for place, query in enumerate(queries):
        places.setdefault(query.where, []).append(place)
    return list(places.items())


def _homes(spaces: Sequence[Space], rankings: Sequence[Mapping[str, Ranking]]) -> dict[Place, Place]:
    """Where a photo that was found in one of several builds has its facts: in the first that holds it."""
    if len(spaces) == 1:
        return {}
    found = {place for ranked in rankings for ranking in ranked.values() for place, _ in ranking}
    photos: dict[Place, str] = {}
    for number, space in enumerate(spaces):
        facts = space.build.facts([row_id for of, row_id in found if of == number], ["photo_id"])
        photos |= {(number, row_id): fact["photo_id"] for row_id, fact in facts.items()}
    first: dict[str, Place] = {}
    for number, space in enumerate(spaces):
        for photo_id, row_id in space.build.row_ids(set(photos.values())).items():
            first.setdefault(photo_id, (number, row_id))
    return {place: first[photo_id] for place, photo_id in photos.items()}


def _best(query: Query, rankings: Mapping[str, Ranking], homes: Mapping[Place, Place]) -> Found:
    """What a query's rankings come to, best first: where, the score, and the rank in each that was fused."""
    if query.mode == "hybrid" or len(rankings) > 1:
        return fused({name: [homes.get(place, place) for place, _ in found] for name, found in rankings.items()})
    return [(place, score, {}) for found in rankings.values() for place, score in found]


def _facts(spaces: Sequence[Space], places: Iterable[Place]) -> dict[Place, dict[str, Any]]:
    """What hits show of photos, people's captions since the build was made included."""
    told: dict[Place, dict[str, Any]] = {}
    for number, space in enumerate(spaces):
        row_ids = [row_id for of, row_id in places if of == number]
        facts = space.build.facts(row_ids, FACTS) if row_ids else {}
        for row_id in facts.keys() & space.news.captions.keys():
            word = space.news.captions[row_id]
            facts[row_id] |= {"caption": word.value, "caption_model": None, "caption_by": word.by}
        told |= {(number, row_id): fact for row_id, fact in facts.items()}
    return told
