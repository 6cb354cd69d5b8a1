"""What captions are like: how long, of which words, how sure; and those that are worth a look."""

import math
from collections.abc import Sequence
from typing import Any

from pipeline.builds import Build

WORDS = 30
COUNTED = 1_000_000  # captions: words of more would take minutes
BINS = 30
LOWEST = 6
TAIL = 0.005  # of the values on either side may lie outside the bins
# Words that say nothing of a picture.
STOP = ("the", "and", "with", "from", "that", "this", "there", "their", "its", "his", "her", "has", "are", "for")
MARKS = '.,;:!?()[]"“”‘’'  # at either end of a word
MEASURES = {"logprob": "caption_logprob", "cosine": "caption_cosine"}
MACHINES = "caption IS NOT NULL AND caption_by IS NULL AND row_id NOT IN (SELECT unnest(?::BIGINT[]))"


def captions(build: Build) -> dict[str, Any] | None:
    """Of the captions in a build: `{"machine", "people", "none", "models", "lengths", "words", "logprob", "cosine"}`.

    None where the build was made without captions. What it says beside the counts is said of machines' captions.
    """
    if not build.card["captions"]:
        return None
    news = build.news()
    # What a person has corrected since is no machine's any more.
    hidden = sorted(news.hidden | news.captions.keys())
    corrected = [change for row_id, change in news.captions.items() if row_id not in news.hidden]
    cursor = build.database.cursor()

    def ask(sql: str, *more: Any) -> list[tuple[Any, ...]]:
        return cursor.execute(sql, [hidden, *more]).fetchall()

    [(machine, people, none)] = ask(
        "SELECT count(caption) FILTER (caption_by IS NULL), count(caption_by), count(*) - count(coalesce(caption, "
        "caption_by)) FROM photos WHERE row_id NOT IN (SELECT unnest(?::BIGINT[]))"
    )
    models = ask(f"SELECT caption_model, count(*) FROM photos WHERE {MACHINES} GROUP BY ALL ORDER BY 2 DESC, 1")
    words = "len(string_split(trim(caption), ' '))"
    lengths = ask(f"SELECT {words}, count(*) FROM photos WHERE {MACHINES} GROUP BY ALL ORDER BY 1")
    one_in = max(1, math.ceil(machine / COUNTED))
    return {
        "machine": machine,
        "people": people + len(corrected),
        "none": none,
        "models": {model or "unknown": number for model, number in models},
        "lengths": {str(length): number for length, number in lengths},
        "words": dict(ask(_frequent(one_in), [*STOP])),
        "words_one_in": one_in,
        **{name: _spread(ask, column) for name, column in MEASURES.items()},
    }


def _frequent(one_in: int) -> str:
    """How many captions hold a word, of one photo in so many, most first."""
    some = f"FROM photos WHERE {MACHINES} AND row_id % {one_in} = 0"
    tokens = f"SELECT unnest(list_distinct(string_split(lower(caption), ' '))) AS token {some}"
    counted = f"SELECT trim(token, '{MARKS}') AS word, count(*) AS captions FROM ({tokens}) GROUP BY token"
    return (
        f"SELECT word, sum(captions)::BIGINT FROM ({counted}) WHERE len(word) > 2 "
        f"AND NOT list_contains(?::VARCHAR[], word) GROUP BY ALL ORDER BY 2 DESC, 1 LIMIT {WORDS}"
    )


def _spread(ask: Any, column: str) -> dict[str, Any] | None:
    """How the values of a column lie, and the photos with the lowest; None where it has none."""
    known = f"FROM photos WHERE isfinite({column}) AND {MACHINES}"
    [(number, least, low, median, high, most)] = ask(
        f"SELECT count(*), min({column}), quantile_cont({column}, {TAIL}), median({column}), "
        f"quantile_cont({column}, {1 - TAIL}), max({column}) {known}"
    )
    if not number:
        return None
    wide = (high - low) / BINS
    place = f"greatest(0, least({BINS - 1}, floor(({column} - {low!r}) / {wide!r})::INT))" if wide else "0"
    counts = dict(ask(f"SELECT {place}, count(*) {known} GROUP BY ALL"))
    bins = range(BINS) if wide else range(1)
    lowest: Sequence[tuple[Any, ...]] = ask(
        f"SELECT row_id, photo_id, {column} {known} ORDER BY {column}, row_id LIMIT {LOWEST}"
    )
    return {
        "captions": number,
        "least": round(least, 4),
        "median": round(median, 4),
        "most": round(most, 4),
        "bins": [{"from": round(low + wide * n, 4), "captions": counts.get(n, 0)} for n in bins],
        "lowest": [{"row_id": row, "photo_id": photo, "value": round(value, 4)} for row, photo, value in lowest],
    }
