"""Are indexes right at every size, and quick? Against numpy over the same vectors, and against autofaiss.

    python benchmarks/indexes.py [--quick] [--only PART] [--json]

The archives are clustered.py's: vectors clustered as those of photographs are, facts, no pictures.
`exact`: 45,000 × 512: the whole command, and one query against a bare product in numpy.
`large`: 1,000,000 × 256 within 4 GB: what `auto` chose, recall of held-out pictures and texts, one query against exact
search, and autofaiss with the same vectors and as much memory. Its result is kept; delete
autofaiss-*.json to measure it anew.
`workers`: the first 200 parts of it, built by 1, 2 and 4 Ray workers.
`growth`: 990 parts, then 10 more, against a rebuild.
`filters`: `--where` that keeps half of it to a ten-thousandth, at random and by what the vectors follow.
`cold`: one search in a new process, none of the build in the page cache.
"""

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import clustered
import numpy as np
import peers
import yaml
from clustered import Clustered
from fetching import tree
from peers import Figure, say

from pipeline import builds

K = 10
MEMORY_MB, CORES = 4000, 2
BUILD_S, BARE, EXACT = 10, 1.5, 20  # of exact: seconds, times a bare product; of large: times as quick as exact search
RECALL, GROWTH, ALIKE = 0.95, 0.03, 0.01
SHARES = (0.5, 0.05, 0.005, 0.0001)
SIZES = {"exact": (45, 512), "large": (1000, 256)}  # parts and dimensions
QUICK = {"exact": (5, 64), "large": (60, 64)}
ONE = 200  # queries asked one by one
ROOT = Path(__file__).parents[1]

TINTYPE = (sys.executable, "-c", "from pipeline.cli import main; main()")
# The same on a Ray of so many CPUs.
ON_RAY = """
import sys
from pipeline import cluster
from pipeline.cli import main
with cluster.connection(cpus=int(sys.argv.pop(1))):
    main()
"""
COLD = """
import json, sys, time
from pathlib import Path
import numpy as np

def resident(kind):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind)]
    return int(line.split()[1]) / 1000

def read():
    return int(Path("/proc/self/io").read_text().split("\\nread_bytes: ")[1].split()[0]) / 1e6

started = time.perf_counter()
from pipeline import builds
import faiss, duckdb
loaded, before, had = time.perf_counter(), resident("VmRSS"), read()
build = builds.open_build(sys.argv[1])
opened = time.perf_counter()
_, found = build.nearest(np.load(sys.argv[2])[:1], 10)
found = build.facts(found[0].tolist(), ["photo_id", "title"])
assert len(found) == 10
said = {"load": loaded - started, "open": opened - loaded, "search": time.perf_counter() - opened}
print(json.dumps(said | {"MB": resident("VmRSS") - before, "read": read() - had}))
"""


@dataclass(frozen=True)
class Made:
    """What building an index came to: seconds of the whole command, and MB held at most, that of files included."""

    folder: Path
    seconds: float
    held: float
    anonymous: float  # MB of that which are no file's

    @property
    def url(self) -> str:
        return str(self.folder / "archive")

    def open(self) -> builds.Build:
        return builds.open_build(self.url)


# --- running ----------------------------------------------------------------------------------------------------------


def index(folder: Path, *more: str, command: Sequence[str] = TINTYPE, settings: Sequence[str] = ()) -> Made:
    """`tintype index` of the archive in `folder`, as a process of its own."""
    conf = folder / "conf.yaml"
    given = {
        "archive": str(folder / "archive"),
        "sources": [{"kind": "folder", "path": str(folder)}],
        "embeddings": {clustered.NAME: {"model": "ViT-B-32"}},
        "run": {"runner": "local"},
    }
    conf.write_text(yaml.safe_dump(given))
    asked = [word for setting in settings for word in ("--set", setting)]
    started = time.perf_counter()
    with subprocess.Popen([*command, "index", conf, *more, *asked], stdout=subprocess.PIPE, cwd=ROOT) as process:
        peak = watch(process)
        said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"tintype index ended with status {process.returncode}: {said.decode()[-2000:]}")
    return Made(folder, time.perf_counter() - started, *peak)


def watch(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Waits for a process that prints little: the most MB that it and its children held, and that were no file's."""
    most = [0.0, 0.0]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            sums = [0.0, 0.0]
            for pid in tree(process.pid):
                try:
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                except (FileNotFoundError, ProcessLookupError):  # it has just ended
                    continue
                sizes = {line.partition(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
                for i, kind in enumerate(("VmRSS", "RssAnon")):
                    sums[i] += int(sizes.get(kind, 0)) / 1000
            most[:] = map(max, most, sums)

    looking = threading.Thread(target=look)
    looking.start()
    process.wait()
    done.set()
    looking.join()
    return most[0], most[1]


def one_by_one(ask: Callable[[np.ndarray], Any], queries: np.ndarray) -> list[float]:
    """Milliseconds of each query."""
    took = []
    for query in queries:
        started = time.perf_counter()
        ask(query)
        took.append(1000 * (time.perf_counter() - started))
    return took


def against(ours: Callable[[np.ndarray], Any], theirs: Callable[[np.ndarray], Any], queries: np.ndarray) -> list[float]:
    """Median milliseconds of a query, [ours, theirs], in turns of ten queries."""
    one_by_one(ours, queries[:10]), one_by_one(theirs, queries[:10])
    took: list[list[float]] = [[], []]
    for first in range(0, len(queries), 10):
        for times, side in zip(took, (ours, theirs), strict=True):
            times += one_by_one(side, queries[first : first + 10])
    return [statistics.median(times) for times in took]


def found_of(truth: np.ndarray, row_ids: np.ndarray) -> float:
    """Mean share of the true rows, numbers int64[n, k], that are among the row ids found."""
    pairs = zip(truth, clustered.row_numbers(row_ids), strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / np.count_nonzero(a >= 0) for a, b in pairs]))


@cache
def data(work: Path, part: str, quick: bool) -> Clustered:
    return clustered.archive(work, *(QUICK if quick else SIZES)[part])


@cache
def built(work: Path, quick: bool) -> Made:
    """The index of the large archive, built once for all parts that ask it."""
    source = data(work, "large", quick)
    folder = Path(tempfile.mkdtemp(prefix="built-", dir=source.folder))
    clustered.link(source.url, folder / "archive", range(len(source.vectors) // clustered.ROWS))
    say(f"building the index of {len(source.vectors):,} vectors")
    return index(folder, settings=[f"index.memory={MEMORY_MB}M", *(["index.kind=ivf_flat"] if quick else [])])


def parts_of(source: Clustered) -> int:
    return len(source.vectors) // clustered.ROWS


# --- the parts --------------------------------------------------------------------------------------------------------


def exact(given: Any) -> dict[str, Figure]:
    source = data(given.work, "exact", given.quick)
    with tempfile.TemporaryDirectory(prefix="exact-", dir=source.folder) as name:
        clustered.link(source.url, Path(name, "archive"), range(parts_of(source)))
        made = index(Path(name))
        build = made.open()
        milliseconds = against(lambda q: build.nearest(q[None], K), lambda q: source.vectors @ q, source.pictures[:ONE])
        _, found = build.nearest(source.pictures, K)
    ours, bare = milliseconds
    return {
        f"exact: the command quicker than {BUILD_S} s": Figure(BUILD_S / made.seconds, "times", 1),
        "exact: the build alone": Figure(sum(build.card["seconds"].values()), "s"),
        "exact: recall@10": Figure(found_of(source.truth(source.pictures, K), found), "share", 1),
        f"exact: {BARE} bare products against one query": Figure(BARE * bare / ours, "times", 1),
        "exact: one query, p50": Figure(ours, "ms"),
        "exact: a bare product, p50": Figure(bare, "ms"),
    }


def large(given: Any) -> dict[str, Figure]:
    source = data(given.work, "large", given.quick)
    theirs = autofaiss(given.work, source)
    made = built(given.work, given.quick)
    build = made.open()
    say(f"autofaiss: {theirs}")
    say(f"ours: {build.card['kind']}, seconds {build.card['seconds']}, recall {build.card['recall']}")

    def search_all(query: np.ndarray) -> np.ndarray:
        scores = source.vectors @ query
        best = np.argpartition(scores, -K)[-K:]
        return best[np.argsort(-scores[best])]

    ours, all_of_it = against(lambda q: build.nearest(q[None], K), search_all, source.pictures[:ONE])
    figures = {
        f"large: times as quick as exact search, {build.card['kind']}": Figure(all_of_it / ours, "times", EXACT),
        "large: one query, p50": Figure(ours, "ms"),
        "large: exact search, p50": Figure(all_of_it, "ms"),
        "large: the command": Figure(made.seconds, "s"),
        "large: memory allowed against most held": Figure(MEMORY_MB / made.held, "times", 1),
        "large: most held at a time": Figure(made.held, "MB"),
        "large: of which no file's": Figure(made.anonymous, "MB"),
        "large: on disk": Figure(sum(build.card["bytes"].values()) / 1e6, "MB"),
        f"large: autofaiss' build, {theirs['key']}": Figure(theirs["seconds"], "s"),
        "large: autofaiss' build against the command": Figure(theirs["seconds"] / made.seconds, "times", 1),
        "large: autofaiss, most held at a time": Figure(theirs["held"] / 1e6, "MB"),
    }
    for kind, queries in (("pictures", source.pictures), ("texts", source.texts)):
        recall = found_of(source.truth(queries, K), build.nearest(queries, K)[1])
        figures |= {
            f"large: recall@10, {kind}": Figure(recall, "share", RECALL),
            f"large: recall@10 above autofaiss', {kind}": Figure(recall - theirs[kind]["recall@10"], "share", 0),
            f"large: autofaiss' query, p50, {kind}": Figure(theirs[kind]["p50_ms"], "ms"),
        }
    return figures


def autofaiss(work: Path, source: Clustered) -> dict[str, Any]:
    """What autofaiss_build.py says, from the run that was kept if there is one."""
    kept = work / f"{peers.AUTOFAISS[0].replace('==', '-')}-{source.folder.name}-{MEMORY_MB}M.json"
    if kept.exists():
        say(f"autofaiss as it was measured before: {kept}")
        return json.loads(kept.read_text())
    python = peers.environment(work, peers.AUTOFAISS, alike=())
    say(f"autofaiss builds its index of {len(source.vectors):,} vectors")
    with tempfile.TemporaryDirectory(prefix="autofaiss-", dir=work) as name:
        sets = {"pictures": source.pictures, "texts": source.texts}
        truths = {f"{kind}_truth": source.truth(queries, K) for kind, queries in sets.items()}
        np.savez(Path(name, "queries.npz"), **sets, **truths)
        script = Path(__file__).with_name("autofaiss_build.py")
        asked = [source.folder / "vectors", f"{name}/queries.npz", f"{name}/knn.index", str(MEMORY_MB), str(CORES)]
        done = subprocess.run([python, script, *asked], stdout=subprocess.PIPE, text=True, check=True)
    kept.write_text(done.stdout)
    return json.loads(done.stdout)


def workers(given: Any) -> dict[str, Figure]:
    source = data(given.work, "large", given.quick)
    parts = range(20 if given.quick else 200)
    hits, files, seconds = {}, {}, {}
    for n in (1, 2, 4):
        with tempfile.TemporaryDirectory(prefix="workers-", dir=source.folder) as name:
            clustered.link(source.url, Path(name, "archive"), parts)
            say(f"building with {n} workers")
            command = [sys.executable, "-c", ON_RAY, str(n)]
            made = index(Path(name), command=command, settings=["run.runner=ray", "index.kind=ivf_flat"])
            build = made.open()
            hits[n] = build.nearest(source.pictures[:ONE], K)[1]
            files[n] = hashlib.sha256((build.folders[0] / "index.faiss").read_bytes()).hexdigest()
            seconds[n] = made.seconds
    alike = [np.array_equal(hits[1], hits[n]) for n in (2, 4)]
    bytes_alike = [files[1] == files[n] for n in (2, 4)]
    return {
        "workers: the same hits from 1, 2 and 4": Figure(float(np.mean(alike)), "of them", 1),
        "workers: the same bytes from 1, 2 and 4": Figure(float(np.mean(bytes_alike)), "of them", 1),
        **{f"workers: {n}, the command": Figure(took, "s") for n, took in seconds.items()},
    }


def growth(given: Any) -> dict[str, Figure]:
    source = data(given.work, "large", given.quick)
    n = parts_of(source)
    old = n - n // 100 if not given.quick else n - 1
    kind = ["index.kind=ivf_flat", f"index.memory={MEMORY_MB}M"]
    results = {}
    for how in ("adding", "a rebuild"):
        with tempfile.TemporaryDirectory(prefix="growth-", dir=source.folder) as name:
            archive = Path(name, "archive")
            if how == "adding":
                clustered.link(source.url, archive, range(old))
                index(Path(name), settings=kind)
            clustered.link(source.url, archive, range(old if how == "adding" else 0, n))
            say(f"growth: {how}, {n} parts")
            results[how] = measured(
                index(Path(name), *(["--update"] if how == "adding" else []), settings=kind), source
            )
    (grown, after), (rebuilt, anew) = results["adding"], results["a rebuild"]
    return {
        f"growth: {GROWTH:g} of a rebuild against adding {1 - old / n:.0%}": Figure(GROWTH * anew / after, "times", 1),
        "growth: adding": Figure(after, "s"),
        "growth: a rebuild": Figure(anew, "s"),
        "growth: recall@10 after adding": Figure(grown, "share", rebuilt - ALIKE),
        "growth: recall@10 of a rebuild": Figure(rebuilt, "share"),
    }


def measured(made: Made, source: Clustered) -> tuple[float, float]:
    """Recall@10 of held-out pictures, and seconds of the build without the program's start."""
    build = made.open()
    _, found = build.nearest(source.pictures, K)
    return found_of(source.truth(source.pictures, K), found), sum(build.card["seconds"].values())


def filters(given: Any) -> dict[str, Figure]:
    source = data(given.work, "large", given.quick)
    build = built(given.work, given.quick).open()
    tail = np.cumsum(clustered.Draw(source.vectors.shape[1]).share[::-1])
    queries = source.pictures[:ONE]
    figures = {}
    for share in SHARES:
        first = clustered.SUBJECTS - 1 - int(np.searchsorted(tail, share))
        wheres = {
            "at random": f"latitude < {-90 + 180 * share}",
            "by subject": f"owner >= '{clustered.subject(first)}'",
        }
        for how, where in wheres.items():
            among = build.matching(where)
            if len(among) < K:  # --quick
                continue
            rows = clustered.row_numbers(among)
            within = clustered.Clustered("", source.vectors[rows], queries, queries, source.folder)
            truth = rows[within.truth(queries, K)]
            found: list[np.ndarray] = []
            took = one_by_one(lambda q, a=among, f=found: f.append(build.nearest(q[None], K, among=a)[1]), queries)
            asked = f"filters: {len(among):,} rows {how}"
            figures |= {
                f"{asked}: recall@10": Figure(found_of(truth, np.concatenate(found)), "share", RECALL),
                f"{asked}: p50": Figure(statistics.median(took), "ms"),
            }
    return figures


def cold(given: Any) -> dict[str, Figure]:
    source = data(given.work, "large", given.quick)
    made = built(given.work, given.quick)
    build = made.open()
    size = sum(build.card["bytes"].values()) / 1e6
    for path in (path for folder in build.folders for path in folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-c", COLD, made.url, source.folder / "pictures.npy"]
    said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout)
    return {
        "cold: the libraries": Figure(said["load"], "s"),
        "cold: open": Figure(said["open"], "s"),
        "cold: the first search, with titles": Figure(said["search"], "s"),
        "cold: resident more": Figure(said["MB"], "MB"),
        "cold: read from disk": Figure(said["read"], "MB"),
        "cold: on disk against read": Figure(size / max(said["read"], 0.1), "times"),
    }


PARTS = {part.__name__: part for part in (exact, large, workers, growth, filters, cold)}


def main() -> None:
    given = peers.arguments(__doc__, tuple(PARTS))
    given.work = given.work.resolve()
    figures: dict[str, Figure] = {}
    try:
        for part in given.only:
            found = PARTS[part](given)
            say("".join(f"    {name}: {figure.value:.4g} {figure.unit}\n" for name, figure in found.items()))
            figures |= found
    finally:
        for left in given.work.glob("clustered-*/built-*"):
            shutil.rmtree(left)
    peers.report("indexes", figures, given.json)


if __name__ == "__main__":
    main()
