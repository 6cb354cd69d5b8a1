"""What a run says while it works: bars on a terminal, plain lines elsewhere, a sign of life when nothing moves."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline import progress, pulse, runs
from pipeline.archive import Archive
from pipeline.photo import UserError
from pipeline.progress import Progress
from pipeline.pulse import Beat, Pulse
from pipeline.work import Failure


def beat(stage: str, part: int, rows: int, at: float, **spent: Any) -> Beat:
    given: dict[str, Any] = {"machine": "one", "worker": 7, "cpus": 4, "cpu_s": 0.0}
    return Beat(stage, part, rows, at=at, **given | spent)


def images(part: int, rows: int, **more: Any) -> dict[str, Any]:
    return {"table": "images", "part": part, "rows": rows, "outcomes": {"fetched": rows}, "reasons": {}} | more


def shown(watched: Progress) -> str:
    """What is seen of the view on a terminal of 120 columns."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(watched.view())
    return console.file.getvalue()


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO(), force_terminal=False))


def test_the_view_counts_parts_that_are_done_and_those_under_way() -> None:
    watched = quiet()
    now = time.time()
    beats = [beat("fetch", 1, 30, now)]
    watched.expect({"list": None, "fetch": 100, "annotate": 20}, lambda: beats)
    watched.report("list", {"table": "photos", "part": 3, "rows": 60})
    watched.report("fetch", images(0, 50, outcomes={"fetched": 45, "gone": 2, "failed": 3}, reasons={"corrupt": 3}))
    view = shown(watched)
    assert "60 photos" in view, "of a listing nobody knows how many there will be"
    assert "80 of 160 photos" in view and "3 failed, 2 gone" in view
    assert "0 of 180 photos" in view, "what is to be fetched will be annotated too"
    watched.report("fetch", images(1, 50))
    assert "100 of 160 photos" in shown(watched), "a part that is done is not counted twice, though its last beat stays"


def test_tables_of_one_part_count_once() -> None:
    watched = quiet()
    watched.expect({"annotate": 40}, list)
    for table in ("embeddings/x", "captions/x"):
        watched.report("annotate", {"table": table, "part": 0, "rows": 20})
    assert "20 of 40 photos" in shown(watched) and watched.rows == {"embeddings/x": 20, "captions/x": 20}


def test_rates_and_what_is_left_come_from_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    watched = quiet()
    beats: list[Beat] = []
    watched.expect({"fetch": 1000}, lambda: beats)
    for second in range(21):
        clock, beats = 1000.0 + second, [beat("fetch", 0, 10 * second, second)]
        watched.take_in()
    assert "200 of 1,000 photos" in shown(watched) and "10.0 photos/s" in shown(watched)
    assert "80 s to go" in shown(watched)
    clock += 15
    assert "photos/s" not in shown(watched) and "nothing has moved for 15 s" in shown(watched)


def test_the_use_of_machines_and_devices_is_the_share_between_two_beats() -> None:
    watched = quiet()
    beats = [beat("annotate", 0, 1, 100.0, cpu_s=50.0, busy_s=7.0)]
    watched.expect({"annotate": 10}, lambda: beats)
    watched.take_in()
    beats = [beat("annotate", 0, 2, 110.0, cpu_s=80.0, busy_s=16.0)]
    assert "CPU 75%, device 90% busy" in shown(watched)
    beats.append(beat("annotate", 1, 2, 110.0, machine="two", cpu_s=0.0, busy_s=0.0))
    watched.take_in()
    beats[1] = beat("annotate", 1, 3, 120.0, machine="two", cpu_s=10.0, busy_s=5.0)
    assert "CPU 50% of 2 machines, 2 devices 70% busy" in shown(watched)


def test_that_use_is_of_late_and_of_those_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    watched = quiet()
    beats: list[Beat] = []
    watched.expect({"annotate": 1000}, lambda: beats)
    for second in range(60):  # one CPU of four for half a minute, then none; another machine leaves after ten seconds
        clock = 1000.0 + second
        beats = [beat("annotate", 0, second, float(second), cpu_s=float(min(second, 30)))]
        if second < 10:
            beats.append(beat("annotate", 1, second, float(second), machine="two", cpu_s=4.0 * second))
        watched.take_in()
        if second == 9:
            assert watched.use() == "CPU 62% of 2 machines"
        if second == 29:
            assert watched.use() == "CPU 25%"
    assert watched.use() == "CPU 0%"


def test_a_part_given_up_is_said_at_once_and_counted() -> None:
    watched = quiet()
    watched.expect({"fetch": 10}, lambda: [beat("fetch", 0, 5, 1.0)])
    assert "5 of 10 photos" in shown(watched)
    watched.report("fetch", Failure("fetch", 0, "ValueError: a bad part"))
    assert "0 of 10 photos" in shown(watched) and "1 part given up" in shown(watched), "though its last beat is heard"
    assert not watched.work["fetch"].moving
    assert "fetch: part 0 failed\nValueError: a bad part" in watched.console.file.getvalue()  # type: ignore[attr-defined]


def lines_of(use: Callable[[Progress], None], until: str) -> list[str]:
    """The plain lines, up to one that holds `until`."""
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    with Progress(console) as watched:
        use(watched)
        for _ in range(600):
            if until in console.file.getvalue():  # type: ignore[attr-defined]
                break
            time.sleep(0.02)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_plain_lines_where_nobody_looks_on() -> None:
    def use(watched: Progress) -> None:
        watched.expect({"fetch": 100}, lambda: [beat("fetch", 1, 30, 1.0)])
        watched.report("fetch", images(0, 50, outcomes={"fetched": 49, "failed": 1}))

    [line] = lines_of(use, "fetch:")
    assert line == "fetch: 80 of 100 photos, 1 failed"


def test_a_sign_of_life_when_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "STILL_S", 0.5)

    def use(watched: Progress) -> None:
        watched.expect({"annotate": 100}, lambda: [beat("annotate", 3, 30, 1.0)])

    said = lines_of(use, "still running")
    assert "nothing has moved for" in said[-1] and "annotate of part 3 is under way" in said[-1]


def test_a_pulse_beats_once_a_second_however_often_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Beat] = []
    tell = Pulse(heard.append, "fetch", 4)
    for rows in range(1000):
        tell(rows)
    assert heard == []
    monkeypatch.setattr(pulse, "EVERY_S", 0.0)
    tell(1000, 2.5)
    [said] = heard
    assert (said.stage, said.part, said.rows, said.busy_s) == ("fetch", 4, 1000, 2.5)
    assert said.cpu_s > 0 and said.cpus >= 1


def test_a_run_leaves_a_record_of_what_it_did(undisturbed: Path) -> None:
    recorded = Archive.open(str(undisturbed))
    [kept] = runs.all_of(recorded)
    assert (kept["command"], kept["runner"], kept["ended"]) == ("run", "local", "done")
    assert kept["rows"]["photos"] == kept["rows"]["images"] == kept["rows"]["captions/tiny"] == 72
    assert sum(kept["outcomes"].values()) == 72 and kept["parts"]["images"] == 4
    receipts = [recorded.table("images").receipt(part) for part in recorded.table("images").parts()]
    assert kept["bytes"] == sum(receipt["bytes"] for receipt in receipts)
    downloading = sum(receipt["seconds"]["downloading"] for receipt in receipts)
    assert kept["phases"]["images"]["downloading"] == pytest.approx(downloading, abs=0.01)
    assert kept["devices"] == {"cpu fp32": 8} and kept["index"]["build"] and kept["failed_parts"] == []


def test_a_run_that_was_refused_or_stopped_leaves_one_too(tmp_path: Path) -> None:
    archive = Archive.create(str(tmp_path / "archive"))
    for name, error in (("a", UserError("the disk is full")), ("b", KeyboardInterrupt()), ("c", ValueError("what"))):
        with pytest.raises(type(error)), runs.recorded(archive, name, ["fetch"], refresh=False, runner="ray"):
            raise error
    with runs.recorded(archive, "d", ["fetch"], refresh=False, runner="ray"):
        pass  # a run that found nothing to do would fill the folder of whoever runs it every hour
    ended = [(kept["command"], kept["ended"]) for kept in runs.all_of(archive)]
    assert ended == [("fetch", "error: the disk is full"), ("fetch", "stopped"), ("fetch", "error: ValueError")]
