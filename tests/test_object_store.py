"""A store that is slow, drops connections, or loses answers: parts are whole, listed once, and written once."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipeline import schemas, storage
from pipeline.archive import Archive, Table
from tests.faulty_store import Faults


def rows(n: int = 3, part: int = 0) -> pa.Table:
    ids = schemas.row_ids(part, n).to_pylist()
    found = [{"row_id": row_id, "photo_id": f"flickr:{row_id}", "reason": "asked"} for row_id in ids]
    return pa.Table.from_pylist(found, schemas.FORGOTTEN)


def write(table: Table, part: int = 0, n: int = 3) -> bool:
    return table.write(part, [rows(n, part)], {}, schemas.FORGOTTEN)


def puts(faults: Faults) -> int:
    return sum(method == "PUT" for method, _, _ in faults.seen)


@pytest.fixture
def table(store_faults: Faults, bucket: str) -> Table:
    table = Archive.create(bucket).table("forgotten")
    store_faults.seen.clear()
    return table


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client that waits a second for answers, not a minute."""
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 1}})
    yield


@pytest.mark.parametrize("fault", ["slow_down", "cut_before", "cut_after", "hang"])
def test_a_part_is_written_once_whatever_becomes_of_the_first_try(
    impatient: None, store_faults: Faults, table: Table, fault: str
) -> None:
    store_faults.first(fault, "PUT", "part-000000")
    assert write(table)  # also where the store has the part and only its answer was lost
    assert puts(store_faults) == 2
    assert table.parts() == [0]
    assert table.read(0).num_rows == 3
    assert not write(table, n=2)  # another writer is told so
    assert table.read(0).num_rows == 3


def test_numbers_go_on_where_an_answer_was_lost(store_faults: Faults, table: Table) -> None:
    store_faults.first("cut_after", "PUT", "part-000000")
    said = iter([rows(), None])
    assert table.append(lambda part: next(said), {}, schemas.FORGOTTEN) == 0
    assert table.parts() == [0]


@pytest.mark.parametrize("fault", ["slow_down", "cut_before", "cut_after", "hang"])
@pytest.mark.parametrize(("method", "within"), [("GET", "list-type"), ("GET", "part-000000"), ("HEAD", "part-000000")])
def test_reading_and_listing_go_on(
    impatient: None, store_faults: Faults, table: Table, fault: str, method: str, within: str
) -> None:
    write(table)
    store_faults.first(fault, method, within, times=2)
    assert table.parts() == [0]
    assert table.read(0).num_rows == 3
    assert storage.exists(table.part_url(0))


def test_of_two_writers_at_once_one_is_first(store_faults: Faults, table: Table) -> None:
    store_faults.some(seed=1, share=0.2)
    won: list[int] = []

    def writer(number: int) -> None:
        for part in range(10):
            if write(table, part, n=number + 1):
                won.append(part)

    writers = [threading.Thread(target=writer, args=(number,)) for number in range(3)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    assert sorted(won) == table.parts() == list(range(10))


def test_a_listing_comes_in_pages(table: Table) -> None:
    fs, path = storage.filesystem(table.url)
    fs.pipe({f"{path}/part-{part:06d}.parquet": b"" for part in range(1100)})  # a page holds 1,000
    assert table.parts() == list(range(1100))


UPLOAD = """
import sys
from pathlib import Path
from pipeline import storage
Path("big").write_bytes(bytes(120 << 20))
print("ready", flush=True)
storage.create(sys.argv[1], Path("big"))
"""


def test_a_writer_killed_within_an_upload_leaves_nothing_that_is_listed(
    store_faults: Faults, table: Table, tmp_path: Path
) -> None:
    store_faults.first("hang", "PUT", "partNumber=3")
    process = subprocess.Popen(
        [sys.executable, "-c", UPLOAD, table.part_url(7)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()
    while not any(fault == "hang" for _, _, fault in list(store_faults.seen)):
        assert process.poll() is None, "it should hang within the upload"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store_faults.released.set()
    assert table.parts() == []
    [(key, upload, _)] = storage.uploads(table.url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "uploads", lambda url: [(key, upload, datetime.now(UTC))])  # moto says 2010 of all
        storage.sweep(table.url)  # it may be another writer's, at work just now
    assert len(storage.uploads(table.url)) == 1
    storage.sweep(table.url)
    assert storage.uploads(table.url) == []
    assert write(table, 7)
