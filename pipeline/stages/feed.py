"""Rows of images to the models, in full batches, of several parts at once.

Each part is read in its own thread, one after the other. Threads decode its pictures; an assembler gathers them into
batches and brings those to the device, one ahead; one thread computes. The first pictures of a part fill up the last
batch of the part before, and its reading and writing happen beside the computing of others.
"""

import atexit
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from pipeline.models.coca import Caption
from pipeline.models.detection import Detector
from pipeline.models.openclip import Model
from pipeline.models.owl import Owl
from pipeline.pulse import EVERY_S
from pipeline.stages.outputs import NO_PICTURE, NOT_FINITE, UNDECODABLE, Output, Value
from pipeline.stages.pictures import Batch, Decoding, Part, Picture, Pixels, prepare

AHEAD = 4  # batches of pictures decoded, or being decoded, that the device has not taken
AHEAD_BYTES = 512 << 20  # of files among them


class Feed:
    """The threads, and what they hand each other. `close` ends them.

    One lock guards all that they share; who waits for anything waits for `changed`.
    """

    def __init__(self, threads: int) -> None:
        """`threads`: that decode."""
        self.changed = threading.Condition()
        self.turn = threading.Lock()  # of the part that is being read
        self.parts: set[Part] = set()
        self.queue: deque[Decoding] = deque()  # in the order of rows, which is that of batches
        self.queued_bytes = 0
        self.hand: list[tuple[Picture, Pixels]] = []  # decoded pictures for the next batch
        self.staged: Batch | None = None
        self.captioning: dict[Output, set[Picture]] = {}  # what each captioner has begun with
        self.busy_s = 0.0  # seconds that the device has computed
        self.closed = False
        self.pool = ThreadPoolExecutor(threads, "decode")
        self.threads = [
            threading.Thread(target=self._repeat, args=(step,), name=step.__name__.strip("_"), daemon=True)
            for step in (self._assemble, self._compute)
        ]
        for thread in self.threads:
            thread.start()
        atexit.register(self.close)  # a thread that is inside torch when the interpreter ends aborts the process

    def close(self) -> None:
        """End the threads, after the batch under way. Parts in the works fail."""
        with self.changed:
            self.closed = True
            self._fail(self.parts, RuntimeError("stopped before the part was done"))
        atexit.unregister(self.close)
        self.pool.shutdown(cancel_futures=True)
        for thread in self.threads:
            thread.join()

    # --- the parts' own threads ---------------------------------------------------------------------------------------

    @contextmanager
    def part(
        self, outputs: tuple[Output, ...], rows: int, tell: Callable[[int, float], None] | None = None
    ) -> Iterator[Part]:
        """Announce a part: until all its rows have come, or the block has ended, batches wait to be full."""
        part = Part(outputs, rows, tell)
        with self.changed:
            if self.closed:
                raise RuntimeError("closed")
            self.parts.add(part)
            self.changed.notify_all()
        try:
            yield part
        except BaseException as error:
            self._fail({part}, error)
            raise
        finally:
            with self.changed:
                self.parts.discard(part)
                part.error = part.trace = None  # its frames hold the part, and perhaps the memory that ran out
                self.changed.notify_all()

    def add(self, part: Part, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take in the next rows of a part, once there is room for them. Raises what has made the part fail."""
        with self.changed:
            self._wait(part, lambda: self.has_room(part))
            part.coming -= len(rows)
            for row in rows:
                picture = Picture(part, row["row_id"])
                if row["outcome"] != "fetched":
                    self._give(picture, part.outputs, NO_PICTURE)
                    continue
                data = row["image"]["bytes"]
                pixels = self.pool.submit(prepare, data, part.models)
                self.queue.append(Decoding(picture, len(data), pixels))
                self.queued_bytes += len(data)
            self.changed.notify_all()

    def has_room(self, part: Part) -> bool:
        """Whether more rows of a part may be taken in before the device has taken others."""
        ahead = len(self.queue) + len(self.hand) + (len(self.staged.pictures) if self.staged else 0)
        return not self.queue or (ahead < AHEAD * part.batch and self.queued_bytes < AHEAD_BYTES)

    def wait(self, part: Part) -> None:
        """Wait until all values of a part are there. Raises what has made it fail."""
        with self.changed:
            self._wait(part, lambda: not part.missing)

    def _wait(self, part: Part, ready: Callable[[], bool]) -> None:
        """Wait for something, saying meanwhile how far the part is; the lock is held. Raises what has made it fail."""
        there = False
        while not there:
            there = self.changed.wait_for(lambda: bool(part.error) or ready(), EVERY_S)
            if part.tell:
                part.tell(part.rows - math.ceil(part.missing / len(part.outputs)), self.busy_s)
        part.check()

    # --- what all threads call ----------------------------------------------------------------------------------------

    def _coming(self) -> bool:
        """Whether more rows will be taken in."""
        return any(part.coming for part in self.parts)

    def _give(self, picture: Picture, outputs: Sequence[Output], value: Value) -> None:
        """Note what was made of a picture; the lock is held."""
        part = picture.part
        for output in outputs:
            part.values[output.table][picture.row_id] = value
        part.missing -= len(outputs)

    def _fail(self, parts: set[Part], error: BaseException) -> None:
        """Have parts fail: no more of their rows come, and what waits of them is dropped."""
        with self.changed:
            for part in parts:
                if part in self.parts and not part.error:
                    part.error, part.trace, part.coming = error, error.__traceback__, 0
            for waiting in self.queue:
                if waiting.picture.part.error:
                    waiting.pixels.cancel()
            self.queue = deque(waiting for waiting in self.queue if not waiting.picture.part.error)
            self.queued_bytes = sum(waiting.size for waiting in self.queue)
            self.hand = [held for held in self.hand if not held[0].part.error]
            self.changed.notify_all()

    @contextmanager
    def _blamed(self, parts: set[Part]) -> Iterator[None]:
        """Hand what goes wrong in here to these parts: their own threads raise it, and the other parts go on."""
        try:
            yield
        except Exception as error:
            self._fail(parts, error)

    def _repeat(self, step: Callable[[], None]) -> None:
        """A thread: does one step after the other."""
        while not self.closed:
            with self._blamed(self.parts):  # of no part in particular: nobody shall wait for it for ever
                step()

    # --- the assembler ------------------------------------------------------------------------------------------------

    def _assemble(self) -> None:
        """Gather a batch, and bring it to the device once the one before is being computed."""
        self._gather()
        with self.changed:
            self.changed.wait_for(lambda: self.closed or not self.staged)
            hand = list(self.hand)
        if self.closed or not hand:
            return
        pictures = [picture for picture, _ in hand]
        batch = None
        with self._blamed({picture.part for picture in pictures}):
            stacks = (np.stack(pixels) for pixels in zip(*(pixels.of_models for _, pixels in hand), strict=True))
            models = pictures[0].part.models
            staged = [(model, model.stage(stack)) for model, stack in zip(models, stacks, strict=True)]
            batch = Batch(pictures, np.array([pixels.size for _, pixels in hand]), staged)
        if not batch:
            return
        with self.changed:
            self.staged, self.hand = batch, []
            self.changed.notify_all()

    def _gather(self) -> None:
        """Take decoded pictures into the hand until they make a batch, or nothing more is known to come."""
        while True:
            with self.changed:
                self.changed.wait_for(
                    lambda: self.closed or self._is_batch() or self.queue or (self.hand and not self._coming())
                )
                if self.closed or self._is_batch() or not self.queue:
                    return
                first = self.queue[0]
            decoded = None
            with self._blamed({first.picture.part}):  # which has failed already, if this was cancelled
                decoded = first.pixels.result()
            if not decoded:
                continue
            pixels, seconds = decoded
            with self.changed:
                if not self.queue or self.queue[0] is not first:
                    continue
                self.queue.popleft()
                first.picture.part.seconds["decoding"] += seconds
                if pixels is None:
                    self._give(first.picture, first.picture.part.outputs, UNDECODABLE)
                else:
                    self.hand.append((first.picture, pixels))
                was_full = self.queued_bytes >= AHEAD_BYTES
                self.queued_bytes -= first.size
                if pixels is None or was_full or not self.queue:
                    self.changed.notify_all()

    def _is_batch(self) -> bool:
        """Whether the hand is full, or what comes next is wanted for something else."""
        if not self.hand:
            return False
        part = self.hand[0][0].part
        return len(self.hand) >= part.batch or (bool(self.queue) and self.queue[0].picture.part.outputs != part.outputs)

    # --- the device ---------------------------------------------------------------------------------------------------

    def _compute(self) -> None:
        """Make what is wanted of the next batch; when none is known to come, end the captions that were begun."""
        batch, idle = self._next()
        if self.closed:
            return
        outputs = batch.pictures[0].part.outputs if batch else ()
        if batch:
            self._share([picture.part for picture in batch.pictures], "waiting", idle)
        for output in [output for output in self.captioning if output not in outputs]:
            assert output.captioner is not None
            self._caption(output, [], output.captioner.finish)
        if not batch:
            return
        with self._blamed({picture.part for picture in batch.pictures}):
            for model, pixels in batch.pixels:
                wanted = [output for output in outputs if output.model is model]
                if isinstance(model, Owl):
                    self._detect(batch, model, pixels, wanted)
                else:
                    self._encode(batch.pictures, model, pixels, wanted)

    def _next(self) -> tuple[Batch | None, float]:
        """The batch that was staged, None if it is captions' turn to end; seconds it was waited for while there were
        parts to be done."""
        started = time.perf_counter()
        with self.changed:
            while not self.closed and not self.staged:
                if self.captioning and not (self.queue or self.hand or self._coming()):
                    return None, 0.0
                working = bool(self.parts)
                self.changed.wait()
                if not working:
                    started = time.perf_counter()
            batch, self.staged = self.staged, None
            self.changed.notify_all()
        return batch, time.perf_counter() - started

    def _encode(self, pictures: list[Picture], model: Model, pixels: Any, outputs: list[Output]) -> None:
        started = time.perf_counter()
        vectors, tokens = model.encode(pixels)
        finite = np.isfinite(vectors).all(axis=1)
        rows = np.flatnonzero(finite)
        keys = [pictures[row] for row in rows]
        made = [(output, output.made(vectors[rows])) for output in outputs if not output.captioner]
        self._share([picture.part for picture in pictures], "embedding", time.perf_counter() - started)
        with self.changed:
            for row in np.flatnonzero(~finite):
                self._give(pictures[row], outputs, NOT_FINITE)
            for output, values in made:
                for picture, value in zip(keys, values, strict=True):
                    self._give(picture, [output], value)
            self.changed.notify_all()
        for output in outputs:
            if output.captioner and keys:
                assert tokens is not None
                sound = (tokens, vectors) if len(keys) == len(pictures) else (tokens[rows], vectors[rows])
                self._caption(output, keys, partial(output.captioner.add, keys, *sound))

    def _detect(self, batch: Batch, model: Owl, pixels: Any, outputs: list[Output]) -> None:
        started = time.perf_counter()
        seen = model.encode(pixels)
        for output in outputs:
            assert isinstance(output.by, Detector)
            found = output.by.find(seen, batch.sizes)
            with self.changed:
                for picture, objects in zip(batch.pictures, found, strict=True):
                    self._give(picture, [output], NOT_FINITE if objects is None else objects)
        self._share([picture.part for picture in batch.pictures], "embedding", time.perf_counter() - started)
        with self.changed:
            self.changed.notify_all()

    def _caption(self, output: Output, new: list[Picture], step: Callable[[], list[tuple[Any, Caption]]]) -> None:
        """Let a captioner take in new pictures, or end with those it has; what has ended meanwhile is given."""
        begun = self.captioning.setdefault(output, set())
        begun.update(new)
        started = time.perf_counter()
        ended = None
        with self._blamed({picture.part for picture in begun}):
            ended = step()
        if ended is None:
            self.captioning.pop(output)  # the captioner has dropped them
            return
        self._share([picture.part for picture in begun], "captioning", time.perf_counter() - started)
        with self.changed:
            for picture, caption in ended:
                begun.remove(picture)
                self._give(picture, [output], caption)
            if not begun:
                self.captioning.pop(output)
            self.changed.notify_all()

    def _share(self, parts: list[Part], phase: str, seconds: float) -> None:
        self.busy_s += seconds if phase != "waiting" else 0.0
        for part, pictures in Counter(parts).items():
            part.seconds[phase] += seconds * pictures / len(parts)
