"""Run stages over their pending parts on Ray. Part names travel, and receipts; never pixels.

Fetching is tasks; what wants a device is actors, one a GPU, or one a node where there are none, with two parts in
flight so that the device never waits at a part's end. Ray's own retries are off: a part whose worker died is redone
here, alone, and given up after three deaths, so that one bad part can neither end a run nor keep it from ending.
"""

import contextlib
import logging
import os
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import AuthenticationError, NodeDiedError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import storage
from pipeline.archive import Archive
from pipeline.photo import Size, UserError
from pipeline.work import IN_FLIGHT, Desk, Do, Failure, Receipt, Report, Stage, attempt

log = logging.getLogger(__name__)

MAX_DEATHS = 3
TASK_CPUS = 0.25  # a fetch waits most of the time; a fraction lets it be placed beside an annotator on two cores


@contextlib.contextmanager
def connection(cpus: int | None = None) -> Iterator[None]:
    """A Ray to work on: the one RAY_ADDRESS names (set inside a submitted job), else a private one on this machine."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # a busy laptop takes longer than Ray expects
    # Only names go through the object store, and workers' own logging stays in Ray's session folder.
    private: dict[str, Any] = {"num_cpus": cpus, "object_store_memory": 128 << 20, "include_dashboard": False}
    try:
        ray.init(
            address=address, log_to_driver=False, logging_level=logging.ERROR, **(private if address == "local" else {})
        )
    except (ConnectionError, AuthenticationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the Ray cluster at RAY_ADDRESS={address} does not take us: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class RemoteDesk:
    """The desk as workers on other machines see it."""

    actor: Any

    def reserve(self) -> float:
        return ray.get(self.actor.reserve.remote())

    def pause(self, seconds: float) -> None:
        ray.get(self.actor.pause.remote(seconds))

    def sizes(self, source: str, photo_id: str) -> list[Size] | None:
        return ray.get(self.actor.sizes.remote(source, photo_id))


class DeskActor(Desk):
    """A Desk in an actor. Secrets come as an argument: a `runtime_env` would show them on the dashboard."""

    def __init__(self, secrets: dict[str, str], *desk: Any) -> None:
        os.environ.update(secrets)
        super().__init__(*desk)


class Worker:
    """A stage, loaded when the first part comes, for all that follow.

    The stage comes with each part: arguments of a constructor may be lost to a worker that Ray starts anew.
    """

    def __init__(self) -> None:
        os.environ["OMP_NUM_THREADS"] = str(own_cpus(self.node()))  # Ray has set it to the CPUs reserved
        self.do: Do | None = None
        self.lock = threading.Lock()

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def work(self, stage: Stage, desk: RemoteDesk, part: int) -> list[Receipt] | Failure:
        with self.lock:
            self.do = self.do or stage.load(desk)
        return attempt(stage.name, self.do, part)


def own_cpus(node: str) -> int:
    """CPUs of its node that an annotating worker may use: a GPU's share of them, or all where there are none."""
    [resources] = [known["Resources"] for known in ray.nodes() if known["NodeID"] == node]
    return max(1, int(resources.get("CPU", 1) / max(1, resources.get("GPU", 1))))


def work_once(stage: Stage, desk: RemoteDesk, part: int) -> list[Receipt] | Failure:
    return attempt(stage.name, stage.load(desk), part)


@dataclass
class Slot:
    """A place where parts are worked on: an actor, or room for one task."""

    start: Callable[[int], Any]  # part → ref
    room: int
    ask: Callable[[], Any] | None = None  # → ref of the node's id, which an actor answers once it is alive
    node: str | None = None  # where the actor lives
    busy: dict[int, bool] = field(default_factory=dict)  # part → whether it had company
    alone: bool = False  # a suspect is in it: nothing else may be
    reviving: bool = (
        False  # its actor died: what is sent before the next one lives would be lost, and wrongly suspected
    )

    def free(self) -> bool:
        return not self.alone and not self.reviving and len(self.busy) < self.room


@dataclass
class Lane:
    """One stage under way: what waits, what is suspected of killing its worker, and the slots."""

    stage: Stage
    slots: list[Slot]
    ready: deque[int] = field(default_factory=deque)
    suspects: deque[int] = field(default_factory=deque)
    seen: set[int] = field(default_factory=set)
    deaths: Counter[int] = field(default_factory=Counter)

    def add(self, parts: Sequence[int]) -> None:
        self.ready.extend(part for part in parts if part not in self.seen)
        self.seen.update(parts)

    def start(self) -> Iterator[tuple[Any, Slot, int]]:
        """Put into the slots what fits: suspects first, each in a slot of its own."""
        for slot in self.slots:
            if self.suspects and not slot.busy and slot.free():
                part = self.suspects.popleft()
                slot.busy[part], slot.alone = False, True
                yield slot.start(part), slot, part
            while self.ready and slot.free():
                part = self.ready.popleft()
                slot.busy = dict.fromkeys(slot.busy, True)
                slot.busy[part] = len(slot.busy) > 0
                yield slot.start(part), slot, part

    def died(self, part: int, company: bool, node_lost: bool, error: str) -> Failure | None:
        """A part's worker died: the part is redone alone, until it has killed three workers with nobody else there."""
        if not company and not node_lost:
            self.deaths[part] += 1
        if self.deaths[part] < MAX_DEATHS:
            log.warning("%s of part %d: its worker died; the part is redone alone", self.stage.name, part)
            self.suspects.append(part)
            return None
        return Failure(self.stage.name, part, f"killed its worker {MAX_DEATHS} times while alone ({error})")


def run(
    archive: Archive,
    desk: Desk,
    stages: Sequence[Stage],
    report: Report,
    *,
    listing: bool = True,
    secrets: dict[str, str] | None = None,
) -> None:
    """Do all that is pending on the connected Ray. Raises UserError; see `work.run` for what it is given."""
    arguments = (secrets or {}, archive, list(desk.sources.values()), desk.part_size, desk.gate.rate)
    actor: Any = ray.remote(DeskActor).options(num_cpus=0, max_concurrency=64).remote(*arguments)
    shared = RemoteDesk(actor)
    lanes = [Lane(stage, slots(stage, shared)) for stage in stages]
    under_way: dict[Any, tuple[Lane, Slot, int]] = {}
    asked = {slot.ask(): slot for lane in lanes for slot in lane.slots if slot.ask}  # who is to say where it lives
    listed: Any = actor.list_all.options(num_returns="streaming").remote() if listing else None
    for lane in lanes:
        lane.add(lane.stage.pending(archive))
    while True:
        for lane in lanes:
            under_way |= {ref: (lane, slot, part) for ref, slot, part in lane.start()}
        waiting = [*under_way, *([listed] if listed is not None else [])]
        if not waiting and not any(slot.reviving for slot in asked.values()):
            return
        [first], _ = ray.wait([*waiting, *asked], num_returns=1)
        if first in asked:
            slot = asked.pop(first)
            asked |= revived(slot, first)
            continue
        if first is listed:
            receipt = next_listed(listed)
            if receipt is None:
                listed = None
                continue
            outcome: list[Receipt] | Failure | None = [receipt]
            stage, part, following = "list", receipt["part"], lanes[:1]
        else:
            lane, slot, part = under_way.pop(first)
            stage, following = lane.stage.name, lanes[lanes.index(lane) + 1 :][:1]
            outcome = ended(lane, slot, part, first)
            if slot.reviving and slot.ask and slot not in asked.values():
                asked[slot.ask()] = slot
        if isinstance(outcome, Failure):
            report(stage, outcome)
        elif outcome is not None:
            for receipt in outcome:
                report(stage, receipt)
            for after in following:
                after.add([part])


def next_listed(listed: Any) -> Receipt | None:
    """The next receipt of a listing; None at its end."""
    try:
        return answer(next(listed))
    except StopIteration:
        return None


def ended(lane: Lane, slot: Slot, part: int, ref: Any) -> list[Receipt] | Failure | None:
    """What came of a part: its receipts, or its failure; None where it will be redone."""
    company = slot.busy.pop(part)
    slot.alone = False
    try:
        return answer(ref)
    except RayError as error:
        slot.reviving = slot.ask is not None
        return lane.died(part, company, node_lost(slot, error), type(error).__name__)


def answer(ref: Any) -> Any:
    """The result behind `ref`. What the user's code raised is raised as itself, a dead worker as RayError."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from None


def revived(slot: Slot, said: Any) -> dict[Any, Slot]:
    """Take an actor's word of where it lives; where it died before it could speak, ask the next one."""
    assert slot.ask is not None
    try:
        slot.node = ray.get(said)
    except RayError:
        time.sleep(0.5)  # while Ray starts the next one it answers at once that there is none
        return {slot.ask(): slot}
    slot.reviving = False
    return {}


def node_lost(slot: Slot, error: RayError) -> bool:
    """Whether a worker died because its machine did: that is not its part's doing."""
    if isinstance(error, NodeDiedError):
        return True
    return slot.node is not None and slot.node not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def slots(stage: Stage, shared: RemoteDesk) -> list[Slot]:
    """Where a stage's parts will be worked on. Raises UserError where the cluster has no room for one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = sum(node.get("CPU", 0) for node in nodes)
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if cpus < 1:
        raise UserError(f"the Ray cluster has {cpus:g} CPUs: listing, fetching and annotating need at least 1 together")
    if not stage.device:
        task = ray.remote(work_once).options(num_cpus=TASK_CPUS, max_retries=0)
        return [Slot(lambda part: task.remote(stage, shared, part), room=1) for _ in range(max(2, int(cpus)))]
    if gpus:
        needs = [{"num_gpus": 1, "num_cpus": TASK_CPUS}] * gpus
    else:
        needs = [{"num_cpus": max(0.5, int(node["CPU"]) / 2)} for node in nodes if node.get("CPU", 0) >= 1]
    return [actor_slot(stage, shared, resources) for resources in needs]


def actor_slot(stage: Stage, shared: RemoteDesk, resources: dict[str, float]) -> Slot:
    worker = ray.remote(Worker).options(
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=IN_FLIGHT,
        scheduling_strategy="SPREAD",
        **resources,
    )
    actor: Any = worker.remote()
    return Slot(lambda part: actor.work.remote(stage, shared, part), room=IN_FLIGHT, ask=actor.node.remote)


def seen_from_every_node(url: str) -> None:
    """Refuse an archive on a local path that is not one folder to all: every node would quietly write its own.

    Raises UserError, and leaves nothing behind. Inside a submitted job a relative path would lie in a package folder
    that Ray throws away.
    """
    if not storage.is_local(url):
        return
    folder = storage.local_path(url)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not folder.is_absolute():
        raise UserError(f"inside a submitted job the archive must be an absolute path or a URL, not {url}")
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    probe = str(folder.absolute() / f".probe-{uuid.uuid4().hex}")
    was_there = folder.exists()
    storage.create(probe, b"seen")
    try:
        there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        look = ray.remote(storage.exists)
        seen = ray.get([look.options(num_cpus=0, scheduling_strategy=node).remote(probe) for node in there])
        blind = seen.count(False)
    finally:
        storage.delete(probe)
        if not was_there:
            folder.rmdir()
    if blind:
        raise UserError(
            f"{url} is not one folder to all: {blind} of {len(nodes)} Ray nodes do not see what the driver wrote "
            "there; use a shared mount or an object store such as s3://"
        )
