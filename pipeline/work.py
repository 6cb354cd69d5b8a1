"""Run stages over their pending parts in this process, and what every runner needs for that.

A runner takes a `Desk`, the stages in their order, and a `report` to call as parts are done. A part that one stage has
committed is the next one's work at once, so that listing, fetching and annotating overlap.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.archive import Archive
from pipeline.gate import Gate
from pipeline.photo import Size, UserError
from pipeline.sources import Source
from pipeline.stages.fetch import Shared
from pipeline.stages.list import list_source

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

    `load(shared)` is called once a worker, and what it returns once a part. Both must pickle.
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

    def __init__(self, archive: Archive, sources: Sequence[Source], part_size: int, rate: float | None) -> None:
        self.archive = archive
        self.sources = {source.name: source for source in sources}
        self.part_size = part_size
        self.gate = Gate(rate)

    def list_all(self) -> Iterator[Receipt]:
        """List every source; a receipt for each photos part committed."""
        for source in self.sources.values():
            yield from list_source(self.archive, source, self.part_size)

    def sizes(self, source: str, photo_id: str) -> list[Size] | None:
        """Ask a source again what sizes it has; None: the photo is gone. [] of a source no longer configured."""
        return self.sources[source].sizes(photo_id) if source in self.sources else []

    def reserve(self) -> float:
        return self.gate.reserve()

    def pause(self, seconds: float) -> None:
        self.gate.pause(seconds)


def attempt(stage: str, do: Do, part: int) -> list[Receipt] | Failure:
    """The part boundary: one part's trouble, whatever it is, must not end the others.

    The one place that catches Exception. A UserError speaks of the whole run and is passed on.
    """
    try:
        return do(part)
    except UserError:
        raise
    except Exception as error:
        return Failure(stage, part, f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc())


def run(archive: Archive, desk: Desk, stages: Sequence[Stage], report: Report, *, listing: bool = True) -> None:
    """Do all that is pending, in this process, one part at a time. Raises UserError."""
    loaded: dict[str, Do] = {}
    tried: set[tuple[str, int]] = set()

    def take(part: int, through: Sequence[Stage]) -> None:
        """Take a part through the stages, until one fails."""
        for stage in through:
            if (stage.name, part) in tried:
                return
            tried.add((stage.name, part))
            if stage.name not in loaded:
                loaded[stage.name] = stage.load(desk)
            outcome = attempt(stage.name, loaded[stage.name], part)
            if isinstance(outcome, Failure):
                report(stage.name, outcome)
                return
            for receipt in outcome:
                report(stage.name, receipt)

    if listing:
        for receipt in desk.list_all():
            report("list", receipt)
            take(receipt["part"], stages)
    for first, stage in enumerate(stages):
        for part in stage.pending(archive):
            take(part, stages[first:])
