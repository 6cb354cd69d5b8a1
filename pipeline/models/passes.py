"""Forward passes of a network on its device: one at a time, in batches that its memory holds."""

import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch

log = logging.getLogger(__name__)
T = TypeVar("T")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Passes(ABC):
    """A network that takes pictures. Safe to call from several threads: one forward pass runs at a time.

    Attributes:
        side: pixels that the picture's short side should have
        device, precision: where it runs and in what ("cpu", "cuda", "mps"; "fp32", "bf16", "fp16")
        batch: rows in one forward pass; halved, and kept so, whenever memory runs out
    """

    def __init__(self, side: int, device: str, precision: str, batch: int) -> None:
        self.side = side
        self.device = device
        self.precision = precision
        self.batch = batch
        self._lock = threading.Lock()

    def stage(self, pixels: np.ndarray) -> torch.Tensor:
        """uint8[n, H, W, 3] on the device, for `encode`. From another thread than that one's, copying to a GPU goes on
        beside the computing."""
        batch = torch.from_numpy(pixels)
        return batch.pin_memory().to(self.device, non_blocking=True) if self.device == "cuda" else batch

    @abstractmethod
    def encode(self, pixels: np.ndarray | torch.Tensor) -> Any:
        """One pass over uint8[n, side, side, 3], n ≥ 1."""

    def find_batch(self, least: int = 32, most: int = 1024) -> None:
        """Sets `batch` by trial: doubled while memory lasts and that encodes 5 % more pictures a second."""
        best, rate = least, 0.0
        while least <= most:
            self.batch = least
            pixels = np.zeros((least, self.side, self.side, 3), np.uint8)
            self.encode(pixels)  # what is set up once for a size is not to be timed
            started = time.perf_counter()
            self.encode(pixels)
            now = least / (time.perf_counter() - started)
            if self.batch < least or now < 1.05 * rate:
                break
            best, rate, least = least, now, least * 2
        self.batch = best

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """The network to oneself, without gradients."""
        with self._lock, torch.inference_mode():
            yield

    def run(self, forward: Callable[[slice], T], n: int) -> list[T]:
        """Calls `forward` on slices that cover range(n), under the lock, without gradients.

        When memory runs out the batch is halved and the slice tried again, down to one row.
        """
        results: list[T] = []
        start = 0
        while start < n:
            rows = slice(start, min(start + self.batch, n))
            with self.exclusive():
                try:
                    results.append(forward(rows))
                    start = rows.stop
                    continue
                except RuntimeError as error:
                    if not out_of_memory(error) or rows.stop - start == 1:
                        raise
            # Outside the handler, because its traceback keeps the tensors of the failed pass alive.
            self.batch = (rows.stop - start) // 2
            log.warning("out of memory on %s: going on with batches of %d", self.device, self.batch)
            if self.device == "cuda":
                torch.cuda.empty_cache()
        return results


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it says so."""
    # The CPU's allocator and MPS raise a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in ("can't allocate memory", "out of memory")
    )
