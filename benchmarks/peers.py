"""What the benchmarks share: peers in environments of their own, times taken in turns, figures printed."""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1]))  # for the small archives and stages of tests/
# transformers 4.56.2 is the newest with which `generate` runs.
OPEN_CLIP = ("open_clip_torch==3.3.0", "transformers==4.56.2", "numpy")
CLIP_RETRIEVAL = ("clip-retrieval==2.45.0", "setuptools<81")
IMG2DATASET = ("img2dataset==1.47.0",)
AUTOFAISS = ("autofaiss==2.18.0", "pyarrow<20", "faiss-cpu<1.10", "numpy<2")
TORCH = ("torch", "torchvision", "pillow")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Figure:
    value: float
    unit: str
    goal: float | None = None  # to be reached or passed; None: there to explain the others


def arguments(doc: str | None, parts: Sequence[str]) -> argparse.Namespace:
    """The options of every script; `only` is the list of parts to run."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--quick", action="store_true", help="few pictures, one repetition: does it run at all?")
    parser.add_argument("--only", action="append", choices=parts, help="run this part; may be given again")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/tintype/bench", help="for what is made once")
    given = parser.parse_args()
    given.only = given.only or list(parts)
    return given


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def report(benchmark: str, figures: Mapping[str, Figure], as_json: bool) -> None:
    """A table, and the JSON object on the last line."""
    if not as_json:
        table = Table("figure", "value", "goal", "unit", box=None, pad_edge=False)
        for name, figure in figures.items():
            goal = "" if figure.goal is None else f"≥ {figure.goal:g}" + "  missed" * (figure.value < figure.goal)
            table.add_row(name, f"{figure.value:.4g}", goal, figure.unit)
        Console(width=140).print(table)
    shown = {
        name: {"value": float(f"{figure.value:.5g}"), "goal": figure.goal, "unit": figure.unit}
        for name, figure in figures.items()
    }
    holds = all(figure.goal is None or figure.value >= figure.goal for figure in figures.values())
    print(json.dumps({"benchmark": benchmark, "figures": shown, "holds": holds}, ensure_ascii=False))


def in_turns(sides: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, float]:
    """The median seconds of each side. They take turns, so that what slows the machine down for a while slows all."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, run in sides.items():
            took = run()
            if repetition:  # the first warms up
                seconds[name].append(took)
    medians = {name: statistics.median(took) for name, took in seconds.items()}
    say("    " + ", ".join(f"{name} {took:.3f} s" for name, took in medians.items()))
    return medians


def environment(work: Path, requirements: Sequence[str], alike: Sequence[str] = TORCH) -> Path:
    """The python of an environment with these packages, and those `alike` as we run with; made unless it is there."""
    versions = [f"{name}=={version(name)}" for name in alike]
    asked = sorted([*requirements, *versions])
    name = requirements[0].partition("=")[0]
    folder = work / f"{name}-{hashlib.sha256(' '.join(asked).encode()).hexdigest()[:8]}"
    python, ready = folder / "bin/python", folder / "ready"
    if not ready.exists():
        say(f"making an environment with {', '.join(asked)}")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        uv = shutil.which("uv")
        installer = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
        subprocess.run([*installer, "--quiet", *asked], check=True, stdout=sys.stderr)
        ready.touch()
    return python


def own_environment() -> dict[str, str]:
    """The variables that a program has that we compare with: without what we set for ourselves."""
    return {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}


def version(package: str) -> str:
    """Of an installed package, without what says for which accelerator it was built."""
    from importlib import metadata

    return metadata.version(package).partition("+")[0]


class Reference:
    """open_clip with `generate` in a process of its own, which keeps its model and waits while it is not asked."""

    def __init__(self, work: Path, model: str, checkpoint: Path, pixels: np.ndarray) -> None:
        python = environment(work, OPEN_CLIP)
        self.pixels = work / f"pixels-{hashlib.sha256(pixels.tobytes()).hexdigest()[:8]}.npy"
        np.save(self.pixels, pixels)
        script = Path(__file__).with_name("reference.py")
        self.process = subprocess.Popen(
            [python, script, model, checkpoint, str(torch.get_num_threads()), DEVICE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=own_environment(),
        )
        self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"the reference ended with status {self.process.wait()}")
        return json.loads(line)

    def generate(self, kind: str, first: int, n: int, margins: bool = False) -> dict[str, Any]:
        """What open_clip says of pictures first … first + n − 1: see reference.py."""
        assert self.process.stdin
        asked = {"pixels": str(self.pixels), "first": first, "n": n, "kind": kind, "margins": margins}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self.read()

    def __enter__(self) -> "Reference":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.pixels.unlink()
