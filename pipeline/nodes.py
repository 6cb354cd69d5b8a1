"""What the nodes of a Ray cluster have: room for a run, and the same archive before their eyes."""

import logging
import math
import os
import time
import uuid
from collections.abc import Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline import storage
from pipeline.photo import UserError
from pipeline.placement import Resources

log = logging.getLogger(__name__)

LOOK_S = 2.0  # between looks at the nodes
WARN_S, PLACE_S = 60, 1800  # without any place to work, before this is said, and before the run ends
NO_PLACE = "the Ray cluster has had no place for this run's work"


def own_cpus(node: str) -> int:
    """CPUs of its node that an annotating worker may use: a GPU's share of them, or all where there are none."""
    [resources] = [known["Resources"] for known in ray.nodes() if known["NodeID"] == node]
    return max(1, int(resources.get("CPU", 1) / max(1, resources.get("GPU", 1))))


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
