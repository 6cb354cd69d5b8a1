"""What a run says while it works: a live line on a terminal, plain lines elsewhere; always on standard error."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.work import Failure, Receipt

PLAIN_EVERY_S = 5.0  # between plain lines of one stage
LIVE_EVERY_S = 0.2  # between looks of a live line

Item = TypeVar("Item")


def counted(items: Iterable[Item], total: int, what: str, console: Console) -> Iterator[Item]:
    """The items as they come, their number said meanwhile: "2,048 of 100,000 queries"."""
    live = Live(Text(""), console=console, transient=True, auto_refresh=False) if console.is_terminal else None
    every = LIVE_EVERY_S if live else PLAIN_EVERY_S
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


class Progress:
    """Counts what was done, by stage; `report` is given to a runner. A context manager, for the live line."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(Text(""), console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self.start = time.monotonic()
        self.rows: Counter[str] = Counter()
        self.parts: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self.changed: dict[str, dict[str, int]] = {}  # by source
        self.said: dict[str, float] = {}

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def report(self, stage: str, said: Receipt | Failure) -> None:
        if isinstance(said, Failure):
            self.failures.append(said)
            # Whatever it was is nobody's mistake but ours: the traceback belongs where it is seen.
            self.console.print(
                f"{stage}: part {said.part} failed\n{said.traceback or said.error}", highlight=False, markup=False
            )
            return
        if "counts" in said:
            self.changed[said["source"]] = said["counts"]
        if said.get("note") and (note := f"{said['source']}: {said['note']}") not in self.notes:
            self.notes.append(note)
        if not said["rows"]:
            return
        table = said["table"]
        self.rows[table] += said["rows"]
        self.parts[table] += 1
        if table == "images":
            self.outcomes.update(said["outcomes"])
            self.reasons.update(said.get("reasons", {}))
        if self.live:
            self.live.update(Text(self.line()), refresh=True)
        elif time.monotonic() - self.said.get(table, -PLAIN_EVERY_S) >= PLAIN_EVERY_S:
            self.said[table] = time.monotonic()
            self.console.print(f"{table}: {self.rows[table]} rows in {self.parts[table]} parts", highlight=False)

    def line(self) -> str:
        tables = "  ".join(f"{table} {rows}" for table, rows in self.rows.items())
        return f"{time.monotonic() - self.start:5.0f} s  {tables}"

    def seconds(self) -> float:
        return time.monotonic() - self.start
