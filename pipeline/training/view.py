"""What a training says while it goes on: one live view on a terminal, plain lines elsewhere; and its picture."""

import math
import time
from collections import deque
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.progress import BAR, LOOKS_A_SECOND, PLAIN_MOST_S, PLAIN_S, duration
from pipeline.training.settings import TrainSettings

Line = dict[str, float]
WINDOW = 50  # steps that a rate, and a loss that is shown, look back
SHOWN = 6  # judgements in the live view


class View:
    """Hears each line of a training's history, and shows how far it is. A context manager."""

    def __init__(self, asked: TrainSettings, console: Console) -> None:
        self.asked, self.console = asked, console
        self.recent: deque[tuple[float, Line]] = deque(maxlen=WINDOW)
        self.judged: list[Line] = []
        self.step = 0
        self.said, self.wait = 0.0, PLAIN_S
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> "View":
        if self.live:
            self.live.start()
        self.say("loading the model and the data")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def say(self, line: str) -> None:
        if self.live:
            self.live.update(Text(line), refresh=True)
        else:
            self.console.print(line, highlight=False)

    def hear(self, line: Line) -> None:
        now = time.monotonic()
        if "pictures" in line:
            if self._due(now):
                self.say(f"pictures at the model's size: {line['pictures']:,.0f} of {line['of']:,.0f}")
            return
        self.step = int(line["step"])
        if "recall@1" in line:
            self.judged.append(line)
            if not self.live:
                self.console.print(f"step {self.step:,}: {judgement(line)}", highlight=False)
            return
        if self.recent and self.step <= self.recent[-1][1]["step"]:  # a worker was lost
            self.recent.clear()
        if self.step == 1 or not self.recent:
            self.say("the first step is done" if self.step == 1 else f"going on at step {self.step:,}")
        self.recent.append((now, line))
        if self._due(now):
            if self.live:
                self.live.update(self._drawn(), refresh=True)
            else:
                self.console.print(self._told(), highlight=False)

    def _due(self, now: float) -> bool:
        """Whether something is to be said again; it is then taken as said."""
        if now - self.said < (1 / LOOKS_A_SECOND if self.live else self.wait):
            return False
        self.said, self.wait = now, min(2 * self.wait, PLAIN_MOST_S)
        return True

    def _told(self) -> str:
        """ "step 1,200 of 6,000 · loss 1.234 · captions 0.51 · 140 photos/s · 52 min to go"."""
        said = [f"step {self.step:,} of {self.asked.steps:,}"]
        for name in ("loss", "contrastive", "captions"):
            values = [line[name] for _, line in self.recent if name in line]
            if values and not (name == "contrastive" and not self.asked.loss.captions):
                said.append(f"{name} {sum(values) / len(values):.3f}")
        if len(self.recent) > 1:
            (began, first), (ended, last) = self.recent[0], self.recent[-1]
            a_second = (last["step"] - first["step"]) / max(ended - began, 1e-9)
            said.append(f"{a_second * self.asked.batch:,.0f} photos/s")
            said.append(f"{duration((self.asked.steps - self.step) / a_second)} to go")
        return " · ".join(said)

    def _drawn(self) -> Group:
        bar = Table.grid()
        bar.add_row(ProgressBar(self.asked.steps, self.step, width=BAR))
        parts: list[RenderableType] = [bar, Text(self._told())]
        if self.judged:
            table = Table(box=None, padding=(0, 2, 0, 0))
            names = [name for name in self.judged[-1] if name != "step"]
            table.add_column("step", justify="right")
            for name in names:
                table.add_column(name, justify="right")
            for line in self.judged[-SHOWN:]:
                table.add_row(f"{line['step']:,.0f}", *(f"{line.get(name, math.nan):.3f}" for name in names))
            parts.append(table)
        return Group(*parts)


def judgement(line: Line) -> str:
    """ "recall@1 0.412, recall@5 0.801, captions right 0.300, among 1,000 photos"."""
    shares = [f"{name} {value:.3f}" for name, value in line.items() if name not in ("step", "photos")]
    return ", ".join([*shares, f"among {line['photos']:,} photos"])


def picture(history: list[Line]) -> bytes:
    """A PNG of loss and recall by step."""
    from pipeline import charts

    drawn, (losses, recalls) = charts.figure(880, 300, 2)
    learnt = [line for line in history if "loss" in line]
    steps = [line["step"] for line in learnt]
    for name in ("contrastive", "captions"):
        values = [line[name] for line in learnt if name in line]
        if values:
            losses.plot(steps, smoothed(values), label=name)
    losses.set_title("Loss of a step, running mean")
    losses.set_yscale("log")
    judged = [line for line in history if "recall@1" in line]
    for name in ("recall@1", "recall@5", "captions right"):
        if judged and name in judged[0]:
            recalls.plot([line["step"] for line in judged], [line[name] for line in judged], "o-", ms=3, label=name)
    recalls.set_title("On photos kept from training")
    recalls.set_ylim(0, 1)
    for axes in (losses, recalls):
        axes.set_xlabel("step")
        charts.whole(axes, 6)
        axes.legend()
        axes.grid(True)
    return charts.png(drawn)


def smoothed(values: list[float]) -> list[float]:
    """A running mean that looks back over a fiftieth of them."""
    keep, mean, found = 1 - 1 / max(1, len(values) // 50), values[0], []
    for value in values:
        mean = keep * mean + (1 - keep) * value
        found.append(mean)
    return found
