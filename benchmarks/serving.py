"""Does the server answer while one waits? `tintype serve`, asked over loopback as browsers ask it.

    python benchmarks/serving.py [--quick] [--only PART] [--json]

`demo`: the demo archive, made unless it is there: from a new process to its first answer; one query after another;
twenty users at once.
`vit`, `coca`: 20,000 made-up vectors and random weights of ViT-B-32 and coca_ViT-L-14, one query after another, and
what the process holds: words alone are asked for, so the text tower alone should be in memory.
No query is asked twice.
"""

import http.client
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import clustered
import numpy as np
import peers
import safetensors.torch
from peers import Figure, say
from rich.console import Console

from pipeline.archive import Archive
from pipeline.demo.show import make
from pipeline.models import openclip, store, weights
from pipeline.progress import Progress
from pipeline.stages import index
from pipeline.stages.index import IndexSettings

COLD_S, WARM_MS, AT_ONCE_MS = 10, 150, 2000
USERS = 20
MODELS = {"vit": ("ViT-B-32", 512, 400), "coca": ("coca_ViT-L-14", 768, 700)}  # name, dimensions, milliseconds at p95
PARTS_OF_VECTORS = 20
TINTYPE = (sys.executable, "-c", "import sys; from pipeline.cli import main; sys.exit(main())")
ROOT = Path(__file__).parents[1]
WORDS = ("red", "old", "small", "painted", "broken", "harbour", "windmill", "street", "sailboat", "lantern", "teapot")
texts = (f"a {a} {b} {c}, number {n}" for n in itertools.count() for a, b, c in itertools.permutations(WORDS, 3))


@dataclass(frozen=True)
class Server:
    """A server that runs, and how many seconds its first answer took from the process' start."""

    pid: int
    place: str
    cold: float

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.place, timeout=120)

    def ask(self, connection: http.client.HTTPConnection) -> float:
        """Milliseconds of one search by words that nobody asked for before."""
        path = f"/api/search?k=24&q={quote(next(texts))}"
        started = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        hits = json.loads(answer.read()).get("hits", ())
        if answer.status != 200 or len(hits) != 24:
            raise RuntimeError(f"{path}: status {answer.status}, {len(hits)} hits")
        return 1000 * (time.perf_counter() - started)

    def memory(self) -> dict[str, float]:
        """MB that the process holds, and of that what is no file's: libraries with GPU code are large."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        sizes = {line.partition(":")[0]: int(line.split()[1]) / 1000 for line in lines if line.endswith(" kB")}
        return {"resident": sizes["VmRSS"], "resident, no file's": sizes["RssAnon"]}


@contextmanager
def serving(archive: Path) -> Iterator[Server]:
    started = time.perf_counter()
    command = [*TINTYPE, "serve", archive, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment()) as it:
        try:
            assert it.stderr
            place = urlsplit(it.stderr.readline().split()[4]).netloc
            server = Server(it.pid, place, 0)
            server.ask(server.connect())
            yield Server(it.pid, place, time.perf_counter() - started)
        finally:
            it.send_signal(signal.SIGINT)
    if it.returncode:
        raise RuntimeError(f"tintype serve ended with status {it.returncode}")


def environment() -> dict[str, str]:
    """Ours, with Python's compiled files kept, as they are unless forbidden: a start takes 7 s more without."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "tintype-benchmark-pyc")}


def one_by_one(server: Server, n: int) -> np.ndarray:
    """Milliseconds of n searches, each asked when the one before was answered."""
    connection = server.connect()
    for _ in range(5):
        server.ask(connection)
    return np.array([server.ask(connection) for _ in range(n)])


def at_once(server: Server, each: int) -> tuple[np.ndarray, int]:
    """Milliseconds of the searches of USERS who ask at the same time, each again when answered; and how many failed."""

    def user(_: int) -> tuple[list[float], int]:
        connection, took, failed = server.connect(), [], 0
        for _ in range(each):
            try:
                took.append(server.ask(connection))
            except (RuntimeError, OSError, http.client.HTTPException):
                failed, connection = failed + 1, server.connect()
        return took, failed

    with ThreadPoolExecutor(USERS) as pool:
        users = list(pool.map(user, range(USERS)))
    return np.concatenate([took for took, _ in users]), sum(failed for _, failed in users)


def within(name: str, goal: float, took: np.ndarray) -> dict[str, Figure]:
    p50, p95 = map(float, np.percentile(took, [50, 95]))
    return {
        f"{name}: p95 within {goal:g} ms": Figure(goal / p95, "times", 1),
        f"{name}: p50": Figure(p50, "ms"),
        f"{name}: p95": Figure(p95, "ms"),
    }


def demo(given: Any) -> dict[str, Figure]:
    archive = given.work / "serving/demo"
    if not (archive / "index").is_dir():
        with Progress(Console(stderr=True)) as progress:
            make(str(archive), progress, runner="local")
    with serving(archive):
        pass  # the first start of all compiles Python's files
    colds = []
    for _ in range(1 if given.quick else 3):
        with serving(archive) as server:
            colds.append(server.cold)
            took = one_by_one(server, 20 if given.quick else 200)
            crowd, failed = at_once(server, 2 if given.quick else 10)
            memory = server.memory()
    cold = statistics.median(colds)
    return {
        f"demo: first answer within {COLD_S} s": Figure(COLD_S / cold, "times", 1),
        "demo: from a new process to the first answer": Figure(cold, "s"),
        **within("demo: one query", WARM_MS, took),
        **within(f"demo: {USERS} users at once", AT_ONCE_MS, crowd),
        "demo: answered of those at once": Figure(1 - failed / (len(crowd) + failed), "share", 1),
        **{f"demo: {kind}": Figure(size, "MB") for kind, size in memory.items()},
    }


def model(given: Any, part: str) -> dict[str, Figure]:
    name, dim, goal = MODELS[part]
    archive = made(given.work, name, dim, 1 if given.quick else PARTS_OF_VECTORS)
    with serving(archive) as server:
        took = one_by_one(server, 20 if given.quick else 100)
        memory = server.memory()
    size = sum(path.stat().st_size for path in (archive / "models").rglob("*.safetensors")) / 1e6
    return {
        **within(f"{part}: one query", goal, took),
        f"{part}: from a new process to the first answer": Figure(server.cold, "s"),
        **{f"{part}: {kind}": Figure(size, "MB") for kind, size in memory.items()},
        f"{part}: weights of the whole model": Figure(size, "MB"),
    }


def made(work: Path, name: str, dim: int, parts: int) -> Path:
    """An archive of so many parts of made-up vectors, as if this model with random weights had made them."""
    folder = work / f"serving/{name}-{parts}"
    if (folder / "ready").exists():
        return folder / "archive"
    shutil.rmtree(folder, ignore_errors=True)
    source = clustered.archive(work, parts, dim)
    clustered.link(source.url, folder / "archive", range(parts))
    say(f"writing random weights of {name}")
    path = folder / "open_clip_model.safetensors"
    net = openclip.load(name, openclip.RANDOM, device="cpu", precision="fp32").net
    safetensors.torch.save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path)
    identity = openclip.load(name, str(path), device="cpu", precision="fp32", tower="text").identity()
    archive = Archive.open(str(folder / "archive"))
    (folder / f"archive/embeddings/{clustered.NAME}/table.json").unlink()
    archive.table(f"embeddings/{clustered.NAME}").claim(identity)
    store.put(archive.url, name, str(path), path, weights.sha256(path))
    path.unlink()
    index.build(archive, IndexSettings(of=clustered.NAME))
    (folder / "ready").touch()
    return folder / "archive"


PARTS = ("demo", *MODELS)


def main() -> None:
    given = peers.arguments(__doc__, PARTS)
    given.work = given.work.resolve()
    figures: dict[str, Figure] = {}
    for part in given.only:
        found = demo(given) if part == "demo" else model(given, part)
        say("".join(f"    {name}: {figure.value:.4g} {figure.unit}\n" for name, figure in found.items()))
        figures |= found
    peers.report("serving", figures, given.json)


if __name__ == "__main__":
    main()
