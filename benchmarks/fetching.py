"""Is fetching as quick as it should be, and small? Against img2dataset, from the same host.

    python benchmarks/fetching.py [--quick] [--only PART] [--json]

`speed`: 2,000 JPEGs of 500 pixels and some 44 kB, drawn (pictures.py), are fetched from a host on loopback
(image_host.py) by img2dataset and by us: whole bodies, decoded in full to check them, kept as they came, SHA-256,
Parquet.
`memory`: 5,000 photos of 2 MB, and the most that the fetching process and its children held at a time; it wants 10 GB
of disk.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peers
import pictures
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from peers import Figure, say

from pipeline.archive import Archive

INSIDE, WHOLE = 1.5, 1.0  # times img2dataset's speed
MOST_MB = 500
EDGE, QUALITY = 500, 88  # of some 44 kB: as many bits a pixel, 2.1, as Flickr's renditions of photographs have
LARGE_EDGE, LARGE_QUALITY = 2400, 97  # of some 2 MB
LARGE_BODIES = 8  # photos of 2 MB that are served again and again
# What its documentation recommends is a process a core and many threads; which suits this machine best is tried out.
TRIED = tuple((processes, threads) for processes in (1, 2) for threads in (16, 64, 256))

# Fetching alone, from the first part's start to the last one's end, by a worker that has done it once: the time inside
# img2dataset's run begins when its processes have started, too.
FETCH = """
import shutil, sys, time
from pipeline import config, run, work
from pipeline.archive import Archive

settings = config.load(sys.argv[1])
archive = Archive.open(settings.archive)
desk = work.Desk(archive, settings.sources, settings.run.part_size, settings.images.rate)
stages = run.stages_of(settings, archive, ["fetch"], {})
do = stages[0].load(desk)
for _ in range(2):
    shutil.rmtree(settings.archive + "/images", ignore_errors=True)
    started = time.perf_counter()
    for part in stages[0].pending(archive):
        do(part)
    seconds = time.perf_counter() - started
do.close()
print(seconds)
"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a host that serves the files of a folder."""
    command = [sys.executable, Path(__file__).with_name("image_host.py"), folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout and host.stdin
        yield f"http://127.0.0.1:{int(host.stdout.readline())}"
        host.stdin.close()


@dataclass(frozen=True)
class Work:
    """Addresses of photos, and a folder for what is made of them."""

    folder: Path
    urls: list[str]

    def __post_init__(self) -> None:
        pq.write_table(pa.table({"url": self.urls}), self.folder / "urls.parquet")
        given = {
            "archive": str(self.folder / "archive"),
            "sources": [{"kind": "parquet", "path": str(self.folder / "urls.parquet")}],
            "images": {"rate": None},
            "run": {"runner": "local"},
        }
        self.conf.write_text(yaml.safe_dump(given))

    @property
    def conf(self) -> Path:
        return self.folder / "conf.yaml"

    def check(self) -> None:
        """That we have fetched every photo."""
        images = Archive.open(str(self.folder / "archive")).table("images")
        outcomes = [outcome for part in images.parts() for outcome in images.read(part, ["outcome"])[0].to_pylist()]
        assert outcomes == ["fetched"] * len(self.urls), "not all were fetched"

    def ours_whole(self) -> float:
        """Seconds of the whole command, listing included."""
        shutil.rmtree(self.folder / "archive", ignore_errors=True)
        seconds = timed([*TINTYPE, "run", self.conf])
        self.check()
        return seconds

    def ours_inside(self) -> float:
        """Seconds of fetching what is listed."""
        done = subprocess.run([sys.executable, "-c", FETCH, self.conf], stdout=subprocess.PIPE, text=True, check=True)
        self.check()
        return float(done.stdout)

    def theirs(self, python: Path, processes: int, threads: int) -> tuple[float, float]:
        """Seconds of img2dataset's whole command, and those from its first shard's start to its last one's end."""
        out = self.folder / "img2dataset"
        shutil.rmtree(out, ignore_errors=True)
        command = [python.with_name("img2dataset"), "--url_list", self.folder / "urls.parquet", "--output_folder", out]
        command += ["--input_format", "parquet", "--output_format", "parquet", "--resize_mode", "no"]
        command += ["--skip_reencode", "True", "--compute_hash", "sha256", "--extract_exif", "False"]
        command += ["--number_sample_per_shard", "1000"]
        command += ["--processes_count", str(processes), "--thread_count", str(threads)]
        whole = timed(command, {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"})
        said = [json.loads(path.read_text()) for path in out.glob("*_stats.json")]
        assert sum(one["successes"] for one in said) == len(self.urls), "img2dataset lost some"
        return whole, max(one["end_time"] for one in said) - min(one["start_time"] for one in said)


TINTYPE = (sys.executable, "-c", "from pipeline.cli import main; main()")


def timed(command: list[Any], more: dict[str, str] | None = None) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | (more or {}))
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}: {done.stdout.decode()[-2000:]}")
    return seconds


def speed(given: Any) -> dict[str, Figure]:
    n = 200 if given.quick else 2000
    python = peers.environment(given.work, peers.IMG2DATASET, alike=())
    folder = pictures.folder(given.work, n, EDGE, QUALITY)
    with tempfile.TemporaryDirectory(prefix="tintype-fetching-") as name, served(folder) as host:
        work = Work(Path(name), [f"{host}/{n}/{path.name}" for n, path in enumerate(sorted(folder.iterdir()))])
        trials = {asked: work.theirs(python, *asked) for asked in (TRIED[-1:] if given.quick else TRIED)}
        for (processes, threads), (whole, inside) in trials.items():
            say(f"img2dataset, {processes} processes, {threads} threads: {inside:.2f} s inside, {whole:.2f} s in all")
        best_whole, best_inside = (min(trials, key=lambda asked: trials[asked][i]) for i in (0, 1))
        sides = {
            "img2dataset inside": lambda: work.theirs(python, *best_inside)[1],
            "ours inside": work.ours_inside,
            "img2dataset whole": lambda: work.theirs(python, *best_whole)[0],
            "ours whole": work.ours_whole,
        }
        work.ours_whole()
        say(f"{n} photos by img2dataset (processes and threads: {best_inside} inside, {best_whole} whole) and by us")
        seconds = peers.in_turns(sides, 1 if given.quick else 5)
    figures = {}
    for case, goal in (("inside", INSIDE), ("whole", WHOLE)):
        theirs, ours = seconds[f"img2dataset {case}"], seconds[f"ours {case}"]
        figures |= {
            f"{case}: times img2dataset's speed": Figure(theirs / ours, "times", goal),
            f"{case}: img2dataset": Figure(n / theirs, "images/s"),
            f"{case}: ours": Figure(n / ours, "images/s"),
        }
    return figures


# --- memory -----------------------------------------------------------------------------------------------------------


def tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def held(pid: int) -> dict[str, float]:
    """MB of a process: resident, and with what it shares counted in part."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kinds = {words[0].rstrip(":"): int(words[1]) / 1000 for words in lines}
    return {"rss": kinds["Rss"], "pss": kinds["Pss"]}


@dataclass
class Peak:
    """The most that a process and its children held at a time."""

    rss: float = 0.0
    pss: float = 0.0
    stopped: threading.Event = field(default_factory=threading.Event)

    def watch(self, pid: int) -> None:
        while not self.stopped.wait(0.1):
            sums = {"rss": 0.0, "pss": 0.0}
            for one in tree(pid):
                try:
                    sums = {kind: sums[kind] + held(one)[kind] for kind in sums}
                except (FileNotFoundError, ProcessLookupError):  # it has just ended
                    continue
            self.rss, self.pss = max(self.rss, sums["rss"]), max(self.pss, sums["pss"])


def memory(given: Any) -> dict[str, Figure]:
    n = 200 if given.quick else 5000
    folder = pictures.folder(given.work, LARGE_BODIES, LARGE_EDGE, LARGE_QUALITY)
    names = sorted(path.name for path in folder.iterdir())
    with tempfile.TemporaryDirectory(prefix="tintype-fetching-") as name, served(folder) as host:
        work = Work(Path(name), [f"{host}/{n}/{names[n % len(names)]}" for n in range(n)])
        timed([*TINTYPE, "list", work.conf])
        say(f"{n} photos of {megabytes(folder):.2f} MB")
        peak = Peak()
        started = time.perf_counter()
        with subprocess.Popen([*TINTYPE, "fetch", work.conf], stdout=subprocess.DEVNULL) as fetching:
            watching = threading.Thread(target=peak.watch, args=(fetching.pid,))
            watching.start()
            fetching.wait()
        seconds = time.perf_counter() - started
        peak.stopped.set()
        watching.join()
        work.check()
    return {
        f"memory: {MOST_MB} MB against the most held": Figure(MOST_MB / peak.rss, "times", 1),
        "memory: most held at a time, RSS of all processes": Figure(peak.rss, "MB"),
        "memory: the same, what they share counted once": Figure(peak.pss, "MB"),
        "memory: speed meanwhile": Figure(n / seconds, "images/s"),
    }


def megabytes(folder: Path) -> float:
    """MB of a file, on average."""
    sizes = [path.stat().st_size for path in folder.iterdir()]
    return sum(sizes) / len(sizes) / 1e6


PARTS = {"speed": speed, "memory": memory}


def main() -> None:
    given = peers.arguments(__doc__, tuple(PARTS))
    figures: dict[str, Figure] = {}
    for part in given.only:
        figures |= PARTS[part](given)
    peers.report("fetching", figures, given.json)


if __name__ == "__main__":
    main()
