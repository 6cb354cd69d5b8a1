"""Ray Train's own workers: two reach what one does, also when one of them is lost on the way."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from pipeline import cluster
from pipeline.photo import TryLater, UserError
from pipeline.training import launch
from tests.training import tiny


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with cluster.connection(cpus=4):
        yield


def nothing(line: dict[str, float]) -> None:
    pass


def workers() -> list[psutil.Process]:
    return [
        child for child in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(child.cmdline())
    ]


def learnt(out: Path) -> list[dict[str, float]]:
    return [line for line in json.loads((out / "history.json").read_text())["history"] if "loss" in line]


@pytest.mark.usefixtures("ray_here")
def test_two_workers_reach_the_loss_of_one_though_one_is_lost(tmp_path: Path) -> None:
    model = tiny.folder(tmp_path / "coca")
    killed: list[int] = []

    def kill_one(line: dict[str, float]) -> None:
        if line["step"] > 7 and not killed:
            killed.append(workers()[-1].pid)
            os.kill(killed[0], signal.SIGKILL)

    asked: dict[str, Any] = {"validation": {"share": 0.2, "photos": 40, "captions": 4, "every": 30}}
    launch.here(tiny.settings(tmp_path / "one", model, **asked), nothing)
    launch.on_ray(tiny.settings(tmp_path / "two", model, runner="ray", workers=2, **asked), kill_one)
    assert killed
    one, two = learnt(tmp_path / "one"), learnt(tmp_path / "two")
    assert [line["step"] for line in two] == [line["step"] for line in one] == list(range(1, 31))
    assert two[-1]["loss"] == pytest.approx(one[-1]["loss"], rel=0.01)
    assert two[4]["loss"] == pytest.approx(one[4]["loss"], rel=1e-3)


@pytest.mark.usefixtures("ray_here")
def test_relative_paths_are_the_drivers_and_what_is_left_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "1")
    data = tmp_path / "set" / "boat"
    data.mkdir(parents=True)
    for number in range(16):
        Image.new("RGB", (32, 32), (15 * number, 0, 99)).save(data / f"{number}.png")
    (data / "notes.txt").write_text("no picture")
    here = Path.cwd()
    model = tiny.folder(tmp_path / "coca")
    asked: dict[str, Any] = {
        "data": [{"kind": "labelled", "path": os.path.relpath(data.parent, here)}],
        "validation": {"share": 0.5},
        **{"batch": 2, "texts": None, "steps": 1, "loss": {}, "tokens": "all"},
    }
    out = os.path.relpath(tmp_path / "out", here)
    launch.on_ray(tiny.settings(Path(out), model, runner="ray", **asked), nothing)
    assert len(learnt(tmp_path / "out")) == 1
    assert "left out 1 of 17 photos: not_an_image 1" in caplog.text


def refused(tell: Callable[[dict[str, float]], None], asked: Any) -> str:
    with pytest.raises(UserError) as told:
        launch.on_ray(asked, tell)
    return str(told.value)


@pytest.mark.usefixtures("ray_here")
def test_a_mistake_is_one_line_there_too(tmp_path: Path) -> None:
    model = tiny.folder(tmp_path / "coca")
    without = tiny.settings(tmp_path / "out", model, runner="ray", from_scratch=False)
    assert "no weights in this folder" in refused(nothing, without)
    assert "5 want a CPU each" in refused(nothing, tiny.settings(tmp_path / "out", model, runner="ray", workers=5))


@pytest.mark.usefixtures("ray_here")
def test_what_may_pass_is_one_line(tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "RETRIES", 0)
    model = tiny.folder(tmp_path / "coca")
    killed: list[int] = []

    def kill(line: dict[str, float]) -> None:
        if not killed:
            killed.append(workers()[-1].pid)
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(TryLater, match=r"workers were lost 1 times, .* to go on from the last checkpoint"):
        launch.on_ray(tiny.settings(tmp_path / "killed", model, runner="ray"), kill)
    (small_disk / "filler").write_bytes(bytes(1_000_000))
    with pytest.raises(TryLater, match=r"no space left on .*; free some and run again"):
        launch.on_ray(tiny.settings(small_disk / "out", model, runner="ray"), nothing)
