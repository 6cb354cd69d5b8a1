"""Does a large archive stay easy to ask about, and as quick to make? 100,000 parts, and 50,000 pictures.

    python benchmarks/scale.py [--quick] [--only PART] [--json]

The parts are real names of one real part, which nothing here opens but the first: all is done from listings and
from the roll-up of receipts that runs leave behind. The goals say how many times quicker and smaller than allowed.
Memory is what the question takes beside the program itself, of which torch's libraries alone map 800 MB.
`growth`: 1,000, 10,000 and 50,000 of the demo's pictures, from a Parquet file to an index, in photos a second.
"""

import pipeline.models

# isort: split

import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import peers
import pyarrow as pa
import pyarrow.parquet as pq
from peers import Figure, say
from rich.console import Console

from pipeline import config, rollup
from pipeline import run as pipeline_run
from pipeline.archive import Archive
from pipeline.demo.scenes import draw
from pipeline.demo.stream import demo_stream
from pipeline.placement import Lane, Slot
from pipeline.progress import Progress
from pipeline.status import status
from pipeline.work import STEPS, Stage
from tests import small_archive

PARTS = ("status", "plan", "growth")
N = 100_000
LINKS = 50_000  # of one file: file systems have a limit
SIZES = (1000, 10_000, 50_000)  # pictures
ROUNDS = 3
ALIKE = 0.8  # the slowest size against the fastest
STATUS_S, PLAN_S, PLAN_BYTES = 10, 60, 1 << 30


def grow(folder: str, n: int) -> Archive:
    """An archive of n parts, an image in each, all annotated but the last tenth."""
    archive, _ = small_archive.make(folder, parts=1, rows=1)
    sizes = {"photos": n, "images": n, "embeddings/tiny": n - n // 10, "captions/tiny": n - n // 10}
    for name, parts in sizes.items():
        table = archive.table(name)
        receipt = rollup.shortened(rollup.receipts(archive, table)[0])
        receipt |= {"source": "flickr:somebody", "complete": True} if name == "photos" else {}
        original = Path(table.part_url(0))
        data = original.read_bytes()
        for part in range(1, parts):
            path = Path(table.part_url(part))
            if part % LINKS == 0:
                path.write_bytes(data)
                original = path
            else:
                os.link(original, path)
        rollup.keep(archive, ({**receipt, "table": name, "part": part} for part in range(parts)))
    return archive


def ask(part: str, url: str) -> dict[str, float]:
    """Seconds for one of PARTS, and by how much the most memory that this process took grew."""
    archive = Archive(url)
    before = memory()
    started = time.perf_counter()
    if part == "status":
        said = status(archive)
        assert said["tables"]["captions/tiny"]["pending"] == said["tables"]["images"]["parts"] // 10
    else:
        tables = ("embeddings/tiny", "captions/tiny")
        stages = [Stage("fetch", "photos", ("images",), print), Stage("annotate", "images", tables, print, device=True)]
        lanes = [Lane(stage, Slot) for stage in stages]
        for lane in lanes:
            lane.add(lane.stage.pending(archive))
        assert [bool(lane.ready) for lane in lanes] == [False, True]
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": memory() - before}


def growth(folder: Path, sizes: Sequence[int], rounds: int) -> dict[str, Figure]:
    """Photos a second of a whole run, at each size; the sizes take turns."""
    drawn = []
    for photo in demo_stream().photos[:200]:
        file = io.BytesIO()
        draw(photo.scene, 320, 240).save(file, "JPEG")
        drawn.append(file.getvalue())
    model = {"model": f"local-dir:{Path(pipeline.__file__).parent / 'demo/model'}"}
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    for n in [100] + list(sizes) * rounds:
        rows = folder / f"{n}.parquet"
        if not rows.exists():
            columns = {"id": [str(number) for number in range(n)], "image": [drawn[i % len(drawn)] for i in range(n)]}
            pq.write_table(pa.table(columns), rows, row_group_size=1000)
        given = {
            "archive": str(folder / "archive"),
            "sources": [{"kind": "parquet", "path": str(rows)}],
            "images": {"min_side": 72},
            "embeddings": {"demo": model},
            "run": {"runner": "local"},
        }
        started = time.perf_counter()
        summary = pipeline_run.run(config.parse(given), Progress(Console(quiet=True)), STEPS)
        seconds = time.perf_counter() - started
        assert summary.card and summary.card["rows"] == n
        shutil.rmtree(folder / "archive")
        if n in rates:  # else it warmed up
            rates[n].append(n / seconds)
            say(f"    {n:,}: {n / seconds:.1f} photos/s")
    medians = {n: statistics.median(found) for n, found in rates.items()}
    figures = {f"{n:,} pictures": Figure(rate, "photos/s") for n, rate in medians.items()}
    alike = min(medians.values()) / max(medians.values())
    return figures | {"slowest size against fastest": Figure(alike, "share", ALIKE)}


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def figures_of(part: str, n: int, said: dict[str, float]) -> dict[str, Figure]:
    allowed = {"status": STATUS_S, "plan": PLAN_S}[part]
    figures = {
        f"{part} of {n:,} parts": Figure(said["seconds"], "s"),
        f"{part} of {n:,} parts: quicker than {allowed} s": Figure(allowed / said["seconds"], "times", 1),
        f"{part} of {n:,} parts: memory": Figure(said["bytes"] / 1e6, "MB"),
    }
    if part == "plan":
        figures[f"plan of {n:,} parts: below 1 GB"] = Figure(PLAN_BYTES / max(said["bytes"], 1e6), "times", 1)
    return figures


def main() -> None:
    if sys.argv[1:2] == ["ask"]:
        print(json.dumps(ask(*sys.argv[2:])))
        return
    given = peers.arguments(__doc__, PARTS)
    n = 1000 if given.quick else N
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory(prefix="tintype-scale-") as folder:
        if "growth" in given.only:
            say("from a Parquet file to an index")
            figures |= growth(Path(folder), (200, 1000) if given.quick else SIZES, 1 if given.quick else ROUNDS)
            given.only.remove("growth")
        if given.only:
            grow(folder, n)
        for part in given.only:
            say(f"{part} of an archive of {n:,} parts")
            # In a process of its own, whose memory is that of the question alone.
            command = [sys.executable, __file__, "ask", part, folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures |= figures_of(part, n, json.loads(done.stdout))
    peers.report("scale", figures, given.json)


if __name__ == "__main__":
    main()
