"""What open_clip says of many pictures, token for token, for `captions.py` to hold our decoder against.

    python benchmarks/golden.py [--only MODEL]   # asks open_clip for half an hour or so, and writes golden.json

Pictures are asked one at a time, and with each caption goes its margin (see reference.py): sums in fp32 differ by some
4e-6 with the batch's shape, so that where two candidates lie within NEAR_TIE of each other either may win.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import networks
import numpy as np
import peers
from PIL import Image

from pipeline.demo.scenes import draw, proportions
from pipeline.demo.stream import demo_stream
from pipeline.models import openclip
from pipeline.models.openclip import Model

GOLDEN = Path(__file__).with_name("golden.json")
DEMO = Path(openclip.__file__).parents[1] / "demo/model"
PICTURES = {"coca_ViT-B-32": 64, "coca_ViT-L-14": 8, "demo": 720}
NEAR_TIE = 1e-4


def source(name: str, work: Path) -> tuple[str, Path]:
    """open_clip's name of the model, and its checkpoint."""
    if name == "demo":
        return f"local-dir:{DEMO}", DEMO / "open_clip_model.safetensors"
    return name, networks.checkpoint(name, work)


def load(name: str, work: Path, precision: str = "fp32") -> Model:
    model, path = source(name, work)
    return openclip.load(model, None if name == "demo" else str(path), precision=precision)


def pictures(name: str, model: Model, n: int) -> np.ndarray:
    """uint8[n, side, side, 3]; for the demo model the scenes of its archive."""
    if name != "demo":
        return networks.pictures(n, model.side)
    return np.stack([model.preprocess(scene_picture(photo.scene)) for photo in demo_stream().photos[:n]])


def scene_picture(scene) -> Image.Image:
    across, down = proportions(scene)
    return draw(scene, round(240 * across / max(across, down)), round(240 * down / max(across, down)))


def fingerprints(path: Path, pixels: np.ndarray) -> dict[str, str]:
    """Of the weights' bits and of the pictures."""
    return {"weights": networks.fingerprint(path), "pictures": hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}


def read() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())


def make(name: str, work: Path) -> None:
    """Ask open_clip and put its answers into golden.json."""
    model, path = source(name, work)
    pixels = pictures(name, load(name, work), PICTURES[name])
    said: dict = fingerprints(path, pixels)
    with peers.Reference(work, model, path, pixels) as reference:
        for kind in ("greedy", "beam"):
            said[kind] = {"ids": [], "margins": []}
            for first in range(len(pixels)):
                answer = reference.generate(kind, first, 1, margins=True)
                said[kind]["ids"] += answer["ids"]
                said[kind]["margins"] += [float(f"{margin:.2g}") for margin in answer["margins"]]
                print(name, kind, first, len(answer["ids"][0]), answer["margins"][0], file=sys.stderr)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    golden[name] = said
    GOLDEN.write_text(json.dumps(golden, separators=(",", ":")).replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    given = peers.arguments(__doc__, list(PICTURES))
    for name in given.only:
        make(name, given.work)
