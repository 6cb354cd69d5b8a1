"""Captions of a stream of pictures: as one is finished, the next picture takes its place in the batch."""

import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.decoder import Cache, Decoder
from pipeline.models.generation import MAX_TOKENS, Captions, Rule
from pipeline.models.passes import out_of_memory

log = logging.getLogger(__name__)

POLL = 4  # steps that a GPU takes before the host asks what has ended; on CPU asking costs nothing


@dataclass(frozen=True, slots=True)
class Written:
    """A caption as the model wrote it."""

    ids: list[int]  # start token first; end token last, unless it was cut off at MAX_TOKENS
    logprob: float  # mean natural log-probability of the tokens that the model chose


class Writer:
    """Writes captions of pictures, up to `slots` at a time. Not for several threads at once.

    `exclusive` guards each step: it is entered with inference mode on.
    """

    def __init__(
        self,
        decoder: Decoder,
        rule: Rule,
        start: int,
        end: int,
        slots: int,
        exclusive: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.decoder, self.rule, self.start, self.end, self.slots = decoder, rule, start, end, slots
        self.exclusive = exclusive
        self.device = decoder.projection.device
        self.waiting: deque[tuple[Hashable, Tensor]] = deque()
        self.pictures: list[tuple[Hashable, Tensor] | None] = []  # in each slot; None: it is free
        self.state: _State | None = None

    def add(self, keys: Sequence[Hashable], image_tokens: Tensor) -> list[tuple[Hashable, Written]]:
        """Take pictures in, image_tokens [n, tokens, width], and write until each has a place in the batch.

        Returns the captions that ended meanwhile. After an exception nothing is left in here.
        """
        self.waiting.extend(zip(keys, image_tokens, strict=True))
        return self._write(lambda: bool(self.waiting))

    def finish(self) -> list[tuple[Hashable, Written]]:
        """Write all captions to their ends."""
        return self._write(lambda: any(self.pictures))

    def _write(self, more: Callable[[], bool]) -> list[tuple[Hashable, Written]]:
        ended: list[tuple[Hashable, Written]] = []
        while True:
            try:
                with self.exclusive(), torch.inference_mode():
                    self._fill()
                    if not more():
                        return ended
                    assert self.state
                    self.state.step()
                    ended += self._collect()
                continue
            except RuntimeError as error:
                if not out_of_memory(error) or self.slots == 1:
                    self.drop()
                    raise
            except BaseException:
                self.drop()
                raise
            # Outside the handler, because its traceback keeps the tensors of the failed step alive.
            self.slots = max(1, min(self.slots, len(self.pictures) or self.slots) // 2)
            log.warning("out of memory on %s: going on with %d captions at a time", self.device, self.slots)
            self.waiting.extendleft(picture for picture in self.pictures if picture)
            self.pictures, self.state = [], None

    def drop(self) -> None:
        """Forget all pictures."""
        self.waiting.clear()
        self.pictures, self.state = [], None

    def _fill(self) -> None:
        """Give waiting pictures the free slots; shrink the batch where none wait and half of it is idle."""
        active = [slot for slot, picture in enumerate(self.pictures) if picture]
        wanted = min(self.slots, len(active) + len(self.waiting))
        cuda = self.device.type == "cuda"  # where a batch of another size would be another graph to record
        if self.waiting and (self.state is None or len(self.pictures) < wanted):
            self._resize(self.slots if cuda else wanted, active, self.waiting[0][1].shape[0])
        elif self.state and not (self.waiting or cuda) and 0 < len(active) <= len(self.pictures) // 2:
            self._resize(len(active), active, self.state.cache.image[0].shape[2])
        free = [slot for slot, picture in enumerate(self.pictures) if not picture][: len(self.waiting)]
        if not free:
            return
        for slot in free:
            self.pictures[slot] = self.waiting.popleft()
        tokens = torch.stack([picture[1] for slot in free if (picture := self.pictures[slot])])
        assert self.state
        self.state.begin(torch.tensor(free, device=self.device), tokens, self.start)

    def _resize(self, size: int, active: list[int], image_tokens: int) -> None:
        before = self.state
        self.state = _State(self.decoder, self.rule, self.end, size, image_tokens)
        if before and active:
            self.state.put(before, torch.tensor(active, device=self.device))
        self.pictures = [*(self.pictures[slot] for slot in active), *[None] * (size - len(active))]

    def _collect(self) -> list[tuple[Hashable, Written]]:
        assert self.state
        done = self.state.captions.done.tolist()
        ended = {slot: picture[0] for slot, picture in enumerate(self.pictures) if picture and done[slot]}
        if not ended:
            return []
        for slot in ended:
            self.pictures[slot] = None
        best = self.state.captions.best(torch.tensor(list(ended), device=self.device))
        return [(key, Written(*caption)) for key, caption in zip(ended.values(), best, strict=True)]


class _State:
    """A batch of captions under way. On CUDA a step is a graph of kernels, recorded once and then replayed."""

    def __init__(self, decoder: Decoder, rule: Rule, end: int, slots: int, image_tokens: int) -> None:
        self.decoder, self.end = decoder, end
        self.cache: Cache = decoder.cache(slots, rule.beams, MAX_TOKENS - 1, image_tokens)
        self.captions = Captions(slots, rule, decoder.projection.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def begin(self, slots: Tensor, image_tokens: Tensor, start: int) -> None:
        self.captions.begin(slots, start)
        self.decoder.begin(self.cache, slots, image_tokens)

    def put(self, other: "_State", slots: Tensor) -> None:
        self.captions.put(other.captions, slots)
        self.cache.put(other.cache, slots)

    def step(self) -> None:
        """Choose a token more for each caption; on CUDA POLL of them."""
        if self.decoder.projection.device.type != "cuda":
            self.advance(int(self.captions.lengths.max()))
            return
        if self.graph is None:
            self.record()
        assert self.graph
        for _ in range(POLL):
            self.graph.replay()

    def advance(self, longest: int) -> None:
        """One token more, for captions of at most `longest`. Says nothing to the host, and asks nothing of it."""
        captions = self.captions
        logits = self.decoder.logits(self.cache, captions.ids, captions.lengths.clamp(max=longest), longest)
        self.cache.follow(captions.choose(logits, self.end))

    def record(self) -> None:
        # What cuBLAS and its kin set up on first use must not be recorded; a step on nothing changes nothing, because
        # that of a copy of the state is taken back.
        saved = {name: value.clone() for name, value in self._tensors().items()}
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(2):
                self.advance(MAX_TOKENS - 1)
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may copy pictures to the device meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.advance(MAX_TOKENS - 1)
        for name, value in self._tensors().items():
            value.copy_(saved[name])

    def _tensors(self) -> dict[str, Tensor]:
        """All that a step changes but the keys and values, which a step taken back writes again."""
        return {name: t for name, t in vars(self.captions).items() if isinstance(t, Tensor)} | {"seen": self.cache.seen}
