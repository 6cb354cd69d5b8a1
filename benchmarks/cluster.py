"""Do more nodes make a run faster, and does it survive their deaths? A Ray cluster simulated on this machine.

    python benchmarks/cluster.py [--quick] [--only PART] [--json]

`speed-up`: pictures of a server that takes its time are fetched by one node, then by four. `deaths`: a node is killed
every few seconds, and another comes, while two stages of small parts are worked on (tests/runners.py; models would take
longer to load here than a node lives); the tables must be those of a run that nobody disturbed, and few parts may have
been made twice.
"""

import contextlib
import logging
import multiprocessing
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import peers
import ray
from peers import Figure, say
from ray.cluster_utils import Cluster
from rich.console import Console

from pipeline import cluster, config, work
from pipeline import run as pipeline_run
from pipeline.archive import Archive
from pipeline.placement import FETCHERS_A_CPU
from pipeline.progress import Progress
from tests import runners
from tests.small_archive import jpeg

PARTS = ("speed-up", "deaths")
NODES = 4
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
LATENCY_S = 2.0
CONNECTIONS = 4  # of each fetching worker: what is measured is waiting
FASTER = 3.6  # with NODES nodes
KILL_S = 5.0
REDONE = 0.30  # of the parts, at most
TABLES = ("images", "captions/x")


class Slow(BaseHTTPRequestHandler):
    """Answers every GET with a picture whose colour is its number, late."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(LATENCY_S)
        number = int(Path(self.path).stem)
        body = jpeg((number % 256, number // 256, 128))
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def serve(port: Any) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.daemon_threads = True
        port.value = server.server_port
        server.serve_forever()


@contextlib.contextmanager
def slow_server() -> Iterator[str]:
    """The address of a slow server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    port = context.Value("i", 0)
    process = context.Process(target=serve, args=(port,), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port.value}"
    process.kill()
    process.join()


@contextlib.contextmanager
def cluster_of(nodes: int) -> Iterator[Cluster]:
    """A cluster whose head does no work, and this process connected to it."""
    # Not with hooks of its own for the end of this process: those cannot be set in a thread, which adds nodes below.
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0}, shutdown_at_exit=False)
    for _ in range(nodes):
        made.add_node(**NODE)
    ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def settings_for(folder: Path, name: str, url: str, parts: int, rows: int) -> config.Settings:
    """An archive of so many parts of so many pictures."""
    urls = folder / f"{parts}x{rows}.csv"
    urls.write_text("id,url\n" + "".join(f"{n},{url}/{n}.jpg\n" for n in range(parts * rows)))
    return config.parse(
        {
            "archive": str(folder / name),
            "sources": [{"kind": "parquet", "path": str(urls)}],
            "images": {"rate": None, "connections": CONNECTIONS},
            "run": {"part_size": rows},
        }
    )


def carry_out(settings: config.Settings, steps: tuple[str, ...]) -> tuple[float, float]:
    """Seconds of these steps: all of them, and those after every worker had begun."""
    ends: list[float] = []
    progress = Progress(Console(stderr=True, quiet=True))
    report = progress.report

    def timed(stage: str, said: Any) -> None:
        ends.append(time.perf_counter())
        report(stage, said)

    progress.report = timed  # type: ignore[method-assign]
    started = time.perf_counter()
    pipeline_run.run(settings, progress, steps)
    assert not progress.failures and not progress.reasons, (progress.failures, progress.reasons)
    return time.perf_counter() - started, ends[-1] - ends[0]


def speed_up(url: str, folder: Path, rounds: int, rows: int) -> dict[str, Figure]:
    """Pictures a second with one node and with several, each worker having so many parts to fetch."""
    whole, began = {}, {}
    for nodes in (1, NODES):
        with cluster_of(nodes):
            workers = int(nodes * NODE["num_cpus"] * FETCHERS_A_CPU)
            settings = settings_for(folder, f"by-{nodes}", url, workers * rounds, rows)
            carry_out(settings, ("list",))
            seconds, since_first = carry_out(settings, ("fetch",))
            whole[nodes] = workers * rounds * rows / seconds
            # The first part of each worker is not counted: all end at about the same time.
            began[nodes] = workers * (rounds - 1) * rows / since_first
            say(f"    {nodes} nodes: {whole[nodes]:.1f} pictures/s, {began[nodes]:.1f} once all had begun")
    case = f"fetching, {NODES} nodes against 1"
    return {
        f"{case}, once workers had started": Figure(began[NODES] / began[1], "times", FASTER),
        f"{case}, start included": Figure(whole[NODES] / whole[1], "times"),
    }


@contextlib.contextmanager
def killer(cluster: Cluster) -> Iterator[list[float]]:
    """Kills a node every KILL_S and adds another; the times at which it did."""
    chance, enough, kills = random.Random(0), threading.Event(), []

    def kill() -> None:
        while not enough.wait(KILL_S):
            cluster.remove_node(chance.choice(sorted(cluster.worker_nodes, key=id)), allow_graceful=False)
            kills.append(time.perf_counter())
            cluster.add_node(**NODE)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield kills
    finally:
        enough.set()
        thread.join()


class Redone(logging.Handler):
    """Counts the parts that are redone, by what placement says of them."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "is redone alone" in record.getMessage()


def deaths(folder: Path, parts: int) -> dict[str, Figure]:
    """The tables of a run whose nodes die, held against those of a run in this process; a part takes a second."""
    made = []
    for name in ("calm", "disturbed"):
        archive = Archive.create(str(folder / name))
        for part in range(parts):
            runners.write(archive, "photos", part)
        (folder / f"{name}-marks").mkdir()
        slow = dict.fromkeys(range(parts), "linger") if name == "disturbed" else {}
        made.append((archive, runners.stages(archive, folder / f"{name}-marks", slow, slow)))
    (calm, calm_stages), (disturbed, stages) = made
    failures: list[Any] = []

    def report(stage: str, said: Any) -> None:
        failures.extend([said] if isinstance(said, work.Failure) else [])

    work.run(calm, work.Desk(calm, [], 10, None), calm_stages, report, listing=False)
    counted = Redone()
    logging.getLogger("pipeline").addHandler(counted)
    logging.getLogger("pipeline").propagate = False
    started = time.perf_counter()
    with cluster_of(NODES) as nodes, killer(nodes) as kills:
        cluster.run(disturbed, work.Desk(disturbed, [], 10, None), stages, report, listing=False)
    seconds = time.perf_counter() - started
    say(f"    {seconds:.1f} s, {len(kills)} nodes killed, {counted.count} parts redone, {len(failures)} given up")
    same = [rows(calm, name) == rows(disturbed, name) for name in TABLES]
    return {
        "seconds between two deaths of nodes": Figure(seconds / max(1, len(kills)), "s"),
        "tables like those of an undisturbed run": Figure(sum(same) / len(same), "of all", 1),
        "parts not redone": Figure(1 - counted.count / (2 * parts), "of all", 1 - REDONE),
    }


def rows(archive: Archive, name: str) -> list[Any]:
    """All that a table says, but for when it was written."""
    table = archive.table(name)
    return [[row | {"forgotten_at": None} for row in table.read(part).to_pylist()] for part in table.parts()]


def main() -> None:
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    given = peers.arguments(__doc__, PARTS)
    figures: dict[str, Figure] = {}
    with slow_server() as url, tempfile.TemporaryDirectory(prefix="tintype-cluster-") as folder:
        for part in given.only:
            say(part)
            if part == "speed-up":
                figures |= speed_up(url, Path(folder), *((2, 20) if given.quick else (3, 100)))
            else:
                figures |= deaths(Path(folder), 40 if given.quick else 80)
    peers.report("cluster", figures, given.json)


if __name__ == "__main__":
    main()
