"""Does `annotate` lose time to reading, decoding, writing or Ray? And clip-retrieval, on the same pictures?

    python benchmarks/annotate.py [--quick] [--only PART] [--json]

JPEG files of 640 pixels, drawn (pictures.py), are listed and fetched into an archive by our own stages; then it is
annotated again and again, with models of made-up weights. `coca` and `embedding` hold that against the same models
called on pixels in memory, `ray` against the same in this process, `clip-retrieval` against that program.
"""

import pipeline.models  # noqa: F401  before torch, whose OpenMP reads what it sets once

# isort: split

import json
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import networks
import numpy as np
import peers
import pictures
import torch
import yaml
from peers import DEVICE, Figure, say
from rich.console import Console

from pipeline import cluster, config, imaging, work
from pipeline import run as pipeline_run
from pipeline.archive import Archive
from pipeline.config import Settings
from pipeline.models.coca import Captioner
from pipeline.progress import Progress
from pipeline.stages import annotate
from pipeline.stages.pictures import prepare

PARTS = ("coca", "embedding", "ray", "clip-retrieval")
EMBEDDER = "ViT-B-32" if DEVICE == "cpu" else "ViT-L-14"
KEPT = 0.95 if DEVICE == "cpu" else 0.90  # of the models' own speed
INSIDE, WHOLE = 2.0, 1.5  # times clip-retrieval's speed


class Bench:
    """An archive of n pictures, and models that annotate it as often as they are told."""

    def __init__(self, folder: Path, n: int, part_size: int, model: str, captions: bool) -> None:
        checkpoint = {"model": model, "pretrained": str(networks.checkpoint(model, folder))}
        archive = folder / f"archive-{n}-{part_size}"
        self.given: dict[str, Any] = {
            "archive": str(archive),
            "sources": [{"kind": "folder", "path": str(pictures.folder(folder, n))}],
            "images": {"store": "original", "min_side": 224},
            "embeddings": {"bench": checkpoint},
            "captions": {"bench": checkpoint} if captions else {},
            "run": {"runner": "local", "part_size": part_size},
        }
        self.n = n
        self.settings: Settings = config.parse(self.given)
        with Progress(Console(stderr=True)) as progress:
            pipeline_run.run(self.settings, progress, ("list", "fetch"))
        self.archive = Archive.open(str(archive))
        self.found = pipeline_run.find_weights(self.settings)
        pipeline_run.store_weights(self.archive, self.found)
        self.tables = self.settings.derived()
        self.clear()
        [self.stage] = pipeline_run.stages_of(self.settings, self.archive, ("annotate",), self.found)
        self.desk = work.Desk(self.archive, self.settings.sources, part_size, None)
        self.receipts: list[dict[str, Any]] = []
        self.reported: list[float] = []

    def clear(self) -> None:
        """Forget what was annotated."""
        for kind in ("embeddings", "captions"):
            shutil.rmtree(Path(self.settings.archive) / kind, ignore_errors=True)

    def report(self, stage: str, said: Any) -> None:
        if isinstance(said, work.Failure):
            raise RuntimeError(said.traceback or said.error)
        self.receipts.append(said)
        self.reported.append(time.perf_counter())

    def again(self, runner: Any, stage: work.Stage) -> float:
        """Seconds that annotating takes."""
        for table in self.tables:
            for part in (Path(self.settings.archive) / table).glob("part-*"):
                part.unlink()
        self.receipts, self.reported = [], []
        started = time.perf_counter()
        runner(self.archive, self.desk, [stage], self.report, listing=False)
        return time.perf_counter() - started

    def loaded(self) -> annotate.Annotator:
        """The stage's worker with its models, which `fresh` keeps for every run."""
        do = self.stage.load(self.desk)
        assert isinstance(do, annotate.Annotator)
        do.close()  # its threads: each run has its own
        return do

    def fresh(self, annotator: annotate.Annotator) -> float:
        """Seconds that annotating takes in this process once the models are loaded."""
        do = annotate.Annotator(self.archive, annotator.outputs)
        return self.again(work.run, work.Stage("annotate", "images", tuple(self.tables), lambda _: do, device=True))

    def waited(self) -> float:
        """The share of the last run's time in which the device had nothing to do."""
        seconds = {(r["part"], phase): s for r in self.receipts for phase, s in r["seconds"].items()}
        spent = sum(s for (_, phase), s in seconds.items() if phase in ("waiting", "embedding", "captioning"))
        return sum(s for (_, phase), s in seconds.items() if phase == "waiting") / spent

    def files(self) -> list[bytes]:
        rows = [self.archive.table("images").read(part, ["image"]) for part in self.archive.table("images").parts()]
        return [image["bytes"] for table in rows for image in table["image"].to_pylist()]


def timed(run: Any) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def coca(given: Any) -> dict[str, Figure]:
    """Embedding and caption from stored JPEGs, against the same of pixels in memory."""
    name = "coca_ViT-B-32" if given.quick else "coca_ViT-L-14"
    size = (64, 32) if DEVICE == "cpu" else (4096, 1024)
    bench = Bench(given.work, *((8, 4) if given.quick else size), name, True)
    annotator = bench.loaded()
    model = annotator.outputs[0].model
    captioner = Captioner(model)
    pixels = np.stack([prepare(data, [model])[0][0] for data in bench.files()])

    def in_memory() -> None:
        for first in range(0, len(pixels), model.batch):
            batch = range(first, min(first + model.batch, len(pixels)))
            vectors, tokens = model.encode(pixels[batch.start : batch.stop])
            assert tokens is not None
            captioner.add(batch, tokens, vectors)
        captioner.finish()

    say(f"{name}, {model.precision}, embedding and caption of {bench.n} JPEGs, batch {model.batch}")
    sides = {"in memory": partial(timed, in_memory), "annotate": partial(bench.fresh, annotator)}
    seconds = peers.in_turns(sides, 1 if given.quick else 3)
    case = f"{name} embed + caption, {model.precision}"
    return {
        f"{case}: share of the speed in memory": Figure(seconds["in memory"] / seconds["annotate"], "share", KEPT),
        f"{case}: annotate": Figure(bench.n / seconds["annotate"], "images/s"),
        f"{case}: device waited": Figure(bench.waited(), "share"),
    }


def embedding(given: Any) -> dict[str, Figure]:
    """Embedding alone, against the model's time and that of decoding, which has all cores."""
    bench = Bench(given.work, *((64, 11) if given.quick else (1000, 167)), EMBEDDER, False)
    annotator = bench.loaded()
    model = annotator.outputs[0].model
    files = bench.files()
    pixels = np.stack([prepare(data, [model])[0][0] for data in files])

    def in_memory() -> None:
        for first in range(0, len(pixels), model.batch):
            model.encode(model.stage(pixels[first : first + model.batch]))

    def decoding() -> float:
        return sum(prepare(data, [model])[1] for data in files) / imaging.cpus()

    say(f"{EMBEDDER}, {model.precision}, embedding of {bench.n} JPEGs, batch {model.batch}")
    sides = {"in memory": partial(timed, in_memory), "decoding": decoding, "annotate": partial(bench.fresh, annotator)}
    seconds = peers.in_turns(sides, 1 if given.quick else 3)
    # On CPU both want the same cores; beside a GPU the slower of the two is the floor.
    least = (sum if DEVICE == "cpu" else max)((seconds["in memory"], seconds["decoding"]))
    case = f"{EMBEDDER}, {model.precision}"
    return {
        f"{case}: share of the speed of model and decoding": Figure(least / seconds["annotate"], "share", KEPT),
        f"{case}: annotate": Figure(bench.n / seconds["annotate"], "images/s"),
        f"{case}: in memory": Figure(bench.n / seconds["in memory"], "images/s"),
        f"{case}: decoding, a core": Figure(bench.n / seconds["decoding"] / imaging.cpus(), "images/s"),
        f"{case}: device waited": Figure(bench.waited(), "share"),
    }


def on_ray(given: Any) -> dict[str, Figure]:
    """On Ray against in this process: five parts, from the end of the first of six to that of the last."""
    bench = Bench(given.work, *((64, 11) if given.quick else (1000, 167)), EMBEDDER, False)
    annotator = bench.loaded()

    def steady() -> float:
        return bench.reported[-1] - bench.reported[0]

    def here() -> float:
        bench.fresh(annotator)
        return steady()

    def there() -> float:
        with cluster.connection():
            bench.again(cluster.run, bench.stage)
        return steady()

    say(f"{EMBEDDER}, embedding of five parts, here and on Ray")
    seconds = peers.in_turns({"here": here, "ray": there}, 1 if given.quick else 3)
    return {
        f"{EMBEDDER}: on Ray against in process": Figure(seconds["here"] / seconds["ray"], "share", KEPT),
        f"{EMBEDDER}: on Ray": Figure(bench.n * 5 / 6 / seconds["ray"], "images/s"),
    }


# --- clip-retrieval ---------------------------------------------------------------------------------------------------


def clip_retrieval(given: Any) -> dict[str, Figure]:
    """The same files and weights by `clip-retrieval inference` and by `tintype annotate`, each a process of its own.

    Inside the run: theirs is what its own statistics add up to, from asking for a batch to having it written, after the
    model was loaded and warmed up; ours is annotating in this process with the model loaded.
    """
    bench = Bench(given.work, *((64, 11) if given.quick else (1000, 167)), "ViT-B-32", False)
    annotator = bench.loaded()
    python = peers.environment(given.work, peers.CLIP_RETRIEVAL)
    conf, out = given.work / "annotate.yaml", given.work / "clip-retrieval"
    conf.write_text(yaml.safe_dump(bench.given))
    inside: list[float] = []
    command = [python.parent / "clip-retrieval", "inference", "--enable_text", "False", "--use_jit", "False"]
    command += ["--input_dataset", bench.given["sources"][0]["path"], "--output_folder", out]
    # Its default of 256 would only have it warm up for longer.
    command += ["--clip_model", f"open_clip:ViT-B-32/{bench.given['embeddings']['bench']['pretrained']}"]
    command += ["--batch_size", "64"]

    def theirs() -> float:
        shutil.rmtree(out, ignore_errors=True)
        seconds = timed(partial(subprocess.run, command, check=True, stdout=sys.stderr, env=offline()))
        inside.append(json.loads((out / "stats/0.json").read_text())["total_duration"])
        return seconds

    def ours() -> float:
        bench.clear()
        tintype = Path(sys.executable).with_name("tintype")
        return timed(partial(subprocess.run, [tintype, "annotate", conf], check=True, stdout=sys.stderr))

    def ours_inside() -> float:
        return bench.fresh(annotator)

    say(f"ViT-B-32, embedding of {bench.n} JPEGs, by clip-retrieval and by us")
    sides = {"clip-retrieval": theirs, "ours": ours, "ours inside": ours_inside}
    seconds = peers.in_turns(sides, 1 if given.quick else 2)
    their_inside = float(np.median(inside[1:]))
    cosines = (np.load(out / "img_emb/img_emb_0.npy").astype(np.float32) * vectors(bench)).sum(axis=1)
    return {
        "clip-retrieval: inside the run": Figure(their_inside / seconds["ours inside"], "times", INSIDE),
        "clip-retrieval: whole process": Figure(seconds["clip-retrieval"] / seconds["ours"], "times", WHOLE),
        "clip-retrieval: its own, inside": Figure(bench.n / their_inside, "images/s"),
        "clip-retrieval: ours, inside": Figure(bench.n / seconds["ours inside"], "images/s"),
        "clip-retrieval: its own, whole": Figure(seconds["clip-retrieval"], "s"),
        "clip-retrieval: ours, whole": Figure(seconds["ours"], "s"),
        "clip-retrieval: cosine of its vectors and ours, least": Figure(float(cosines.min()), ""),
    }


def vectors(bench: Bench) -> np.ndarray:
    """float32[n, dim] of all pictures, in the order of their names, as clip-retrieval has them."""
    table = bench.archive.table("embeddings/bench")
    rows = [row for part in table.parts() for row in table.read(part, ["photo_id", "embedding"]).to_pylist()]
    return np.array([row["embedding"] for row in sorted(rows, key=lambda row: row["photo_id"])], np.float32)


def offline() -> dict[str, str]:
    return peers.own_environment() | {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    given = peers.arguments(__doc__, PARTS)
    say(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {DEVICE}")
    parts = {"coca": coca, "embedding": embedding, "ray": on_ray, "clip-retrieval": clip_retrieval}
    figures: dict[str, Figure] = {}
    for part in given.only:
        figures |= parts[part](given)
    peers.report("annotate", figures, given.json)


if __name__ == "__main__":
    main()
