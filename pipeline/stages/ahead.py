"""How far fetching runs ahead: photos side by side, their rows in order, and no more held than memory allows."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
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


async def in_order(
    fetch: Callable[[Photo], Coroutine[Any, Any, Fetched]], photos: Iterable[Photo], connections: int
) -> AsyncIterator[Fetched]:
    """Fetch photos side by side, a task each, and yield what came of them in their order.

    While the next in line is slow, or nobody draws, others run ahead, but no further than memory allows.
    """
    todo = iter(photos)
    line: deque[asyncio.Task[Fetched]] = deque()
    running = 0
    held = 0  # bytes of those that are done and were not drawn

    def start() -> None:
        nonlocal running
        while running < connections and len(line) < AHEAD_PHOTOS and held < AHEAD_BYTES:
            photo = next(todo, None)
            if photo is None:
                return
            line.append(asyncio.create_task(fetch(photo)))
            line[-1].add_done_callback(end)
            running += 1

    def end(task: asyncio.Task[Fetched]) -> None:
        nonlocal running, held
        running -= 1
        if not task.cancelled() and not task.exception():  # else the part ends when it is this one's turn
            held += task.result().size()
            start()

    start()
    while line:
        fetched = await line[0]
        line.popleft()
        held -= fetched.size()
        start()
        yield fetched


async def batched(fetched: AsyncIterable[Fetched]) -> AsyncIterator[list[dict[str, Any]]]:
    """Rows in lists that make a row group of `images` each."""
    rows: list[dict[str, Any]] = []
    size = 0
    async for one in fetched:
        if rows and (len(rows) == IMAGE_GROUP_ROWS or size + one.size() > IMAGE_GROUP_BYTES):
            yield rows
            rows, size = [], 0
        rows.append(one.row)
        size += one.size()
    if rows:
        yield rows
