"""Run stages over their pending parts in this process, and what every runner needs for that.

A runner takes a `Desk`, the stages in their order, and a `report` to call as parts are done. A part that one stage has
committed is the next one's work at once, so that listing, fetching and annotating overlap.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline import logs, storage
from pipeline.archive import Archive
from pipeline.gate import Gate, Gates
from pipeline.photo import Size, TryLater, UserError
from pipeline.pulse import Beat
from pipeline.sources import Source
from pipeline.stages.fetch import Shared
from pipeline.stages.list import list_source
from pipeline.upkeep.refresh import refresh_source

log = logging.getLogger(__name__)

HEARD = 1000  # parts of which the last word is kept
IN_FLIGHT = 2  # parts on one device, so that it never waits at a part's end
STEPS = ("list", "fetch", "annotate", "index")  # of a whole run, in their order

Receipt = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A part given up in this run: another run takes it up again."""

    stage: str
    part: int
    error: str  # one line
    traceback: str = ""


Report = Callable[[str, Receipt | Failure], None]  # (stage, what came of a part)


Do = Callable[[int], list[Receipt]]


@dataclass(frozen=True)
class Stage:
    """A stage as runners see it: which parts it takes, which tables it makes of them, and how.

    `load(shared)` is called once a worker, and what it returns once a part; the stage must pickle. With a `device`, two
    parts are done at a time, in threads, and what `load` returned may have a `close`.
    """

    name: str
    source: str
    targets: tuple[str, ...]
    load: Callable[[Shared], Do]
    device: bool = False  # wants a GPU where there is one, and keeps its worker for the whole run

    def pending(self, archive: Archive) -> list[int]:
        """Parts of the source that at least one of the targets lacks."""
        source = archive.table(self.source)
        return sorted({part for name in self.targets for part in archive.table(name).pending(source)})


class Desk:
    """The one place of a run that speaks with the sources' APIs, whose limits are per key, and paces the workers."""

    far: ClassVar[bool] = False

    def __init__(
        self,
        archive: Archive,
        sources: Sequence[Source],
        part_size: int,
        rate: float | None,
        run: str = "-",
        refresh: bool = False,
    ) -> None:
        self.archive = archive
        self.run = run
        self.refresh = refresh
        self.sources = {source.name: source for source in sources}
        self.beats: dict[tuple[str, int], Beat] = {}
        self.hearing = threading.Lock()
        self.part_size = part_size
        self.gate = Gate(rate)
        gates = Gates()
        gates.join("images", self.gate)
        for source in sources:
            source.pace(gates)

    def list_all(self) -> Iterator[Receipt]:
        """List every source, or refresh it; a receipt for each part of photos, and of changes, committed."""
        follow = refresh_source if self.refresh else list_source
        for source in self.sources.values():
            listing = follow(self.archive, source, self.part_size)
            while True:
                with logs.about(self.run, "list"):
                    receipt = next(listing, None)
                if receipt is None:
                    break
                yield receipt

    def sizes(self, source: str, photo_id: str) -> list[Size] | None:
        """Ask a source again what sizes it has; None: the photo is gone. [] of a source no longer configured."""
        return self.sources[source].sizes(photo_id) if source in self.sources else []

    def reserve(self) -> float:
        return self.gate.reserve()

    def pause(self, seconds: float) -> None:
        self.gate.pause(seconds)

    def hear(self, beat: Beat) -> None:
        """Take a worker's word of how far its part is."""
        key = (beat.stage, beat.part)
        with self.hearing:
            self.beats.pop(key, None)
            self.beats[key] = beat
            if len(self.beats) > HEARD:
                self.beats.pop(next(iter(self.beats)))

    def heard(self) -> list[Beat]:
        """The last word of each part, those of parts that have ended since included."""
        with self.hearing:
            return list(self.beats.values())


def attempt(run: str, stage: str, do: Do, part: int) -> list[Receipt] | Failure:
    """The part boundary: one part's trouble, whatever it is, must not end the others.

    The one place where an Exception ends; what catches one in feed.py brings it here, from a thread of no part to those
    of the parts concerned. A UserError speaks of the whole run and is passed on, and so does a full disk.
    """
    with logs.about(run, stage, part):
        started = time.monotonic()
        try:
            receipts = do(part)
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in storage.FULL:
                raise TryLater(f"no space left for {stage} of part {part}; free some and run again") from None
            log.info("part given up", exc_info=True)  # the driver shows it as an error
            return Failure(stage, part, f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc())
        for receipt in receipts:
            log.info("%s, after %.1f s", _told(receipt), time.monotonic() - started)
        return receipts


def _told(receipt: Receipt) -> str:
    """ "images: 1000 rows, fetched 990, failed 10 (no_size 10)" """
    counts = ", ".join(f"{outcome} {number}" for outcome, number in receipt.get("outcomes", {}).items())
    reasons = ", ".join(f"{reason} {number}" for reason, number in receipt.get("reasons", {}).items())
    return f"{receipt['table']}: {receipt['rows']} rows, {counts}" + (f" ({reasons})" if reasons else "")


def close(do: Do) -> None:
    """End what a loaded stage has running, if it has: `do` may have a `close`."""
    if hasattr(do, "close"):
        do.close()


def run(archive: Archive, desk: Desk, stages: Sequence[Stage], report: Report, *, listing: bool = True) -> None:
    """Do all that is pending, in this process. Raises UserError.

    Parts are done one at a time, and beside that two on the device, if a stage wants one. Reports come from the calling
    thread.
    """
    loaded: dict[str, Do] = {}
    tried: set[tuple[str, int]] = set()
    pool = ThreadPoolExecutor(IN_FLIGHT, "part")
    on_device: dict[Future[list[Receipt] | Failure], tuple[Sequence[Stage], int]] = {}

    def take(part: int, through: Sequence[Stage]) -> None:
        """Take a part through the stages, until one fails, or wants the device."""
        while through and (through[0].name, part) not in tried:
            stage = through[0]
            tried.add((stage.name, part))
            if stage.name not in loaded:
                loaded[stage.name] = stage.load(desk)
            if stage.device:
                on_device[pool.submit(attempt, desk.run, stage.name, loaded[stage.name], part)] = (through, part)
                return
            if not done(stage, attempt(desk.run, stage.name, loaded[stage.name], part)):
                return
            through = through[1:]

    def done(stage: Stage, outcome: list[Receipt] | Failure) -> bool:
        """Report what came of a part; whether that was good."""
        failed = isinstance(outcome, Failure)
        for said in [outcome] if isinstance(outcome, Failure) else outcome:
            report(stage.name, said)
        return not failed

    def collect(timeout: float | None) -> None:
        """Take up again the parts that the device is done with; with None all of them, as they come."""
        while on_device and (ended := wait(on_device, timeout, FIRST_COMPLETED).done):
            for future in ended:
                through, part = on_device.pop(future)
                if done(through[0], future.result()):
                    take(part, through[1:])

    try:
        if listing:
            for receipt in desk.list_all():
                report("list", receipt)
                if receipt["table"] == "photos":
                    take(receipt["part"], stages)
                collect(0)
        for first, stage in enumerate(stages):
            for part in stage.pending(archive):
                take(part, stages[first:])
                collect(0)
        collect(None)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for do in loaded.values():
            close(do)
        pool.shutdown()
