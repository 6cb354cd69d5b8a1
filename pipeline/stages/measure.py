"""What a build is worth: recall against exact search over the Parquet tables, for photos and for words; latency."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import indexes, schemas, storage
from pipeline.archive import Archive, Table
from pipeline.indexes import exact, recall
from pipeline.indexes.recall import ROWS, TEXTS, Truth
from pipeline.indexes.segments import Segment, nearest
from pipeline.photo import UserError
from pipeline.stages.contents import read_vectors, vectors

SEED = 0
QUERIES = {ROWS: 1000, TEXTS: 200}
USUAL = 10  # hits that are asked for
TIMED = 100  # single queries
TRIED = 5  # one query in so many is asked first
NEARLY = 0.01  # recall that these may lack
TIED = 64  # parts whose vectors are kept for what is tied
SPARE = 10  # rows for each that is held out of training

Names = Callable[[np.ndarray], Mapping[int, str]]  # row ids that were found, int64[n, m], -1 for none → photo ids
Ask = Callable[[Truth, Sequence[int]], dict[str, dict[str, float]]]


def held_out(row_ids: np.ndarray) -> np.ndarray:
    """Rows to measure recall with, int64[n], ascending: a seeded sample."""
    return np.sort(np.random.default_rng(SEED).choice(row_ids, min(QUERIES[ROWS], len(row_ids)), replace=False))


class Words(NamedTuple):
    """Texts as queries, unit vectors float32[n, dim]; or why there are none."""

    vectors: np.ndarray | None
    why_not: str | None = None


def words(archive: Archive, identity: dict[str, Any], photos: Path) -> Words:
    """Titles of photos, embedded by the model that made the vectors."""
    titles = pc.unique(pq.read_table(photos, columns=["title"])["title"].drop_null()).to_pylist()
    titles = sorted(title for title in titles if title.strip())
    if not titles:
        return Words(None, "no photo has a title")
    some = np.random.default_rng(SEED).choice(titles, min(QUERIES[TEXTS], len(titles)), replace=False).tolist()
    if not {"model", "pretrained", "checkpoint_sha256"} <= identity.keys():
        return Words(None, "the vectors do not say which model made them")
    sha256 = identity["checkpoint_sha256"]
    if sha256 and not storage.names(storage.join(archive.url, "models", sha256)):
        return Words(None, "the archive does not hold the model's weights; `tintype models CONF` puts them there")
    from pipeline.models import store

    try:
        model = store.load(archive.url, identity["model"], identity["pretrained"], sha256)
    except UserError as error:
        return Words(None, f"the model is not at hand: {error}")
    return Words(model.embed_texts(some))


def truth(embeddings: Table, row_ids: np.ndarray, sample: np.ndarray, texts: Words) -> tuple[Truth, dict[str, int]]:
    """The nearest rows to each query, and how many rows have no vector, by problem. It reads every part once."""
    found = list(vectors(embeddings, sample))
    known = [np.concatenate([piece.row_ids for piece in found]), np.concatenate([piece.unit for piece in found])]
    kinds = [ROWS] * len(known[0])
    if texts.vectors is not None:
        kinds += [TEXTS] * len(texts.vectors)
        known = [
            np.concatenate([known[0], np.full(len(texts.vectors), -1)]),
            np.concatenate([known[1], texts.vectors]),
        ]
    problems: dict[str, int] = {}
    return recall.told(recall.asked(np.array(kinds), *known), _pieces(embeddings, row_ids, problems)), problems


def grown(base: Truth, masked: np.ndarray, embeddings: Table, row_ids: np.ndarray) -> tuple[Truth, dict[str, int]]:
    """The truth of a base build after rows went and others came."""
    problems: dict[str, int] = {}
    return recall.told(recall.without(base, masked), _pieces(embeddings, row_ids, problems)), problems


def _pieces(
    embeddings: Table, row_ids: np.ndarray, problems: dict[str, int]
) -> Iterator[tuple[np.ndarray, np.ndarray, pa.ChunkedArray]]:
    for found in vectors(embeddings, row_ids):
        for problem in found.problems:
            problems[problem] = problems.get(problem, 0) + 1
        if len(found.row_ids):
            yield found.row_ids, found.unit, found.photo_ids


def measure(
    segments: Sequence[Segment], known: Truth, embeddings: Table, keys: Sequence[pa.Table], min_recall: float
) -> dict[str, Any]:
    """Raise the effort of the first segment's index until recall@10 passes, or all has been tried; recall and latency.

    `keys`: row_id and photo_id of the build's rows, by row id, of one folder or two.
    """
    ask = _asking(segments, embeddings, functools.partial(_named, keys))
    usual, more = [k for k in recall.AT if k <= USUAL], [k for k in recall.AT if k > USUAL]
    some = recall.some(known, TRIED)
    measured: dict[str, Any] = {}
    passed = False
    first = not segments[0].index.effort
    efforts = list(_efforts(segments[0].index))

    def take(effort: indexes.Effort) -> None:
        for segment in segments:
            indexes.set_effort(segment.index, effort)

    for number, effort in enumerate(efforts, 1):
        take(effort)
        # All queries are asked where some of them found enough.
        if number < len(efforts) and not _passes(ask(some, usual), min_recall - NEARLY):
            continue
        measured = ask(known, usual)
        if passed := _passes(measured, min_recall):
            break
    more_of_all = number < len(efforts) and all(efforts[number][name] >= value for name, value in effort.items())
    if first and more_of_all and TEXTS not in measured:
        # Words lie elsewhere in the space than pictures, and want more: where none could be asked, one step more.
        take(efforts[number])
        measured = ask(known, usual)
    for kind, shares in ask(known, more).items():
        measured[kind].pop("queries")
        measured[kind] |= shares
    return {
        "recall": {kind: measured.get(kind) for kind in (ROWS, TEXTS)}
        | {"seed": SEED, "min_recall": min_recall, "passed": passed},
        "latency_ms": latency(segments, known.queries),
    }


def curve(
    segments: Sequence[Segment], known: Truth, embeddings: Table, names: Names, seconds: float
) -> list[dict[str, Any]]:
    """Recall@10 by kind of query, and latency, at each effort: `[{"effort", "recall", "latency_ms"}]`.

    From little effort on, until all is found or so many seconds have passed. One query in TRIED is asked, and the
    segments' efforts are afterwards as they were.
    """
    ask, some = _asking(segments, embeddings, names), recall.some(known, TRIED)
    before = [segment.index.effort for segment in segments]
    end = perf_counter() + seconds
    steps: list[dict[str, Any]] = []
    for effort in indexes.ladder(segments[0].index):
        for segment in segments:
            indexes.set_effort(segment.index, effort)
        measured = ask(some, [USUAL])
        shares = {kind: share[f"recall@{USUAL}"] for kind, share in measured.items()}
        steps.append({"effort": effort, "recall": shares, "latency_ms": latency(segments, some.queries)})
        if perf_counter() > end or min(shares.values(), default=1.0) == 1.0:
            break
    for segment, effort in zip(segments, before, strict=True):
        indexes.set_effort(segment.index, effort)
    return steps


def _asking(segments: Sequence[Segment], embeddings: Table, names: Names) -> Ask:
    """What measures recall of these segments as they are, at some depths."""
    part_of = functools.lru_cache(maxsize=TIED)(functools.partial(_units, embeddings))

    def ask(truth: Truth, at: Sequence[int]) -> dict[str, dict[str, float]]:
        def cosine(query: int, row_id: int) -> float:
            units = part_of(row_id >> schemas.ROW_BITS)
            return float(truth.queries[query] @ units[row_id]) if row_id in units else -1.0

        # Each finds itself too. Asked for more, a search looks at more: recall@10 is that of asking for 10.
        _, found = nearest(segments, truth.queries, max(at) + 1)
        return recall.recall(truth, found, names(found), cosine, at)

    return ask


def _passes(measured: Mapping[str, Mapping[str, float]], least: float) -> bool:
    return all(shares[f"recall@{USUAL}"] >= least for shares in measured.values())


def _units(embeddings: Table, part: int) -> dict[int, np.ndarray]:
    """The unit vectors of a part, by row id."""
    ids = embeddings.read(part, ["row_id"])["row_id"].to_numpy()
    found = read_vectors(embeddings, part, ids)
    return dict(zip(found.row_ids.tolist(), found.unit, strict=True))


def _named(keys: Sequence[pa.Table], found: np.ndarray) -> dict[int, str]:
    """The photo ids of rows that were found."""
    row_ids = np.sort(found[found >= 0])
    row_ids = row_ids[np.diff(row_ids, prepend=-1) > 0]
    names: dict[int, str] = {}
    for table in keys:
        places, there = exact.placed(table["row_id"].to_numpy(), row_ids)
        names |= zip(row_ids[there].tolist(), table["photo_id"].take(pa.array(places[there])).to_pylist(), strict=True)
    return names


def _efforts(index: indexes.Index) -> Iterator[indexes.Effort]:
    """From the effort that the index has already, if it has one, upwards."""
    efforts = list(indexes.ladder(index))
    yield from efforts[efforts.index(index.effort) :] if index.effort in efforts else efforts


def latency(segments: Sequence[Segment], queries: np.ndarray, k: int = USUAL) -> dict[str, float]:
    """Milliseconds of one query for k hits, by percentile; {} where there is nothing to ask."""
    seconds = []
    for query in queries[:TIMED]:
        start = perf_counter()
        nearest(segments, query[None], k)
        seconds.append(perf_counter() - start)
    return {f"p{share}": round(1e3 * float(np.percentile(seconds, share)), 3) for share in (50, 99) if seconds}
