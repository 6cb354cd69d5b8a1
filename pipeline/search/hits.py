"""Answers as others read them: a formula, the documented JSON, rows of a Parquet file."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schemas, storage
from pipeline.builds import SAID, Build, tables
from pipeline.photo import Hit
from pipeline.search.query import Answer, Picture

ROWS = 20_000  # of a row group
HITS = pa.schema(
    [
        ("query", pa.int64()),  # which one, counted from 0
        ("id", pa.string()),  # the user's own name for it
        *((name, pa.string()) for name in ("text", "image", "plus", "minus")),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("ranks", pa.map_(pa.string(), pa.int32())),  # in each of the rankings that were fused
        ("copies", pa.int32()),  # that the hit stands for
        ("row_id", pa.int64()),
        *((name, pa.string()) for name in ("photo_id", "title", "caption", "caption_model", "caption_by")),
        schemas.LABELS.field("labels"),
        schemas.OBJECTS.field("objects"),
        *((name, pa.string()) for name in ("date_taken", "license_id", "license_name", "license_url")),
        *((name, pa.string()) for name in ("owner", "page_url")),
        *((name, pa.int32()) for name in ("width", "height")),  # of the stored picture, upright: boxes are shares of it
    ]
)


def in_words(
    answer: Answer,
    words: Callable[[str], str] = "“{}”".format,
    picture: Callable[[Picture], str] = lambda picture: picture.name,
) -> str:
    """The query as a formula, “a red boat” + 1.5 × (“blue” − “red”), each term as `words` or `picture` shows it."""
    query, pictures = answer.query, {picture.name: picture for picture in answer.pictures}

    def term(name: str | None) -> str:
        assert name is not None
        return picture(pictures[name]) if name in pictures else words(name)

    start = term(query.image or query.text)
    times = "" if query.scale == 1 else f"{query.scale:g} × "
    if query.plus and query.minus:
        return f"{start} + {times}({term(query.plus)} − {term(query.minus)})"
    if query.plus:
        return f"{start} + {times}{term(query.plus)}"
    return f"{start} − {times}{term(query.minus)}" if query.minus else start


def score(hit: Hit) -> str:
    """Its score for people: those of fused rankings are small, and close together."""
    return f"{hit.score:.4f}" if hit.ranks else f"{hit.score:.3f}"


def label(hit: Hit) -> str:
    """Its likeliest label for people, "tent (98 %)", where it has one."""
    return f"{hit.labels[0]['label']} ({hit.labels[0]['probability']:.0%})" if hit.labels else ""


def objects(hit: Hit) -> str:
    """What is seen in it, for people, each thing once: "bicycle (0.62), 2 × wheel (0.41)"; the score is the best."""
    counted = Counter(found["label"] for found in hit.objects or ())
    best = {found["label"]: found["score"] for found in reversed(hit.objects or ())}
    return ", ".join(f"{f'{n} × ' if n > 1 else ''}{name} ({best[name]:.2f})" for name, n in counted.items())


def copies(hit: Hit) -> str:
    """ "and 3 copies", where it stands for some."""
    return f"and {hit.copies:,} {'copy' if hit.copies == 1 else 'copies'}" if hit.copies else ""


def hits_json(builds: Sequence[Build], answer: Answer) -> dict[str, Any]:
    """The documented JSON of an answer: query, index, hits; `indexes` as well where there are several."""
    indexes = [_index_json(build) for build in builds]
    return {
        "query": {key: value for key, value in asdict(answer.query).items() if value is not None},
        "index": indexes[0],
        **({"indexes": indexes} if len(indexes) > 1 else {}),
        "hits": [_hit_json(hit) for hit in answer.hits],
    }


def _index_json(build: Build) -> dict[str, Any]:
    card = build.card
    return {
        "archive": build.archive.url,
        "of": card["of"],
        "build": card["build"],
        "kind": card["kind"],
        "rows": card["rows"],
        **{kind: tables(card).get(kind) for kind in SAID},
    }


def _hit_json(hit: Hit) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "score": round(hit.score, 6),
        **({"ranks": hit.ranks} if hit.ranks else {}),
        **({} if hit.copies is None else {"copies": hit.copies}),
        "photo_id": hit.photo_id,
        "row_id": hit.row_id,
        "title": hit.title,
        "caption": hit.caption,
        "caption_by": hit.caption_by,
        "labels": _rounded(hit.labels),
        "objects": _rounded(hit.objects),
        "date_taken": hit.date_taken,
        "license": {"id": hit.license_id, "name": hit.license_name, "url": hit.license_url},
        "owner": hit.owner,
        "page_url": hit.page_url,
        "width": hit.width,
        "height": hit.height,
    }


def _rounded(told: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Labels or objects, their numbers no longer than they are worth."""
    if told is None:
        return None
    return [{key: round(v, 6) if isinstance(v, float) else v for key, v in one.items()} for one in told]


def write_parquet(url: str, answers: Iterable[Answer]) -> int:
    """Write the hits of queries, a row each, to `url` as they come, and create it whole; how many there are.

    `query` counts the queries from 0. A file that is there is replaced.
    """
    written = 0
    with storage.scratch(url) as path:
        with pq.ParquetWriter(path, HITS, compression="zstd") as file:
            rows: list[dict[str, Any]] = []
            for number, answer in enumerate(answers):
                rows += [_row(number, answer, hit) for hit in answer.hits]
                if len(rows) >= ROWS:
                    file.write_table(pa.Table.from_pylist(rows, HITS))
                    written, rows = written + len(rows), []
            file.write_table(pa.Table.from_pylist(rows, HITS))
        storage.replace(url, path)
    return written + len(rows)


def _row(number: int, answer: Answer, hit: Hit) -> dict[str, Any]:
    query = {name: getattr(answer.query, name) for name in ("id", "text", "image", "plus", "minus")}
    facts = {name: getattr(hit, name) for name in HITS.names if hasattr(hit, name)}
    return {"query": number, **query, **facts, "ranks": list(hit.ranks.items())}
