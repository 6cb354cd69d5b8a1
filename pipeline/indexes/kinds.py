"""Which kind of index suits so many vectors: exact search while it is quick enough, then lists, then codes.

Nothing here needs FAISS. Latencies are reckoned from how fast this machine reads memory.
"""

import functools
import math
import time
from dataclasses import dataclass

import numpy as np

from pipeline.indexes import FLAT, IVF_FLAT, IVF_PQ

AUTO, HNSW = "auto", "hnsw"
OWN = (FLAT, IVF_FLAT, IVF_PQ)
FEWEST = 10_000  # rows below which every kind but the exact one is a waste
LISTS = 2.0  # lists: so many times the square root of the rows
TRAIN_PER_LIST = 64  # vectors to train on
VISITED = 1 / 64  # the share of lists that a search sees, as a first guess: what it takes is measured on the build
ROW_ID = 8  # bytes
PROBE_BYTES = 64 << 20


@dataclass(frozen=True)
class Choice:
    """A kind of index for so many vectors, and what it would take."""

    kind: str  # as builds name it
    factory: str  # as FAISS does
    memory: int  # bytes that searching wants to have in memory
    disk: int  # bytes in all
    ms: float  # reckoned for one query


def options(rows: int, dim: int, memory: int, speed: float) -> list[Choice]:
    """The kinds that `auto` chooses from, in its order. `memory`: bytes; `speed`: bytes of memory read in a second."""
    n = lists(rows)
    coarse = n * dim * 4
    vector, code = 4 * dim, code_bytes(rows, dim, memory)
    flat = rows * (vector + ROW_ID)
    ivf = flat + coarse
    pq = rows * (code + ROW_ID) + coarse
    return [
        Choice(FLAT, "Flat", flat, flat, _ms(rows * vector, speed)),
        Choice(IVF_FLAT, f"IVF{n},Flat", ivf, ivf, _ms(coarse + rows * vector * VISITED, speed)),
        Choice(
            IVF_PQ, f"IVF{n},PQ{code}", pq, pq + rows * (2 * dim + ROW_ID), _ms(coarse + rows * code * VISITED, speed)
        ),
    ]


def choose(kind: str, rows: int, dim: int, memory: int, latency_ms: float, speed: float) -> tuple[Choice, str]:
    """The kind to build, and why. `kind`: `auto`, one of ours, or a FAISS factory string."""
    flat, ivf, pq = options(rows, dim, memory, speed)
    named = {FLAT: flat, IVF_FLAT: ivf, IVF_PQ: pq}
    if kind in named:
        return named[kind], "as configured"
    if kind != AUTO:
        factory = "HNSW32" if kind == HNSW else kind
        return Choice(factory, factory, flat.memory, flat.memory + rows * (2 * dim + ROW_ID), math.nan), "as configured"
    if rows < FEWEST:
        return flat, f"fewer than {FEWEST:,} rows: exact search is as quick as any"
    if flat.ms <= latency_ms and flat.memory <= memory:
        return flat, f"exact search takes some {flat.ms:.2g} ms here, under index.latency ({latency_ms:g} ms)"
    slow = f"exact search would take some {flat.ms:.2g} ms here, over index.latency ({latency_ms:g} ms)"
    if ivf.memory <= memory:
        return ivf, slow if flat.ms > latency_ms else "exact search would take more than index.memory"
    if pq.memory <= memory:
        return pq, f"the vectors as they are take {ivf.memory / 1e9:.2g} GB, over index.memory ({memory / 1e9:.2g} GB)"
    return pq, f"the smallest there is; it takes {pq.memory / 1e9:.2g} GB, over index.memory ({memory / 1e9:.2g} GB)"


def lists(rows: int) -> int:
    """How many inverted lists suit: a power of two, with enough rows for each to be trained on."""
    return max(1, 2 ** min(round(math.log2(LISTS * math.sqrt(max(rows, 1)))), int(math.log2(max(rows / 39, 1)))))


def code_bytes(rows: int, dim: int, memory: int) -> int:
    """Bytes of a vector's code: a quarter of its dimensions, or as many less as memory allows.

    They must divide the dimensions into equal parts. More are slower to train, and what they tell better, comparing
    the best with their vectors tells anyway.
    """
    sizes = [m for m in range(max(dim // 4, 1), 0, -1) if dim % m == 0]
    large = [m for m in sizes if m >= dim // 16] or sizes[:1]
    return next((m for m in large if rows * (m + ROW_ID) + lists(rows) * dim * 4 <= memory), large[-1])


def training_rows(rows: int, dim: int, memory: int) -> int:
    """How many vectors to train on: enough for each list, a quarter of the memory at most."""
    return min(rows, max(lists(rows) * TRAIN_PER_LIST, 1 << 14), max(memory // 4 // (4 * dim), 1 << 10))


@functools.cache
def memory_speed() -> float:
    """Bytes a second that this machine reads when a query is compared with a matrix: the best of a few tries."""
    matrix = np.ones((PROBE_BYTES // 4 // 256, 256), np.float32)
    query = np.ones(256, np.float32)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        matrix @ query
        seconds.append(time.perf_counter() - start)
    return matrix.nbytes / min(seconds)


def _ms(size: float, speed: float) -> float:
    return 1e3 * size / speed
