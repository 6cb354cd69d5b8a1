"""How well models of the demo's kind find and name what they have never seen.

    python benchmarks/demo_model.py [FOLDER ...] [--json]

Each folder holds an OpenCLIP model; by itself, the demo's own. They are asked on the same 4,200 unseen scenes, 700 at a
time, of which the mean is told, and on the demo's 720 photos. How they find photos by titles is told by
`tintype evaluate archives/demo --of one --of other`.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from rich.console import Console
from rich.table import Table

from pipeline.demo.scenes import Scene
from pipeline.demo.stream import demo_stream
from pipeline.training import pictures
from tests.demo.unseen import evaluate

MODEL = Path(__file__).parents[1] / "pipeline" / "demo" / "model"
SETS, SIZE = 6, 700


def measure(folder: Path, sets: list[list[Scene]], drawn: list[np.ndarray]) -> dict[str, float]:
    """The mean of each figure over these sets of scenes and their pictures, uint8[scenes, side, side, 3]."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer: Any = open_clip.get_tokenizer(f"local-dir:{folder}")
    mean, std = (torch.tensor(model.visual.preprocess_cfg[name]) for name in ("mean", "std"))
    found = []
    for scenes, shown in zip(sets, drawn, strict=True):
        pixels = ((torch.from_numpy(shown) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
        decode = lambda ids: tokenizer.decode(ids).strip()  # noqa: E731
        found.append(asdict(evaluate(model.eval(), scenes, pixels, tokenizer, decode, len(scenes))))
    return {name: float(np.mean([figures[name] for figures in found])) for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[MODEL], metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    given = parser.parse_args()
    unseen = pictures.unseen_scenes(SETS * SIZE)
    photos = [photo.scene for photo in demo_stream().photos]
    worlds = {
        f"{len(unseen):,} unseen scenes": [unseen[first : first + SIZE] for first in range(0, len(unseen), SIZE)],
        f"the demo's {len(photos)} photos": [photos],
    }
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for world, sets in worlds.items():
        drawn = [pictures.render(scenes, 72) for scenes in sets]
        figures[world] = {str(folder): measure(folder, sets, drawn) for folder in given.folders}
    if not given.json:
        for world, models in figures.items():
            table = Table("", *models, title=world)
            for name in next(iter(models.values())):
                table.add_row(name, *(f"{found[name]:.3f}" for found in models.values()))
            Console().print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
