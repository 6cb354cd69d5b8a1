"""Photos of an index build that are copies of each other, or alike: in three tiers, each made of the one before."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas
from pipeline.builds import Build
from pipeline.duplicates import tiers
from pipeline.stages.hash import TABLE

Report = Callable[[str, dict[str, Any]], None]  # as progress.Progress has it

TIERS = ("exact", "near", "similar")
# The best of a group stands for it: the largest picture, then one with a title, then the first of the archive.
BEST_FIRST = """
    SELECT row_id, photo_id, source_sha256 FROM photos
    ORDER BY coalesce(source_width::BIGINT * source_height, width::BIGINT * height, 0) DESC,
             coalesce(title, '') = '', row_id
"""


@dataclass(frozen=True)
class Found:
    """What alike photos there are.

    Attributes:
        rows: schemas.DUPLICATES, by tier; groups of more photos first, each with its representative first
        photos: live photos looked at
        hashed: those of them that have a perceptual hash
        problems: why the others have none, with counts
        similar: the least cosine of the tier of that name
        counts: tier → {"groups", "photos" in them, "distinct": what is left if each group counts as one photo}
    """

    rows: pa.Table
    photos: int
    hashed: int
    problems: dict[str, int]
    similar: float
    counts: dict[str, dict[str, int]]


def find(build: Build, similar: float, report: Report = lambda stage, receipt: None) -> Found:
    """Look at all live photos of a build, whose perceptual hashes must be there.

    `similar`: the least cosine of similar pictures; 1 leaves that tier empty. `report` is called now and then.
    """
    photos = build.database.cursor().sql(BEST_FIRST).to_arrow_table()
    hidden = pa.array(sorted(build.news().hidden), pa.int64())
    photos = photos.filter(pc.invert(pc.is_in(photos["row_id"], value_set=hidden))).combine_chunks()
    row_ids = photos["row_id"].to_numpy()
    files = pc.fill_null(pc.dictionary_encode(photos["source_sha256"]).combine_chunks().indices, -1).to_numpy()
    hashes, hashed, problems = _hashes(build, row_ids)

    def vectors(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _vectors(build, row_ids[places])

    def told(number: int) -> None:
        report("duplicates", {"table": "similar", "rows": number, "outcomes": {}})

    exactly = tiers.exact(files)
    nearly = tiers.near(exactly, hashes, hashed, vectors)
    alike = tiers.similar(nearly, row_ids, build, vectors, similar, told) if similar < 1 else nearly
    of = dict(zip(TIERS, (exactly, nearly, alike), strict=True))
    before = np.arange(len(row_ids))
    tables, counts = [], {}
    for tier, leaders in of.items():
        table = _groups(tier, before, leaders, photos, hashes, hashed, vectors)
        groups = len(pc.unique(table["group"]))
        counts[tier] = {"groups": groups, "photos": table.num_rows, "distinct": len(np.unique(leaders))}
        tables.append(table)
        before = leaders
    return Found(pa.concat_tables(tables), len(row_ids), int(hashed.sum()), problems, similar, counts)


def _hashes(build: Build, row_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Hashes uint64[n], which of them there are bool[n], and why the others are not."""
    table = build.archive.table(TABLE)
    hashes, hashed = np.zeros(len(row_ids), np.uint64), np.zeros(len(row_ids), bool)
    problems: Counter[str] = Counter()
    order = np.argsort(row_ids)
    parts = row_ids[order] >> schemas.ROW_BITS
    for places in np.split(order, np.flatnonzero(np.diff(parts)) + 1):
        part, _ = schemas.part_of(int(row_ids[places[0]]))
        rows = table.take(part, row_ids[places], ["hash", "problem"])
        there = pc.is_valid(rows["hash"]).to_numpy()
        made = b"".join(rows["hash"].drop_null().to_pylist())
        hashes[places[there]] = np.frombuffer(made, np.uint64)
        hashed[places] = there
        problems.update(rows["problem"].drop_null().to_pylist())
    return hashes, hashed, dict(problems)


def _vectors(build: Build, row_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors float32[n, dim], zeros where there is none, and whether there is one, bool[n]."""
    vectors = np.zeros((len(row_ids), build.card["dim"]), np.float32)
    has = np.ones(len(row_ids), bool)
    for place, row_id in enumerate(row_ids.tolist()):
        try:
            vectors[place] = build.vector(row_id)
        except KeyError:
            has[place] = False
    return vectors, has


def _groups(
    tier: str,
    before: np.ndarray,
    leaders: np.ndarray,
    photos: pa.Table,
    hashes: np.ndarray,
    hashed: np.ndarray,
    vectors: tiers.Vectors,
) -> pa.Table:
    """The groups of a tier that hold more than one of the tier before, whole."""
    grown = np.unique(leaders[before != leaders])
    members = np.flatnonzero(np.isin(leaders, grown))
    sizes = np.bincount(leaders[members], minlength=len(leaders))
    members = members[np.lexsort((members, leaders[members], -sizes[leaders[members]]))]
    of = leaders[members]
    bits = np.bitwise_count(hashes[members] ^ hashes[of])
    cosines = np.zeros(len(members), np.float32)
    compared = np.zeros(len(members), bool)
    for first in range(0, len(members), tiers.BATCH):
        some = slice(first, first + tiers.BATCH)
        (left, has_left), (right, has_right) = vectors(members[some]), vectors(of[some])
        cosines[some], compared[some] = (left * right).sum(axis=1), has_left & has_right
    return pa.table(
        {
            "row_id": photos["row_id"].take(pa.array(members)),
            "photo_id": photos["photo_id"].take(pa.array(members)),
            "tier": pa.array([tier] * len(members), pa.string()),
            "group": photos["photo_id"].take(pa.array(of)),
            "representative": members == of,
            "distance": pa.array(bits, pa.int32(), mask=~(hashed[members] & hashed[of])),
            "cosine": pa.array(cosines, mask=~compared),
        },
        schemas.DUPLICATES,
    )
