"""Copies of remote files: whole or not at all, and brought once, however many want them."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage


class Slow:
    """A file system that counts what it hands out."""

    def __init__(self, files: Any) -> None:
        self.files, self.brought = files, 0

    def get_file(self, source: str, target: str) -> None:
        self.brought += 1
        Path(target).write_bytes(b"half")
        time.sleep(0.3)
        self.files.get_file(source, target)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    slow = Slow(storage.filesystem("file:///")[0])
    monkeypatch.setattr(storage, "filesystem", lambda url: (slow, url.removeprefix("far:")))
    return slow


def test_of_many_who_want_a_file_one_brings_it(tmp_path: Path, slow: Slow) -> None:
    (tmp_path / "weights").write_bytes(b"all of it")
    here = tmp_path / "cache" / "weights"

    def want(_: int) -> bytes:
        storage.bring(f"far:{tmp_path}/weights", here)
        return here.read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(want, range(4))) == [b"all of it"] * 4
    assert slow.brought == 1


def test_a_file_that_cannot_be_brought_leaves_nothing_and_is_tried_again(tmp_path: Path, slow: Slow) -> None:
    here = tmp_path / "cache" / "weights"
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            storage.bring(f"far:{tmp_path}/weights", here)
        assert [path.name for path in here.parent.iterdir()] == [".weights.lock"]
    assert slow.brought == 2


def test_a_home_is_meant_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.replace("~/models/one", b"held")
    assert storage.read("~/models/one") == b"held" == (tmp_path / "models" / "one").read_bytes()
