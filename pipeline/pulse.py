"""What a worker tells while it is within a part, so that whoever looks on sees it move: `Beat`s, one a second."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Beat:
    """How far a part is, and what its worker's machine has spent so far: two of them give rates and shares.

    `at`, `cpu_s` and `busy_s` are seconds: of that machine's clock, of its CPUs together, and of the device this worker
    computes on; None where it has none.
    """

    stage: str
    part: int
    rows: int
    machine: str
    worker: int
    at: float
    cpus: int
    cpu_s: float
    busy_s: float | None = None


Hear = Callable[[Beat], None]


class Pulse:
    """Tells how far one part is: call it with the rows that are done, as often as you like."""

    def __init__(self, hear: Hear, stage: str, part: int) -> None:
        self.hear, self.stage, self.part = hear, stage, part
        self.told = time.monotonic()

    def __call__(self, rows: int, busy_s: float | None = None) -> None:
        now = time.monotonic()
        if now - self.told < EVERY_S:
            return
        self.told = now
        spent = psutil.cpu_times()
        cpu_s = sum(spent) - spent.idle - getattr(spent, "iowait", 0.0)
        cpus = psutil.cpu_count() or 1
        machine, worker = platform.node(), os.getpid()
        self.hear(Beat(self.stage, self.part, rows, machine, worker, time.time(), cpus, cpu_s, busy_s))
