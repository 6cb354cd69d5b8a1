"""What is known of the photos: by year, licence and source; and some of them to show.

From an index build where there is one, which holds them in one file; else from the tables, part by part.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas, storage
from pipeline.archive import Archive, rows_in
from pipeline.builds import Build
from pipeline.changes import Change, overlaid
from pipeline.photo import Hit, UserError
from pipeline.search import FACTS
from pipeline.sources.licences import is_restricted

LICENCE = ("license_id", "license_name", "license_url")
LISTED = ["row_id", "photo_id", "source", "date_taken", "date_granularity", *LICENCE, "rights_observed_at", "attempt"]
# No year is 0000: so Flickr writes a date that is not known.
TALLY = f"""
    SELECT nullif(regexp_extract(coalesce(date_taken, ''), '^[0-9]{{4}}'), '0000') AS year,
           coalesce(date_granularity = 'circa', false) AS circa, {", ".join(LICENCE)}, source, count(*)
    FROM photos WHERE row_id NOT IN (SELECT unnest(?::BIGINT[])) GROUP BY ALL
"""
# The same photos whenever it is asked, and no neighbours in the stream.
SAMPLE = "SELECT row_id FROM photos WHERE row_id NOT IN (SELECT unnest(?::BIGINT[])) ORDER BY md5(photo_id) LIMIT ?"


def tally(archive: Archive, build: Build | None) -> dict[str, Any]:
    """`{"counted", "photos", "years": {year: {"photos", "circa"}}, "undated", "licenses", "sources"}`.

    `counted` says which photos: those `indexed`, or all that were ever `listed` but the forgotten.
    """
    years: dict[str, Counter[str]] = {}
    licences: Counter[tuple[str | None, ...]] = Counter()
    sources: Counter[str] = Counter()
    for rows in _tallied(archive, build):
        for year, circa, *licence, source, number in rows:
            years.setdefault(year or "", Counter()).update({"photos": number, "circa": number if circa else 0})
            licences[tuple(licence)] += number
            sources[source or "unknown"] += number
    undated = years.pop("", Counter())["photos"]
    return {
        "counted": "indexed" if build else "listed",
        "photos": licences.total(),
        "years": {year: dict(years[year]) for year in sorted(years)},
        "undated": undated,
        "licenses": [
            dict(zip(("id", "name", "url"), licence, strict=True))
            | {"photos": number, "restricted": is_restricted(licence[2])}
            for licence, number in licences.most_common()
        ],
        "sources": dict(sources.most_common()),
    }


def _tallied(archive: Archive, build: Build | None) -> Iterator[list[tuple[Any, ...]]]:
    if build:
        yield build.database.cursor().execute(TALLY, [sorted(build.news().hidden)]).fetchall()
        return
    changes, forgotten = archive.changes(), pa.array(sorted(archive.forgotten()), pa.string())
    photos = archive.table("photos")
    for rows in storage.ahead(lambda part: photos.read(part, LISTED), photos.parts()):
        first = pc.less_equal(pc.fill_null(rows["attempt"], 1), 1)  # each photo once
        rows = rows.filter(pc.and_(first, pc.invert(pc.is_in(rows["photo_id"], value_set=forgotten))))
        database = duckdb.connect()
        database.register("photos", overlaid(rows, changes))
        yield database.execute(TALLY, [[]]).fetchall()


def sample(archive: Archive, build: Build | None, number: int) -> list[int]:
    """Row ids of live photos that have a picture, always the same ones of the same archive; [] where there is none."""
    if build:
        cursor, hidden = build.database.cursor(), sorted(build.news().hidden)
    else:
        if not archive.table("images").parts():
            return []
        cursor, hidden = duckdb.connect(), []
        cursor.register("photos", archive.live_keys(archive.changes()))
    return [row_id for (row_id,) in cursor.execute(SAMPLE, [hidden, number]).fetchall()]


def shown(archive: Archive, build: Build | None, row_ids: Sequence[int]) -> dict[int, tuple[Hit, str | None]]:
    """What is shown of photos, with the granularity of their dates, by row id."""
    columns = (*FACTS, "date_granularity")
    if build:
        facts = build.facts(row_ids, columns)
        corrected = build.news().captions
        for row_id in facts.keys() & corrected.keys():
            word = corrected[row_id]
            facts[row_id] |= {"caption": word.value, "caption_model": None, "caption_by": word.by}
    else:
        facts = _from_tables(archive, row_ids, archive.changes(), columns)
    found = {}
    for row_id in row_ids:
        granularity = facts[row_id].pop("date_granularity")
        found[row_id] = Hit(rank=0, score=0.0, row_id=row_id, **facts[row_id]), granularity
    return found


def _from_tables(
    archive: Archive, row_ids: Collection[int], changes: Mapping[str, Mapping[str, Change]], columns: Sequence[str]
) -> dict[int, dict[str, Any]]:
    facts: dict[int, dict[str, Any]] = {}
    wanted = np.array(sorted(row_ids), np.int64)
    for part in np.unique(wanted >> schemas.ROW_BITS).tolist():
        for row in archive.facts(part, rows_in(wanted, part), changes).to_pylist():
            facts[row["row_id"]] = {name: row.get(name) for name in columns}
    return facts


def pictures(archive: Archive, row_ids: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """The stored pictures of rows, one at a time. Raises UserError where one is not there."""
    images = archive.table("images")

    def read(row_id: int) -> tuple[int, bytes]:
        picture = images.read_rows([row_id], ["row_id", "image"])["image"][0].as_py()
        if picture is None:
            raise UserError(f"row {row_id} of images has no picture any more; `tintype index CONF` renews the index")
        return row_id, picture["bytes"]

    yield from storage.ahead(read, sorted(row_ids))
