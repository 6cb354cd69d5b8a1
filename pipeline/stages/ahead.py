"""How far fetching runs ahead: photos side by side, their rows in order, and no more held than memory allows."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from pipeline.archive import IMAGE_GROUP_BYTES, IMAGE_GROUP_ROWS
from pipeline.stages.download import Tally

# How far downloads may run ahead of a slow one whose row must be written first.
AHEAD_PHOTOS = 256
AHEAD_BYTES = 32 << 20

Photo = dict[str, Any]  # a row of schemas.PHOTOS, or those of its columns that `fetch_part` reads


@dataclass
class Fetched:
    row: dict[str, Any]  # of schemas.IMAGES
    tally: Tally
    attempt: int

    def size(self) -> int:
        """Bytes of the stored picture."""
        return len(self.row["image"]["bytes"]) if self.row["image"] else 0


def in_order(
    fetch: Callable[[Photo], Fetched], photos: Iterable[Photo], pool: ThreadPoolExecutor, connections: int
) -> Iterator[Fetched]:
    """Fetch photos side by side on the threads of `pool`, and yield what came of them in their order.

    While the next in line is slow, others run ahead, but no further than memory allows.
    """
    todo = iter(photos)
    line: deque[Future[Fetched]] = deque()
    done: SimpleQueue[Future[Fetched]] = SimpleQueue()  # in the order in which they ended
    running = 0
    held = 0  # bytes of those that are done but not next
    while True:
        # Twice the connections, so that they stay busy while what was yielded is being written.
        while running < 2 * connections and len(line) < AHEAD_PHOTOS and held < AHEAD_BYTES:
            photo = next(todo, None)
            if photo is None:
                break
            line.append(pool.submit(copy_context().run, fetch, photo))
            line[-1].add_done_callback(done.put)
            running += 1
        if not line:
            return
        held += done.get().result().size()
        running -= 1
        while line and line[0].done():
            fetched = line.popleft().result()
            held -= fetched.size()
            yield fetched


def batched(fetched: Iterable[Fetched]) -> Iterator[list[dict[str, Any]]]:
    """Rows in lists that make a row group of `images` each."""
    rows: list[dict[str, Any]] = []
    size = 0
    for one in fetched:
        if rows and (len(rows) == IMAGE_GROUP_ROWS or size + one.size() > IMAGE_GROUP_BYTES):
            yield rows
            rows, size = [], 0
        rows.append(one.row)
        size += one.size()
    if rows:
        yield rows
