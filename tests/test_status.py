"""How fast tables are being made, as the receipts of their parts tell."""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import terminal
from pipeline.archive import Archive
from pipeline.status import WINDOW_S, device_waiting, photos_per_second, status
from tests import small_archive

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)


def written(ago: float, rows: int = 100, **more: Any) -> dict[str, Any]:
    return {"written_at": (NOW - timedelta(seconds=ago)).isoformat(timespec="seconds"), "rows": rows, **more}


@pytest.mark.parametrize(
    ("receipts", "rate"),
    [
        ([], None),
        ([written(10)], None),  # since when is not known
        ([written(100), written(50), written(0)], 2.0),
        ([written(5000), written(100), written(50)], 1.0),  # and slower, the longer nothing more comes
        ([written(WINDOW_S + 1), written(WINDOW_S + 2)], None),
        ([{"rows": 100}, written(20), written(10)], 5.0),  # of an earlier release, which kept no times
    ],
)
def test_photos_per_second(receipts: list[Any], rate: float | None) -> None:
    assert photos_per_second(receipts, NOW) == rate


def test_the_share_that_the_device_waited() -> None:
    seconds = {"reading": 9.0, "waiting": 1.0, "embedding": 2.0, "captioning": 7.0}
    assert device_waiting([{"seconds": seconds}, {"seconds": {"embedding": 10.0}}, {}]) == pytest.approx(0.05)
    assert device_waiting([{"seconds": {"downloading": 3.0}}]) is None


def test_what_is_pending_is_told_with_its_pace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    archive, _ = small_archive.make(str(tmp_path), parts=4, rows=5)
    (tmp_path / "captions/tiny/part-000003.parquet").unlink()
    said = status(archive)
    said["tables"]["captions/tiny"] |= {"photos_per_s": 0.04, "device_waiting": 0.031}
    Console(width=200).print(terminal.status(said))
    _, line = [line for line in capsys.readouterr().out.splitlines() if "captions/tiny" in line]
    assert line == "captions/tiny: 0.0 photos/s, 2 min to go, device waiting 3%"


def test_watching_until_interrupted(tmp_path: Path) -> None:
    archive, _ = small_archive.make(str(tmp_path), parts=1, rows=5)
    command = [Path(sys.executable).with_name("tintype"), "status", str(tmp_path), "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout and watching.stderr
        assert json.loads(watching.stdout.readline())["tables"]["photos"]["rows"] == 5
        small_archive.add_pictures(Archive.open(archive.url), 1, [small_archive.photo("flickr:new")])
        assert json.loads(watching.stdout.readline())["tables"]["photos"]["rows"] == 6
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0 and watching.stderr.read() == ""
