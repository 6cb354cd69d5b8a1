"""Pictures on their way from a part to a device and back: what the threads of feed.py hand each other."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from pipeline import imaging
from pipeline.stages.outputs import Network, Output, Value

NO_LIMIT = imaging.PILLOW_CEILING  # fetch has decoded these bytes in full and found them fit


@dataclass(eq=False)
class Part:
    """A part in the works.

    Attributes:
        outputs: what its pictures are wanted for
        rows: it has in all
        coming: rows not yet taken in
        missing: values not yet made, one a row and output
        values: table → row id → what was made of it
        seconds: by phase; what it shares with other parts, in proportion to its pictures
        error: what made it fail
        trace: the traceback of that, before other parts raise the same
    """

    outputs: tuple[Output, ...]
    rows: int
    tell: Callable[[int, float], None] | None = None  # how many rows are done, and seconds the device has computed
    coming: int = 0
    missing: int = 0
    values: dict[str, dict[int, Value]] = field(default_factory=dict)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    error: BaseException | None = None
    trace: TracebackType | None = None

    def __post_init__(self) -> None:
        self.coming, self.missing = self.rows, self.rows * len(self.outputs)
        self.values = {output.table: {} for output in self.outputs}

    def check(self) -> None:
        """Raises what has made it fail."""
        if self.error:
            raise self.error.with_traceback(self.trace)

    @property
    def models(self) -> list[Network]:
        return list({id(output.model): output.model for output in self.outputs}.values())

    @property
    def batch(self) -> int:
        return min(model.batch for model in self.models)


@dataclass(frozen=True, eq=False)
class Picture:
    """A row that has a picture."""

    part: Part
    row_id: int


@dataclass(frozen=True)
class Pixels:
    """A decoded picture: uint8[side, side, 3] for each of its part's models, and the width and height they are of."""

    of_models: list[np.ndarray]
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Decoding:
    """A picture on its way to pixels; `size`: bytes of its file."""

    picture: Picture
    size: int
    pixels: Future[tuple[Pixels | None, float]]


@dataclass(frozen=True)
class Batch:
    """Pictures wanted for the same outputs, their widths and heights, int[n, 2], and for each of the outputs' models
    the pixels on its device."""

    pictures: list[Picture]
    sizes: np.ndarray
    pixels: list[tuple[Network, Any]]


def prepare(data: bytes, models: Sequence[Network]) -> tuple[Pixels | None, float]:
    """Decode a picture and preprocess it for each model, None if it cannot be decoded; CPU seconds that took."""
    started = time.thread_time()
    pixels = None
    with suppress(imaging.BadImage):  # another machine's decoder had no objection
        image = imaging.decode(data, max_pixels=NO_LIMIT, side=max(model.side for model in models))
        pixels = Pixels([model.preprocess(image) for model in models], image.size)
    return pixels, time.thread_time() - started
