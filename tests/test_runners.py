"""What both runners promise: all that is pending is done, once; one part's trouble is that part's alone."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import cluster, nodes, work
from pipeline.archive import Archive
from pipeline.photo import UserError
from pipeline.work import Desk, Failure
from tests import runners

PARTS = range(6)
Runner = Callable[..., None]


@pytest.fixture(params=["local", "ray"])
def runner(request: pytest.FixtureRequest) -> Runner:
    if request.param == "local":
        return work.run
    request.getfixturevalue("ray_here")
    return cluster.run


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = Archive.create(str(tmp_path / "archive"))
    for part in PARTS:
        runners.write(archive, "photos", part)
    return archive


def go(runner: Runner, archive: Archive, stages: list[work.Stage]) -> list[Any]:
    said: list[Any] = []
    runner(archive, Desk(archive, [], 10, None), stages, lambda stage, what: said.append(what), listing=False)
    return said


def failures(said: list[Any]) -> list[Failure]:
    return [what for what in said if isinstance(what, Failure)]


def test_every_part_goes_through_every_stage_once(runner: Runner, archive: Archive, tmp_path: Path) -> None:
    runners.write(archive, "images", 3)  # done by an earlier run
    said = go(runner, archive, runners.stages(archive, tmp_path))
    assert archive.table("images").parts() == archive.table("captions/x").parts() == list(PARTS)
    worked = sorted((receipt["table"], receipt["part"]) for receipt in said)
    assert worked == sorted([("images", p) for p in PARTS if p != 3] + [("captions/x", p) for p in PARTS])
    assert go(runner, archive, runners.stages(archive, tmp_path)) == []


def test_a_part_that_fails_is_named_and_the_others_go_on(runner: Runner, archive: Archive, tmp_path: Path) -> None:
    said = go(runner, archive, runners.stages(archive, tmp_path, {1: "raise"}, {4: "raise"}))
    assert {(f.stage, f.part, f.error) for f in failures(said)} == {
        ("fetch", 1, "ValueError: a bad part"),
        ("annotate", 4, "ValueError: a bad part"),
    }
    assert "bad part" in failures(said)[0].traceback and "runners.py" in failures(said)[0].traceback
    assert archive.table("captions/x").parts() == [0, 2, 3, 5]
    again = go(runner, archive, runners.stages(archive, tmp_path))
    assert not failures(again) and archive.table("captions/x").parts() == list(PARTS)


def test_workers_tell_how_far_their_parts_are(runner: Runner, archive: Archive, tmp_path: Path) -> None:
    desk = Desk(archive, [], 10, None)
    stages = runners.stages(archive, tmp_path, {1: "tell"}, {4: "tell"})
    runner(archive, desk, stages, lambda stage, what: None, listing=False)
    assert {(beat.stage, beat.part, beat.rows) for beat in desk.heard()} == {("fetch", 1, 1), ("annotate", 4, 1)}


def test_a_wrong_request_ends_the_run(runner: Runner, archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^the whole run is wrong$"):
        go(runner, archive, runners.stages(archive, tmp_path, {}, {0: "refuse"}))


def test_in_process_two_parts_are_on_the_device_beside_fetching(archive: Archive, tmp_path: Path) -> None:
    """The device's first two parts end only when both are there, and the last part has been fetched."""
    fetch, _ = runners.stages(archive, tmp_path)
    both = threading.Barrier(2)
    on_device: list[int] = []

    def load(shared: object) -> work.Do:
        def do(part: int) -> list[dict[str, Any]]:
            on_device.append(part)
            if part in (0, 1):
                both.wait(10)
                until = time.monotonic() + 10
                while archive.table("images").parts() != list(PARTS) and time.monotonic() < until:
                    time.sleep(0.01)
                seen = sorted(on_device)
                both.wait(10)  # whoever ends first makes room for the next part
                assert archive.table("images").parts() == list(PARTS) and seen == [0, 1]
            return [runners.write(archive, "captions/x", part)]

        return do

    said: list[Any] = []

    def report(stage: str, what: Any) -> None:
        assert threading.current_thread() is threading.main_thread()
        said.append(what)

    stages = [fetch, work.Stage("annotate", "images", ("captions/x",), load, device=True)]
    work.run(archive, Desk(archive, [], 10, None), stages, report, listing=False)
    assert not failures(said) and len(said) == 2 * len(PARTS)
    assert archive.table("captions/x").parts() == list(PARTS)


class Endless:
    """Works on a part until it is closed, as an annotator does."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.close = self.closed.set

    def __call__(self, part: int) -> list[dict[str, Any]]:
        assert not self.closed.wait(10)
        return []


@pytest.mark.parametrize("end", [KeyboardInterrupt, UserError])
def test_in_process_a_run_that_ends_early_leaves_no_thread(
    archive: Archive, tmp_path: Path, end: type[BaseException]
) -> None:
    fetch, _ = runners.stages(archive, tmp_path)
    endless = Endless()
    stages = [fetch, work.Stage("annotate", "images", ("captions/x",), lambda shared: endless, device=True)]

    def report(stage: str, what: Any) -> None:
        if what["part"] == 4:
            raise end("enough")

    before = threading.active_count()
    started = time.monotonic()
    with pytest.raises(end, match="enough"):
        work.run(archive, Desk(archive, [], 10, None), stages, report, listing=False)
    assert time.monotonic() - started < 5 and endless.closed.is_set()
    assert threading.active_count() == before


@pytest.mark.parametrize("stage", ["fetch", "annotate"])
@pytest.mark.usefixtures("ray_here")
def test_a_part_that_always_kills_its_worker(archive: Archive, tmp_path: Path, stage: str) -> None:
    """It is given up after three deaths alone, and named; those that were beside it are not."""
    trouble = {2: "die", 3: "linger"}
    stages = runners.stages(archive, tmp_path, **{"fetching" if stage == "fetch" else "annotating": trouble})
    [failure] = failures(go(cluster.run, archive, stages))
    assert (failure.stage, failure.part) == (stage, 2) and "killed its worker 3 times" in failure.error
    assert archive.table("captions/x").parts() == [0, 1, 3, 4, 5]


@pytest.mark.usefixtures("ray_here")
def test_a_worker_killed_while_writing(archive: Archive, tmp_path: Path) -> None:
    """Nothing of the half part is seen, and the part is redone."""
    troubles = {2: "die while writing"}
    said = go(cluster.run, archive, runners.stages(archive, tmp_path, troubles, dict(troubles)))
    assert not failures(said)
    assert archive.table("captions/x").parts() == list(PARTS)


@pytest.mark.usefixtures("ray_here")
def test_an_actor_killed_from_outside(archive: Archive, tmp_path: Path) -> None:
    """All that was in flight on it is done by its successor."""
    marks = tmp_path / "marks"
    marks.mkdir()

    def kill() -> None:
        begun = marks / "captions-x-1"
        while not begun.exists() or not begun.read_text().endswith("\n"):
            time.sleep(0.02)
        os.kill(int(begun.read_text().split()[0]), signal.SIGKILL)

    stages = runners.stages(archive, marks, {}, dict.fromkeys(PARTS, "linger"))
    killer = threading.Thread(target=kill)
    killer.start()
    said = go(cluster.run, archive, stages)
    killer.join()
    assert not failures(said)
    assert archive.table("captions/x").parts() == list(PARTS)


def test_a_cluster_without_room_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes.ray, "nodes", lambda: [{"Alive": True, "NodeID": "x", "Resources": {"CPU": 0.5}}])
    with pytest.raises(UserError, match="need at least 1"):
        nodes.enough(asked=False)
    nodes.enough(asked=True)


@pytest.mark.usefixtures("ray_here")
def test_a_run_that_finds_no_place_ends(monkeypatch: pytest.MonkeyPatch, archive: Archive, tmp_path: Path) -> None:
    """What can be done is done; then it says that it waits, and gives up."""
    monkeypatch.setattr(nodes, "WARN_S", 0.1)
    monkeypatch.setattr(nodes, "PLACE_S", 2)
    desk = Desk(archive, [], 10, None)
    with pytest.raises(UserError, match=r"no place for this run's work for .*`ray status` shows"):
        cluster.run(archive, desk, runners.stages(archive, tmp_path), lambda stage, what: None, listing=False, gpus=1)
    assert archive.table("images").parts() == list(PARTS)


@pytest.mark.usefixtures("ray_here")
def test_probing_nodes_leaves_nothing(tmp_path: Path) -> None:
    nodes.seen_from_every_node(str(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []
