"""The archive's promises, on local disk and on S3."""

import json
import os
import signal
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schemas, storage
from pipeline.archive import Archive, Table
from pipeline.photo import UserError
from tests.test_killed import drivers


def forgotten_rows(part: int, ids: list[str]) -> pa.Table:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return pa.table(
        [schemas.row_ids(part, len(ids)), ids, [moment] * len(ids), ["asked"] * len(ids)], schema=schemas.FORGOTTEN
    )


def write(table: Table, part: int, ids: list[str]) -> bool:
    return table.write(part, [forgotten_rows(part, ids)], {}, schemas.FORGOTTEN)


def test_create_if_absent(place: str) -> None:
    url = storage.join(place, "a", "one")
    assert storage.create(url, b"first")
    assert not storage.create(url, b"second")
    assert storage.read(url) == b"first"
    assert storage.names(storage.join(place, "a")) == ["one"]
    storage.replace(url, b"third")
    assert storage.read(url) == b"third"
    assert storage.names(storage.join(place, "nothing")) == []
    storage.delete(url)
    storage.delete(url)
    assert not storage.exists(url)


def test_open_wants_an_archive_of_a_known_format(place: str) -> None:
    with pytest.raises(UserError, match="no archive"):
        Archive.open(place)
    Archive.create(place)
    assert Archive.create(place) == Archive.open(place)
    storage.replace(storage.join(place, "archive.json"), json.dumps({"format": 99}).encode())
    with pytest.raises(UserError, match="update tintype"):
        Archive.open(place)


def test_parts_are_ordered_as_numbers_and_pending_is_a_difference(place: str) -> None:
    archive = Archive.create(place)
    source, mine = archive.table("photos"), archive.table("images")
    for part in (2, 10, 1_000_000):
        assert write(source, part, ["a"])
    assert source.parts() == [2, 10, 1_000_000]
    assert write(mine, 10, ["a"])
    assert mine.pending(source) == [2, 1_000_000]


def test_first_writer_wins_and_the_loser_leaves_nothing(place: str) -> None:
    """Two writers have both written their part in full before either commits."""
    table = Archive.create(place).table("forgotten")

    def slow_rows():  # type: ignore[no-untyped-def]
        yield forgotten_rows(0, ["mine"])
        assert write(table, 0, ["theirs"])

    assert not table.write(0, slow_rows(), {}, schemas.FORGOTTEN)
    assert table.read(0)["photo_id"].to_pylist() == ["theirs"]
    assert storage.names(table.url) == ["part-000000.parquet"]


def test_receipt_is_read_after_the_rows_were_made(place: str) -> None:
    table = Archive.create(place).table("forgotten")
    receipt: dict[str, object] = {}

    def rows():  # type: ignore[no-untyped-def]
        yield forgotten_rows(0, ["a", "b"])
        receipt["outcomes"] = {"fetched": 2}

    assert table.write(0, rows(), receipt, schemas.FORGOTTEN)
    stored = table.receipt(0)
    assert stored["outcomes"] == {"fetched": 2} and stored["rows"] == 2 and len(stored["write_id"]) == 32
    assert stored["versions"]["pyarrow"] == pa.__version__


def test_an_error_while_writing_leaves_no_part(place: str) -> None:
    table = Archive.create(place).table("forgotten")

    def rows():  # type: ignore[no-untyped-def]
        yield forgotten_rows(0, ["a"])
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        table.write(0, rows(), {}, schemas.FORGOTTEN)
    assert storage.names(table.url) == []


def die(environment: dict[str, str], url: str, moment: str) -> None:
    """Write part 0, and be killed before or after it is committed."""
    os.environ |= environment  # the store's address, which is newer than the process that this one was forked from
    archive, create = Archive.create(url), storage.create

    def create_and_die(url: str, data: Any) -> None:
        if moment == "after":
            create(url, data)
        os.kill(os.getpid(), signal.SIGKILL)

    storage.create = create_and_die  # type: ignore[assignment]
    write(archive.table("forgotten"), 0, ["from the dead"])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_the_commit(place: str, moment: str) -> None:
    """A process killed between writing and committing leaves nothing; one killed after it leaves a whole part."""
    writer: Any = drivers.Process(target=die, args=(dict(os.environ), place, moment))
    writer.start()
    writer.join(120)
    assert writer.exitcode == -signal.SIGKILL
    table = Archive.open(place).table("forgotten")
    assert table.parts() == ([0] if moment == "after" else [])
    assert write(table, 0, ["from the living"]) == (moment == "before")
    expected = "from the living" if moment == "before" else "from the dead"
    assert table.read(0)["photo_id"].to_pylist() == [expected]


def test_append_takes_the_next_number_and_asks_again_when_it_is_taken(place: str) -> None:
    table = Archive.create(place).table("forgotten")
    asked = []

    def build(part: int) -> pa.Table:
        asked.append(part)
        if part == 0:
            write(table, 0, ["theirs"])
        return forgotten_rows(part, ["ours"])

    assert table.append(build, {}, schemas.FORGOTTEN) == 1
    assert asked == [0, 1]
    assert table.read(1)["row_id"].to_pylist() == [1 << 20]
    assert table.append(lambda part: None, {}, schemas.FORGOTTEN) is None


def test_identity_is_claimed_once(place: str) -> None:
    table = Archive.create(place).table("embeddings/coca")
    assert table.identity() is None
    table.claim({"model": "ViT-B-32", "dim": 512})
    table.claim({"dim": 512, "model": "ViT-B-32"})
    with pytest.raises(UserError, match=r"dim: 512 there, 768 now"):
        table.claim({"model": "ViT-B-32", "dim": 768})
    assert table.identity() == {"model": "ViT-B-32", "dim": 512}


def image_row(row_id: int, photo_id: str, outcome: str, data: bytes = b"") -> dict[str, object]:
    return {"row_id": row_id, "photo_id": photo_id, "outcome": outcome, "image": {"bytes": data, "path": "x.jpg"}}


def put_images(archive: Archive, part: int, rows: list[tuple[str, str]], data: bytes = b"") -> None:
    first = part << schemas.ROW_BITS
    images = [image_row(first + i, photo_id, outcome, data) for i, (photo_id, outcome) in enumerate(rows)]
    archive.table("images").write(part, [pa.Table.from_pylist(images, schemas.IMAGES)], {}, schemas.IMAGES)
    photos = [
        {"row_id": first + i, "photo_id": photo_id, "title": f"{photo_id} in part {part}"}
        for i, (photo_id, _) in enumerate(rows)
    ]
    archive.table("photos").write(part, [pa.Table.from_pylist(photos, schemas.PHOTOS)], {}, schemas.PHOTOS)


def test_images_lie_in_small_row_groups_and_are_read_by_them(place: str) -> None:
    archive = Archive.create(place)
    put_images(archive, 3, [(f"p{i}", "fetched") for i in range(120)], b"x" * 400_000)
    images = archive.table("images")
    with storage.open_file(images.part_url(3)) as file:
        metadata = pq.read_metadata(file)
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == [41, 41, 38]  # 16 MB of 400 kB pictures
    wanted = [(3 << 20) + row for row in (119, 0, 45)]
    assert images.read_rows(wanted, ["row_id", "photo_id"])["photo_id"].to_pylist() == ["p119", "p0", "p45"]
    assert sum(batch.num_rows for batch in images.batches(3, ["photo_id"])) == 120
    with pytest.raises(KeyError):
        images.read_rows([])


def test_live_view(place: str) -> None:
    """Last fetched row of each photo, changes overlaid, the gone and the forgotten left out."""
    archive = Archive.create(place)
    put_images(archive, 0, [("a", "fetched"), ("b", "failed"), ("c", "fetched"), ("d", "fetched"), ("e", "fetched")])
    put_images(archive, 1, [("a", "fetched"), ("b", "fetched"), ("c", "failed")])
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    changes = [
        ("c", "title", '"corrected"', "curator"),
        ("c", "title", '"from the source"', "source"),
        ("d", "visible", "false", "source"),
    ]
    rows = [
        {"row_id": 0, "photo_id": i, "field": f, "value": v, "observed_at": moment, "by": by} for i, f, v, by in changes
    ]
    archive.table("changes").write(0, [pa.Table.from_pylist(rows, schemas.CHANGES)], {}, schemas.CHANGES)
    write(archive.table("forgotten"), 0, ["e"])
    live = archive.live().select(["row_id", "photo_id", "title"]).to_pylist()
    assert live == [
        {"row_id": 2, "photo_id": "c", "title": "corrected"},
        {"row_id": 1 << 20, "photo_id": "a", "title": "a in part 1"},
        {"row_id": (1 << 20) + 1, "photo_id": "b", "title": "b in part 1"},
    ]


def test_tables_are_found_by_their_folders(place: str) -> None:
    archive = Archive.create(place)
    with pytest.raises(UserError, match="holds no pictures"):
        archive.live()
    put_images(archive, 0, [("a", "fetched")])
    archive.table("embeddings/coca").claim({})
    archive.table("captions/coca").claim({})
    assert archive.tables() == ["photos", "images", "embeddings/coca", "captions/coca"]
