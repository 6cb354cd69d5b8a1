"""A bounded queue before one thread: what waits together is worked together."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Busy(Exception):
    """There are as many waiting as may wait."""


class Late(Exception):
    """It was waited for as long as one may wait."""


class Turns(Generic[Item, Result]):
    """One thread that works what any thread asks for, all that waits at a time.

    `work` gives for each item its result, or the exception that its asker is to see.
    """

    def __init__(
        self, work: Callable[[Sequence[Item]], Sequence[Result | Exception]], waiting: int, patience: float
    ) -> None:
        self._work = work
        self._patience = patience  # seconds
        self._queue: queue.Queue[tuple[Item, Future[Result]] | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, name="turns", daemon=True)
        self._thread.start()

    def ask(self, item: Item) -> Result:
        """Its result. Raises Busy, Late, or what `work` gave for it."""
        future: Future[Result] = Future()
        try:
            self._queue.put_nowait((item, future))
        except queue.Full:
            raise Busy from None
        try:
            return future.result(self._patience)
        except TimeoutError:
            if not future.done():
                future.cancel()  # who began to work it ends it, for nobody
                raise Late from None
            raise

    def close(self) -> None:
        """End the thread, after what waits now."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            asked = [self._queue.get()]
            while not self._queue.empty():
                asked.append(self._queue.get_nowait())
            live = [one for one in asked if one and one[1].set_running_or_notify_cancel()]
            if live:
                self._answer(live)
            if None in asked:
                return

    def _answer(self, asked: list[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self._work([item for item, _ in asked])
        except Exception as error:  # a bug: each asker gets its traceback, and the thread goes on
            results = [error] * len(asked)
        for (_, future), result in zip(asked, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
