"""Where a training runs: on the workers of Ray Train, or in this process."""

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import distributed

from pipeline import logs, storage
from pipeline.models import openclip
from pipeline.photo import TryLater, UserError
from pipeline.training import loop
from pipeline.training.loop import Tell
from pipeline.training.settings import TrainSettings
from pipeline.training.steps import World

LOOK_S = 0.5  # between looks at what the workers told
RETRIES = 3  # of workers that were lost; each goes on from the last checkpoint

log = logging.getLogger(__name__)


def here(asked: TrainSettings, tell: Tell) -> None:
    """Train in this process. Raises UserError."""
    if asked.workers > 1:
        raise UserError("workers: more than one takes runner: ray")
    work = loop.prepare(asked, World(), openclip.default_device(), tell)
    loop.run(work, tell)


@contextlib.contextmanager
def every(seconds: float, do: Callable[[], None]) -> Iterator[None]:
    """Meanwhile, in a thread of its own, do this every few seconds."""
    ended = threading.Event()

    def again() -> None:
        while not ended.wait(seconds):
            do()

    thread = threading.Thread(target=again, name="ears", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True)
class Warned:
    """What a worker warns of."""

    text: str


@dataclass(frozen=True)
class Full:
    """A worker found no space left."""

    text: str


class Forward(logging.Handler):
    """Hands on what a worker warns of: its own standard error stays in Ray's folder of the session."""

    def __init__(self, hear: Callable[[Warned], Any]) -> None:
        super().__init__(logging.WARNING)
        self.hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self.hear(Warned(record.getMessage()))


class Ears:
    """What the workers tell, on its way to the driver; an actor of Ray."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def hear(self, line: Any) -> None:
        self.lines.append(line)

    def heard(self) -> list[Any]:
        lines, self.lines = self.lines, []
        return lines


def on_ray(asked: TrainSettings, tell: Tell) -> None:
    """Train on the connected Ray, by Ray Train's TorchTrainer.

    Raises UserError, and of those TryLater where the disk is full or workers were lost too often.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from pipeline import nodes

    nodes.seen_from_every_node(asked.out)
    asked = replace(asked, out=storage.absolute(asked.out))
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # or relative paths of data and models lead nowhere
    gpu, threads = nodes.shared_by(asked.workers, asked.device)
    # Beside the driver, since a training outlives any other node.
    beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    ears: Any = ray.remote(Ears).options(num_cpus=0, scheduling_strategy=beside).remote()
    problems: list[str] = []
    full: list[str] = []

    def listen() -> None:
        for line in ray.get(ears.heard.remote()):
            match line:
                case str():
                    problems.append(line)
                case Full():
                    full.append(line.text)
                case Warned():
                    log.warning("%s", line.text)
                case _:
                    tell(line)

    try:
        with tempfile.TemporaryDirectory() as folder, every(LOOK_S, listen):
            TorchTrainer(
                worker,
                train_loop_config={"asked": asked, "ears": ears, "threads": threads},
                scaling_config=ScalingConfig(
                    num_workers=asked.workers,
                    use_gpu=gpu,
                    resources_per_worker={"CPU": threads, **({"GPU": 1} if gpu else {})},
                ),
                run_config=RunConfig(
                    name="train", storage_path=folder, failure_config=FailureConfig(max_failures=RETRIES)
                ),
            ).fit()
    except WorkerGroupError as error:
        listen()
        why = full[-1] if full else _lost(error.worker_failures.values())
        if why is None:
            raise
        raise TryLater(why) from error
    listen()
    if problems:
        raise UserError(problems[0])


def worker(config: dict[str, Any]) -> None:
    """What each worker of Ray Train does. A user's mistake is told, and ends all workers; it is no failure to retry."""
    import ray.train.torch

    logs.to_stderr()
    asked, ears = config["asked"], config["ears"]
    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    if world.rank == 0:
        logging.getLogger("pipeline").addHandler(Forward(ears.hear.remote))
    device = str(ray.train.torch.get_device())  # by its number: other threads begin with the first GPU
    openclip.use_threads(config["threads"])
    try:
        _take_part(asked, world, device, ears)
    except OSError as error:
        if error.errno in storage.FULL:
            ears.hear.remote(Full(storage.no_space(error)))
        raise


def _take_part(asked: TrainSettings, world: World, device: str, ears: Any) -> None:
    problem, work = None, None
    try:
        work = loop.prepare(asked, world, device, ears.hear.remote)
    except UserError as error:
        problem = str(error)
    if not _agreed(work is not None, world, device) or work is None:
        if problem:
            ears.hear.remote(problem)
        return
    try:
        loop.run(work, ears.hear.remote)
    except UserError as error:  # the same on all workers, at the same step
        ears.hear.remote(str(error))


def _lost(failures: Iterable[Exception]) -> str | None:
    """What to tell where a worker's process ended, of which the others' failures follow; None where one raised."""
    from ray.exceptions import RayActorError

    if not any(isinstance(getattr(failure, "health_check_failure", None), RayActorError) for failure in failures):
        return None
    return (
        f"workers were lost {RETRIES + 1} times, and Ray's logs may tell why (memory, a node that ended); "
        "run the same command again to go on from the last checkpoint"
    )


def _agreed(ready: bool, world: World, device: str) -> bool:
    """Whether all workers are ready: none shall wait for one that has gone."""
    votes = torch.tensor([int(ready)], device=device)
    if world.size > 1:
        distributed.all_reduce(votes)
    return int(votes) == world.size
