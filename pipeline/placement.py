"""Which parts are worked on where. Knows nothing of Ray: how a place is opened is said by whoever asks.

A suspect is a part whose worker died. It is redone alone, so that a part that kills its worker takes no others with it,
and is given up after three deaths.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.work import IN_FLIGHT, Failure, Stage

log = logging.getLogger(__name__)

MAX_DEATHS = 3
FETCH_CPUS = 0.25  # a fetch waits most of the time; a fraction lets it be placed beside an annotator on two cores
FETCHERS_A_CPU = 2  # so that half of each CPU is left to annotators, where there are no GPUs
IDLE_S = 300.0  # that an actor with nothing to do stays: paced by a host, a part may take minutes to be fetched

Resources = dict[str, float]  # of a node: {"CPU": 8, "GPU": 1, …}


class Needs(NamedTuple):
    """What a place to work asks of its node."""

    cpus: float
    gpus: float = 0


def places(stage: Stage, nodes: Sequence[Resources], fetchers: int | None, gpus: int | None) -> Counter[Needs]:
    """What there may be for a stage at these nodes: a GPU an annotator; without GPUs, half the CPUs of a node.

    What is asked for beyond what the nodes have (`fetchers`, `gpus`) is what makes a cluster grow.
    """
    if not stage.device:
        cpus = sum(node.get("CPU", 0) for node in nodes)
        return Counter({Needs(FETCH_CPUS): fetchers or max(2, int(cpus * FETCHERS_A_CPU))})
    if gpus is None:
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if gpus:
        return Counter({Needs(FETCH_CPUS, gpus=1): gpus})
    halves = Counter(Needs(max(0.5, int(node["CPU"]) / 2)) for node in nodes if node.get("CPU", 0) >= 1)
    return halves or Counter({Needs(1.0): 1})  # of a cluster that is to grow from nothing, the first


@dataclass(eq=False)
class Slot:
    """A place where parts are worked on: an actor, or room for one task."""

    needs: Needs
    start: Callable[[int], Any]  # part → ref
    room: int
    close: Callable[[], None] = lambda: None  # lets go of the place, or of the order for one
    hello: Any = None  # ref of the node's id, which an actor answers once it is alive; None when it has
    node: str | None = None  # where the actor lives
    busy: dict[int, bool] = field(default_factory=dict)  # part → whether it had company
    alone: bool = False  # a suspect is in it: nothing else may be
    lost: bool = False  # its actor died
    leaving: bool = False  # there is no such place any more
    idle_since: float = field(default_factory=time.monotonic)

    def free(self) -> bool:
        usable = not (self.alone or self.lost or self.leaving or self.hello is not None)
        return usable and len(self.busy) < self.room

    def leave(self, part: int) -> bool:
        """A part has ended: whether it had company."""
        self.alone = False
        return self.busy.pop(part)


@dataclass
class Lane:
    """One stage under way: what waits, what is suspected of killing its worker, and the slots."""

    stage: Stage
    open: Callable[[Needs], Slot]
    slots: list[Slot] = field(default_factory=list)
    ready: deque[int] = field(default_factory=deque)
    suspects: deque[int] = field(default_factory=deque)
    seen: set[int] = field(default_factory=set)
    deaths: Counter[int] = field(default_factory=Counter)
    stillborn: int = 0  # actors in a row that died before they lived

    def add(self, parts: Sequence[int]) -> None:
        self.ready.extend(part for part in parts if part not in self.seen)
        self.seen.update(parts)

    def waiting(self) -> int:
        return len(self.ready) + len(self.suspects)

    def adjust(self, places: Counter[Needs]) -> None:
        """Open as many of the places as the backlog wants; leave those that are lost, too many, or long idle."""
        now = time.monotonic()
        taken: Counter[Needs] = Counter()
        for slot in sorted(self.slots, key=lambda slot: (slot.lost, not slot.busy)):
            if slot.busy or self.waiting():
                slot.idle_since = now
            taken[slot.needs] += 1
            slot.leaving = taken[slot.needs] > places[slot.needs] or now - slot.idle_since > IDLE_S
            if (slot.leaving or slot.lost) and not slot.busy:
                self.slots.remove(slot)
                slot.close()
                taken[slot.needs] -= 1
        lacking = list((places - taken).elements())
        wanted = self.waiting() - sum(not slot.busy for slot in self.slots)
        self.slots += [self.open(needs) for needs in lacking[: max(0, wanted)]]

    def start(self) -> Iterator[tuple[Any, Slot, int]]:
        """Put into the slots what fits, into the emptiest first; a suspect into a slot of its own."""
        for queue, company in ((self.suspects, 0), (self.ready, IN_FLIGHT)):
            while queue and (free := [slot for slot in self.slots if slot.free() and len(slot.busy) <= company]):
                slot = min(free, key=lambda slot: len(slot.busy))
                part = queue.popleft()
                slot.alone = queue is self.suspects
                slot.busy = dict.fromkeys(slot.busy, True) | {part: len(slot.busy) > 0}
                yield slot.start(part), slot, part

    def died(self, part: int, excused: bool, cause: str) -> Failure | None:
        """A part's worker died: the part is redone alone, or given up. `excused`: others may have done it."""
        self.deaths[part] += not excused
        if self.deaths[part] == MAX_DEATHS:
            return Failure(self.stage.name, part, f"killed its worker {MAX_DEATHS} times while alone ({cause})")
        log.warning("%s of part %d: its worker died (%s); the part is redone alone", self.stage.name, part, cause)
        self.suspects.append(part)
        return None
