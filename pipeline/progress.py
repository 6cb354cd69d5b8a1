"""What a run says while it works: one live view on a terminal, plain lines elsewhere; always on standard error.

Parts report when they are done, and `Beat`s tell once a second how far those under way are.
"""

import contextlib
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.pulse import Beat
from pipeline.work import Failure, Receipt

LOOKS_A_SECOND = 4  # of the live view
PLAIN_S, PLAIN_MOST_S = 5.0, 60.0  # between plain lines at first, and once a run has lasted
STILL_S, STILL_MOST_S = 30.0, 300.0  # that nothing moves before that is said; then twice as long, and so on
LIVE_STILL_S = 10.0  # the same in the live view, where it costs no line
WINDOW_S = 60.0  # that a rate looks back
SHARE_S = 15.0  # that CPU and device use look back; who is not heard for so long is at work no more
BAR = 28  # columns
FOLLOWING = ("fetch", "annotate")  # stages that whatever is listed goes through

Item = TypeVar("Item")


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min", "2 days 4 h"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 36 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} days {hours % 24} h"


def counted(items: Iterable[Item], total: int, what: str, console: Console) -> Iterator[Item]:
    """The items as they come, their number said meanwhile: "2,048 of 100,000 queries"."""
    live = Live(Text(""), console=console, transient=True, auto_refresh=False) if console.is_terminal else None
    every = 1 / LOOKS_A_SECOND if live else PLAIN_S
    said = time.monotonic()
    with live or contextlib.nullcontext():
        for number, item in enumerate(items, 1):
            if time.monotonic() - said >= every:
                said = time.monotonic()
                line = f"{number:,} of {total:,} {what}"
                if live:
                    live.update(Text(line), refresh=True)
                else:
                    console.print(line, highlight=False)
            yield item


@dataclass
class Work:
    """What is known of one stage, or of one table where a command has no stages."""

    name: str
    total: int | None = None  # photos, as far as they are known; None: nobody says
    done: int = 0  # in parts that have ended
    parts: set[int] = field(default_factory=set)  # which those are
    moving: dict[int, int] = field(default_factory=dict)  # part under way → its photos that are done
    samples: deque[tuple[float, int]] = field(default_factory=deque)  # (when, photos done)
    said: tuple[float, int] = (0.0, 0)  # when its last plain line was printed, and what it counted

    def count(self) -> int:
        return self.done + sum(self.moving.values())

    def sample(self, now: float) -> None:
        if len(self.samples) == 1 and self.samples[0][1] == self.count():
            self.samples.clear()  # before it begins to move, its workers start
        self.samples.append((now, self.count()))
        while len(self.samples) > 2 and now - self.samples[1][0] > WINDOW_S:
            self.samples.popleft()

    def rate(self) -> float | None:
        """Photos a second of late; None where too little has been seen."""
        if len(self.samples) < 2 or self.still() > LIVE_STILL_S:
            return None
        (began, before), (ended, after) = self.samples[0], self.samples[-1]
        return (after - before) / (ended - began) if ended - began >= 1 and after > before else None

    def still(self) -> float:
        """Seconds since it moved last."""
        moved = next((when for when, count in reversed(self.samples) if count != self.count()), None)
        return self.samples[-1][0] - moved if moved is not None else 0.0

    def told(self) -> tuple[str, str, str]:
        """ "412 of 720 photos", "61.3 photos/s", "5 s to go"; empty where it is not known."""
        count, rate = self.count(), self.rate()
        of = "" if self.total is None else f" of {self.total:,}"
        pace, left = "", ""
        if rate and self.total != count:
            pace = f"{rate:,.1f} photos/s" if rate < 100 else f"{rate:,.0f} photos/s"
            left = f"{duration((self.total - count) / rate)} to go" if of and self.total and self.total > count else ""
        return f"{count:,}{of} photos", pace, left


@dataclass
class Spent:
    """What a machine, or a worker's device, has spent of late."""

    beats: deque[Beat] = field(default_factory=deque)
    heard: float = 0.0  # when the last one was, by our own clock

    def hear(self, beat: Beat, now: float) -> None:
        if self.beats and beat.at <= self.beats[-1].at:
            return
        self.heard = now
        self.beats.append(beat)
        while len(self.beats) > 2 and beat.at - self.beats[0].at > SHARE_S:
            self.beats.popleft()


class Progress:
    """Counts what was done, by stage; `report` is given to a runner. A context manager, for the view."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.start = time.monotonic()
        self.rows: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self.changed: dict[str, dict[str, int]] = {}  # by source
        self.work: dict[str, Work] = {}
        self.text = ""  # how far something is that is not counted by parts
        self.look: Callable[[], Iterable[Beat]] = list
        self.machines: dict[tuple[str, int | None], Spent] = {}
        self.moved = (self.start, 0)  # when something last moved, and how much had been done by then
        self.still_s = STILL_S
        self.lock = threading.RLock()
        self.ended = threading.Event()
        self.live: Live | None = None
        self.lines: threading.Thread | None = None

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self.live = Live(
                console=self.console, transient=True, get_renderable=self.view, refresh_per_second=LOOKS_A_SECOND
            )
            self.live.start()
        else:
            self.lines = threading.Thread(target=self._say_lines, name="progress", daemon=True)
            self.lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        if self.live:
            self.live.stop()
        if self.lines:
            self.lines.join()

    def seconds(self) -> float:
        return time.monotonic() - self.start

    # --- what is told -------------------------------------------------------------------------------------------------

    def expect(self, pending: Mapping[str, int | None], look: Callable[[], Iterable[Beat]]) -> None:
        """Take in what is to be done: photos that wait for each stage, None where nobody knows.

        `look` gives the last word of the parts under way.
        """
        with self.lock:
            self.look = look
            self.text = ""
            coming = 0
            for stage, photos in pending.items():
                coming += photos or 0
                self.work[stage] = Work(stage, total=None if photos is None else coming)

    def say(self, text: str) -> None:
        """Say how far something is that is not counted by parts."""
        with self.lock:
            self.text = text
            self.moved = (time.monotonic(), self.moved[1])

    def report(self, stage: str, said: Receipt | Failure) -> None:
        """Take in what came of a part."""
        if isinstance(said, Failure):
            with self.lock:
                self.failures.append(said)
                if stage in self.work:
                    self.work[stage].parts.add(said.part)  # its last beat is still to be heard
                    self.work[stage].moving.pop(said.part, None)
            # Whatever it was is nobody's mistake but ours: the traceback belongs where it is seen.
            self.console.print(
                f"{stage}: part {said.part} failed\n{said.traceback or said.error}", highlight=False, markup=False
            )
            return
        with self.lock:
            if "counts" in said:
                self.changed[said["source"]] = said["counts"]
            if said.get("note") and (note := f"{said['source']}: {said['note']}") not in self.notes:
                self.notes.append(note)
            if said["rows"]:
                self._count(stage, said)

    def _count(self, stage: str, said: Receipt) -> None:
        table = said["table"]
        self.rows[table] += said["rows"]
        if table == "images":
            self.outcomes.update(said["outcomes"])
            self.reasons.update(said.get("reasons", {}))
        name = stage if "part" in said else table
        work = self.work.setdefault(name, Work(name))
        if said.get("part") in work.parts:  # a part of another table of the same stage
            return
        if "part" in said:
            work.parts.add(said["part"])
            work.moving.pop(said["part"], None)
        work.done += said["rows"]
        if table == "photos":
            for later in [self.work[name] for name in FOLLOWING if name in self.work]:
                later.total = (later.total or 0) + said["rows"]

    # --- what is shown ------------------------------------------------------------------------------------------------

    def take_in(self) -> None:
        """Look at the parts under way, and note how much is done by now."""
        now = time.monotonic()
        for beat in self.look():
            work = self.work.get(beat.stage)
            if work is None or beat.part in work.parts:
                continue
            work.moving[beat.part] = beat.rows
            for key in ((beat.machine, None), (beat.machine, beat.worker)):
                if key[1] is None or beat.busy_s is not None:
                    self.machines.setdefault(key, Spent()).hear(beat, now)
        self.machines = {key: spent for key, spent in self.machines.items() if now - spent.heard < SHARE_S}
        for work in self.work.values():
            work.sample(now)
        done = sum(work.count() for work in self.work.values()) + sum(self.rows.values())
        if done != self.moved[1]:
            self.moved = (now, done)
            self.still_s = STILL_S

    def view(self) -> RenderableType:
        """A bar a stage, and beneath them how busy the machines are."""
        with self.lock:
            self.take_in()
            table = Table.grid(padding=(0, 2))
            for name, work in self.work.items():
                known = work.total is not None
                bar = ProgressBar(total=max(work.total or 0, 1), completed=work.count(), width=BAR) if known else ""
                count, pace, left = work.told()
                table.add_row(Text(name, style="bold"), bar, Text(count), pace, left, Text(self.trouble(name)))
            still = time.monotonic() - self.moved[0]
            quiet = f"nothing has moved for {duration(still)}" if still > LIVE_STILL_S and self.work else ""
            minutes, seconds = divmod(int(self.seconds()), 60)
            below = "  ".join(filter(None, (f"{minutes}:{seconds:02}", self.use(), self.text, quiet)))
            return Group(table, Text(below, style="dim")) if self.work else Text(below, style="dim")

    def trouble(self, stage: str) -> str:
        """ "3 failed, 2 gone, 1 part given up", of a stage so far."""
        said = [f"{self.outcomes[kind]:,} {kind}" for kind in ("failed", "gone") if self.outcomes[kind]]
        given_up = sum(failure.stage == stage for failure in self.failures)
        parts = [f"{given_up} {'part' if given_up == 1 else 'parts'} given up"] if given_up else []
        return ", ".join((said if stage == "fetch" else []) + parts)

    def use(self) -> str:
        """ "CPU 93%, device 97% busy", of all machines that are at work; empty where it is not known."""
        cpus, devices = [], []
        for (_, worker), spent in self.machines.items():
            first, last = spent.beats[0], spent.beats[-1]
            passed = last.at - first.at
            if passed <= 0:
                continue
            if worker is None:
                cpus.append((last.cpu_s - first.cpu_s) / passed / last.cpus)
            elif first.busy_s is not None and last.busy_s is not None:
                devices.append((last.busy_s - first.busy_s) / passed)
        said = []
        if cpus:
            said.append(f"CPU {_mean(cpus)}" + (f" of {len(cpus)} machines" if len(cpus) > 1 else ""))
        if devices:
            said.append(f"{len(devices)} devices" if len(devices) > 1 else "device")
            said[-1] += f" {_mean(devices)} busy"
        return ", ".join(said)

    def _say_lines(self) -> None:
        """A thread: print what has moved, now and then, and that nothing has."""
        text, told = "", -math.inf
        while not self.ended.wait(1.0):
            with self.lock:
                self.take_in()
                now = time.monotonic()
                lines = [line for work in self.work.values() if (line := self._line(work, now))]
                if self.text != text and now - told >= self._every():
                    text, told = self.text, now
                    lines += [text] if text else []
                if now - self.moved[0] >= self.still_s:
                    lines.append(self._still(now))
                    self.still_s += min(self.still_s, STILL_MOST_S)
            for line in lines:
                self.console.print(line, highlight=False, markup=False)

    def _every(self) -> float:
        """Seconds between plain lines of one thing."""
        return min(max(PLAIN_S, self.seconds() / 20), PLAIN_MOST_S)

    def _line(self, work: Work, now: float) -> str | None:
        """A plain line on a stage, if it has moved and its last one is some time ago."""
        when, counted = work.said
        if work.count() == counted or now - when < self._every():
            return None
        work.said = (now, work.count())
        said = ", ".join(filter(None, (*work.told(), self.trouble(work.name), self.use())))
        return f"{work.name}: {said}"

    def _still(self, now: float) -> str:
        """What to say when nothing moves, so that nobody takes a long wait for a hang."""
        said = [
            f"still running after {duration(self.seconds())}, but nothing has moved for {duration(now - self.moved[0])}"
        ]
        for work in self.work.values():
            if work.moving:
                parts = ", ".join(str(part) for part in sorted(work.moving)[:5])
                said.append(f"{work.name} of part {parts}{' …' if len(work.moving) > 5 else ''} is under way")
        return "; ".join(filter(None, (*said, self.text, self.use())))


def _mean(shares: list[float]) -> str:
    return f"{min(1.0, sum(shares) / len(shares)):.0%}"
