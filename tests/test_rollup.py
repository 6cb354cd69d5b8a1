"""What receipts come to: each photo counted once, and no part opened twice."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import rollup, schemas
from pipeline.archive import Archive
from pipeline.photo import REASONS
from pipeline.status import status
from tests import small_archive

REASON = next(iter(REASONS))


def counted(archive: Archive) -> tuple[Counter[str], Counter[str]]:
    """The same as rollup.photos, from the rows themselves."""
    images = [archive.table("images").read(part) for part in archive.table("images").parts()]
    last: dict[str, dict] = {}
    for row in pa.concat_tables(images).to_pylist():
        if last.get(row["photo_id"], {}).get("outcome") != "fetched":
            last[row["photo_id"]] = row
    forgotten, gone = archive.forgotten(), archive.gone()
    outcomes, reasons = Counter(live=0, gone=0, failed=0, forgotten=len(forgotten)), Counter[str]()
    for photo_id, row in last.items():
        if photo_id not in forgotten:
            outcomes["gone" if photo_id in gone else row["outcome"].replace("fetched", "live")] += 1
            reasons.update([row["reason"]] if row["reason"] else [])
    return outcomes, reasons


def add(archive: Archive, part: int, rows: list[tuple[str, int, str]]) -> None:
    """Write a part of photos and images: (photo id, attempt, outcome) each."""
    ids = schemas.row_ids(part, len(rows)).to_pylist()
    photos = [small_archive.photo(p, row_id=i, attempt=n) for i, (p, n, _) in zip(ids, rows, strict=True)]
    images = [
        {"row_id": i, "photo_id": p, "outcome": outcome, "reason": REASON if outcome == "failed" else None}
        for i, (p, _, outcome) in zip(ids, rows, strict=True)
    ]
    for name, found, schema in (("photos", photos, schemas.PHOTOS), ("images", images, schemas.IMAGES)):
        assert archive.table(name).write(part, [pa.Table.from_pylist(found, schema)], {}, schema)


def without_rates(said: dict[str, Any]) -> dict[str, Any]:
    """A status but for what changes with the clock."""
    for table in said["tables"].values():
        assert table.pop("photos_per_s", 1) > 0
    return said


@pytest.mark.parametrize("seed", range(20))
def test_each_photo_counts_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    archive = Archive.create(str(tmp_path))
    attempts: dict[str, list[str]] = {}
    for part in range(4):
        rows = []
        for photo in chance.sample(range(30), 12):
            before = attempts.setdefault(f"flickr:{photo}", [])
            before.append(chance.choice(["fetched", "fetched", "failed", "gone"]))
            rows.append((f"flickr:{photo}", len(before), before[-1]))
        add(archive, part, rows)
        if chance.random() < 0.5:  # some parts are known before others are there
            rollup.receipts(archive, archive.table("images"))
    for photo_id in chance.sample(sorted(attempts), 4):
        small_archive.forget(archive, photo_id)
    for photo_id in chance.sample([p for p, seen in attempts.items() if "fetched" in seen], 4):
        small_archive.change(archive, photo_id, "visible", "false")
    assert rollup.photos(archive, rollup.receipts(archive, archive.table("images"))) == counted(archive)


def test_a_photo_forgotten_before_it_was_fetched_is_in_no_other_count(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path))
    small_archive.forget(archive, "flickr:1")
    assert status(archive)["photos"] == {"live": 0, "gone": 0, "failed": 0, "forgotten": 1}


def test_no_part_is_opened_twice(tmp_path: Path) -> None:
    archive, _ = small_archive.make(str(tmp_path))
    said = without_rates(status(archive))
    for path in tmp_path.rglob("part-*.parquet"):
        path.write_bytes(b"")
    assert without_rates(status(archive)) == said


def test_a_new_part_joins_those_known(tmp_path: Path) -> None:
    archive, _ = small_archive.make(str(tmp_path), parts=2, rows=5)
    said = without_rates(status(archive))["tables"]["images"]
    assert said == {"parts": 2, "rows": 10, "pending": 0, "outcomes": {"fetched": 10}}
    small_archive.add_pictures(archive, 2, [small_archive.photo("flickr:new")])
    said = status(archive)
    assert said["tables"]["images"]["rows"] == 11
    assert said["tables"]["embeddings/tiny"]["pending"] == 1
    assert said["photos"]["live"] == 11


def test_receipts_at_hand_need_no_part(tmp_path: Path) -> None:
    archive, _ = small_archive.make(str(tmp_path), parts=2, rows=5)
    images = archive.table("images")
    first = rollup.receipts(archive, images)
    (tmp_path / "reports" / "rollup-images.json").unlink()
    rollup.keep(archive, first.values())
    for part in images.parts():
        Path(images.part_url(part)).write_bytes(b"")
    assert rollup.receipts(archive, images) == first
