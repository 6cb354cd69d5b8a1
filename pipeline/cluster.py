"""Run stages over their pending parts on Ray. Part names travel, and receipts; never pixels.

Fetching is tasks; what wants a device is actors, one a GPU, or one a node where there are none, with two parts in
flight so that the device never waits at a part's end. There are as many as the backlog wants, so that a cluster which
grows on demand grows and shrinks with it. Ray's own retries are off: a part whose worker died is redone alone
(placement.py), so that one bad part can neither end a run nor keep it from ending.
"""

import contextlib
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import ray
from ray.exceptions import AuthenticationError, NodeDiedError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import logs, storage
from pipeline.archive import Archive
from pipeline.photo import Size, UserError
from pipeline.placement import Lane, Needs, Resources, Slot, places
from pipeline.pulse import EVERY_S, Beat
from pipeline.work import IN_FLIGHT, Desk, Do, Failure, Receipt, Report, Stage, attempt, close

log = logging.getLogger(__name__)

MAX_STILLBORN = 10  # actors in a row that died before they lived
DESK_CALLS = 256  # at a time: each connection of each fetcher may wait for its turn
LOOK_S = 2.0  # between looks at the nodes
WARN_S, PLACE_S = 60, 1800  # without any place to work, before this is said, and before the run ends
NO_PLACE = "the Ray cluster has had no place for this run's work"


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

    far: ClassVar[bool] = True

    actor: Any
    run: str

    def reserve(self) -> float:
        return ray.get(self.actor.reserve.remote())

    def pause(self, seconds: float) -> None:
        ray.get(self.actor.pause.remote(seconds))

    def sizes(self, source: str, photo_id: str) -> list[Size] | None:
        return ray.get(self.actor.sizes.remote(source, photo_id))

    def hear(self, beat: Beat) -> None:
        self.actor.hear.remote(beat)  # nobody waits for it to be heard


class DeskActor(Desk):
    """A Desk in an actor. Secrets come as an argument: a `runtime_env` would show them on the dashboard."""

    def __init__(self, secrets: dict[str, str], *desk: Any) -> None:
        logs.to_stderr()
        os.environ.update(secrets)
        super().__init__(*desk)

    def heard(self) -> list[Beat]:
        """What was heard since this was asked last."""
        with self.hearing:
            beats, self.beats = list(self.beats.values()), {}
        return beats


class Worker:
    """A stage, loaded when the first part comes, for all that follow."""

    def __init__(self) -> None:
        logs.to_stderr()
        os.environ["OMP_NUM_THREADS"] = str(own_cpus(self.node()))  # Ray has set it to the CPUs reserved
        self.do: Do | None = None
        self.lock = threading.Lock()

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def work(self, stage: Stage, desk: RemoteDesk, part: int) -> list[Receipt] | Failure:
        with self.lock:
            self.do = self.do or stage.load(desk)
        return attempt(desk.run, stage.name, self.do, part)


def own_cpus(node: str) -> int:
    """CPUs of its node that an annotating worker may use: a GPU's share of them, or all where there are none."""
    [resources] = [known["Resources"] for known in ray.nodes() if known["NodeID"] == node]
    return max(1, int(resources.get("CPU", 1) / max(1, resources.get("GPU", 1))))


def work_once(stage: Stage, desk: RemoteDesk, part: int) -> list[Receipt] | Failure:
    logs.to_stderr()
    do = stage.load(desk)
    try:
        return attempt(desk.run, stage.name, do, part)
    finally:
        close(do)


def run(
    archive: Archive,
    desk: Desk,
    stages: Sequence[Stage],
    report: Report,
    *,
    listing: bool = True,
    secrets: dict[str, str] | None = None,
    fetchers: int | None = None,
    gpus: int | None = None,
) -> None:
    """Do all that is pending on the connected Ray. Raises UserError; see `work.run` for what it is given.

    Args:
        fetchers: parts to fetch at a time; None: as many as suit the CPUs that the cluster has
        gpus: GPUs to ask the cluster for; None: those that it has
    """
    # Beside the driver, since a run outlives all its workers, but not its desk.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    arguments = (
        secrets or {},
        archive,
        list(desk.sources.values()),
        desk.part_size,
        desk.gate.rate,
        desk.run,
        desk.refresh,
    )
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": DESK_CALLS, "scheduling_strategy": here}
    actor: Any = ray.remote(DeskActor).options(**options).remote(*arguments)
    lanes = [Lane(stage, partial(open_slot, stage, RemoteDesk(actor, desk.run))) for stage in stages]

    asked: list[Any] = []
    since = time.monotonic()

    def listen() -> None:
        """Take in the answer that has come, and ask anew every second; nobody waits for a desk that is busy."""
        nonlocal since
        for ref in ray.wait(asked, timeout=0)[0] if asked else ():
            for beat in answer(ref):
                desk.hear(beat)
            asked.clear()
        if not asked and time.monotonic() - since >= EVERY_S:
            since = time.monotonic()
            asked.append(actor.heard.remote())

    try:
        work_off(lanes, archive, actor if listing else None, report, listen, fetchers, gpus)
    finally:
        for slot in [slot for lane in lanes for slot in lane.slots]:
            slot.close()


def work_off(
    lanes: Sequence[Lane],
    archive: Archive,
    lister: Any,
    report: Report,
    listen: Callable[[], None],
    fetchers: int | None,
    gpus: int | None,
) -> None:
    """Do what is pending in the lanes, and what the desk lists, if there is a `lister`, until nothing is left.

    `listen` is called at every turn: it brings here what workers say of their parts.
    """
    under_way: dict[Any, tuple[Lane, Slot, int]] = {}
    listed: Any = lister.list_all.options(num_returns="streaming").remote() if lister else None
    for lane in lanes:
        lane.add(lane.stage.pending(archive))
    watch = Watch()
    while True:
        listen()
        nodes = watch.nodes()
        for lane in lanes:
            lane.adjust(places(lane.stage, nodes, fetchers, gpus))
            under_way |= {ref: (lane, slot, part) for ref, slot, part in lane.start()}
        if listed is None and not under_way and not any(lane.waiting() for lane in lanes):
            return
        watch.check(listed is not None or any(slot.node or has_cpus(nodes) for _, slot, _ in under_way.values()))
        hellos = {slot.hello: (lane, slot) for lane in lanes for slot in lane.slots if slot.hello is not None}
        for ref in first_of([*under_way, *hellos, *([listed] if listed is not None else [])]):
            if ref in hellos:
                greeted(*hellos[ref])
            elif ref is not listed:
                lane, slot, part = under_way.pop(ref)
                following = lanes[lanes.index(lane) + 1 :]
                hand_on(lane.stage.name, part, ended(lane, slot, part, ref), following, report)
            elif receipt := next_listed(listed):
                hand_on(
                    "list", receipt.get("part", -1), [receipt], lanes if receipt["table"] == "photos" else (), report
                )
            else:
                listed = None


def hand_on(
    stage: str, part: int, outcome: list[Receipt] | Failure | None, following: Sequence[Lane], report: Report
) -> None:
    """Report what came of a part, and make it the next stage's work; None: it will be redone."""
    for said in [outcome] if isinstance(outcome, Failure) else outcome or []:
        report(stage, said)
    if isinstance(outcome, list):
        for after in following[:1]:
            after.add([part])


def each(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Do it for each item, wherever a CPU is free; results in their order.

    For work that may be done twice: one whose worker died is done again, a few times.
    """
    task = ray.remote(function).options(num_cpus=1, max_retries=3, name=function.__name__)
    waiting = [task.remote(item) for item in items]
    for ref in waiting:
        yield answer(ref)


def first_of(refs: list[Any]) -> list[Any]:
    """The first of these that is there, or none for now."""
    if not refs:
        time.sleep(LOOK_S)
        return []
    return ray.wait(refs, num_returns=1, timeout=LOOK_S)[0]


def has_cpus(nodes: Sequence[Resources]) -> bool:
    return sum(node.get("CPU", 0) for node in nodes) >= 1


class Watch:
    """Looks now and then at the cluster's nodes, which come and go, and ends a run that finds no place on them."""

    def __init__(self) -> None:
        self.looked = -math.inf
        self.worked = time.monotonic()
        self.warned = False
        self.seen: list[Resources] = []

    def nodes(self) -> list[Resources]:
        """Resources of the nodes that are alive."""
        if time.monotonic() - self.looked > LOOK_S:
            self.looked = time.monotonic()
            self.seen = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return self.seen

    def check(self, working: bool) -> None:
        """Raises UserError after `PLACE_S` in which nothing could be worked on."""
        now = time.monotonic()
        if working:
            self.worked, self.warned = now, False
        elif now - self.worked > PLACE_S:
            raise UserError(f"{NO_PLACE} for {PLACE_S // 60} minutes; `ray status` shows what it asks for and lacks")
        elif now - self.worked > WARN_S and not self.warned:
            log.warning("%s for %d s; waiting", NO_PLACE, WARN_S)
            self.warned = True


def next_listed(listed: Any) -> Receipt | None:
    """The next receipt of a listing; None at its end."""
    try:
        return answer(next(listed))
    except StopIteration:
        return None


def answer(ref: Any) -> Any:
    """The result behind `ref`. What the user's code raised is raised as itself, a dead worker as RayError."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from None


def ended(lane: Lane, slot: Slot, part: int, ref: Any) -> list[Receipt] | Failure | None:
    """What came of a part: its receipts, or its failure; None where its worker died and it will be redone."""
    company = slot.leave(part)
    try:
        return answer(ref)
    except RayError as error:
        slot.lost = lane.stage.device
        return lane.died(part, company or node_lost(slot, error), type(error).__name__)


def greeted(lane: Lane, slot: Slot) -> None:
    """Take an actor's word of where it lives. Raises UserError where one after another dies before it can speak."""
    ref, slot.hello = slot.hello, None
    try:
        slot.node = answer(ref)
        lane.stillborn = 0
    except RayError as error:
        slot.lost = True
        lane.stillborn += 1
        if lane.stillborn == MAX_STILLBORN:
            reason = str(error).splitlines()[0]
            raise UserError(f"{MAX_STILLBORN} workers for {lane.stage.name} died as they started: {reason}") from error


def node_lost(slot: Slot, error: RayError) -> bool:
    """Whether a worker died because its machine did: that is not its part's doing."""
    if isinstance(error, NodeDiedError):
        return True
    return slot.node is not None and slot.node not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def open_slot(stage: Stage, desk: RemoteDesk, needs: Needs) -> Slot:
    """A place of its own for a stage's parts: an actor that lives once, or whatever worker is free."""
    if not stage.device:
        task = ray.remote(work_once).options(num_cpus=needs.cpus, max_retries=0, name=stage.name)
        return Slot(needs, lambda part: task.remote(stage, desk, part), room=1)
    worker = ray.remote(Worker).options(
        num_cpus=needs.cpus,
        num_gpus=needs.gpus,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=IN_FLIGHT,
        scheduling_strategy="SPREAD",
    )
    actor: Any = worker.remote()
    return Slot(
        needs,
        lambda part: actor.work.options(name=stage.name).remote(stage, desk, part),
        room=IN_FLIGHT,
        close=lambda: ray.kill(actor),
        hello=actor.node.remote(),
    )


def enough(asked: bool) -> None:
    """Refuse a cluster that has no room and was not asked to grow. Raises UserError."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not has_cpus(nodes) and not asked:
        raise UserError(
            "the Ray cluster has less than 1 CPU: listing, fetching and annotating need at least 1 together; "
            "if it grows when asked, set run.fetchers and run.gpus"
        )


def shared_by(workers: int, device: str) -> tuple[bool, int]:
    """Whether so many workers that train get a GPU each, and how many CPUs each has.

    `device`: auto, gpu or cpu. Raises UserError where the cluster has too few.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if device == "gpu" or (device == "auto" and gpus):
        if device == "auto" and gpus < workers:
            raise UserError(f"workers: {workers} want a GPU each, and the Ray cluster has {gpus}; device: cpu is slow")
        shares = [int(node.get("CPU", 1) // node["GPU"]) for node in nodes if node.get("GPU")]
        return True, max(1, min(shares, default=1))
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if sum(cpus) < workers:
        raise UserError(f"workers: {workers} want a CPU each, and the Ray cluster has {sum(cpus)}")
    return False, max(1, min(cpus) // math.ceil(workers / len(cpus)))


def seen_from_every_node(url: str) -> None:
    """Refuse a local path that is not one folder to all: every node would quietly write its own.

    Raises UserError, and leaves nothing behind. Inside a submitted job a relative path would lie in a package folder
    that Ray throws away.
    """
    if not storage.is_local(url):
        return
    folder = storage.local_path(url)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not folder.is_absolute():
        raise UserError(f"{url}: inside a submitted job this must be an absolute path or a URL")
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        raise UserError(f"{url} is a local path, and the Ray cluster has no nodes yet that could see it; use a URL")
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
