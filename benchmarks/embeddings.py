"""Are embeddings quick, against stock open_clip and against what the machine can do?

    python benchmarks/embeddings.py [--quick] [--only MODEL] [--json]

Ours are timed from pixels in memory, in the batches that the model takes by itself; open_clip's `encode_image` from
pictures that were normalised in advance, in fp32, in batches of 16 or of ours, whichever is quicker. The share of the
floor is what the tower's operations would take at the rate of a large matrix product of that precision, measured in the
same run, divided by the time it took.
"""

import pipeline.models  # noqa: F401  before torch, whose OpenMP reads what it sets once

# isort: split

import time
from functools import partial
from typing import Any

import floor
import networks
import numpy as np
import peers
import torch
from peers import DEVICE, Figure, say

from pipeline.models import openclip
from pipeline.models.openclip import Model

MODELS = ("ViT-B-32", "coca_ViT-L-14") if DEVICE == "cpu" else ("ViT-B-32", "ViT-L-14", "coca_ViT-L-14")
FP32, AUTO = 2.0, 4.0  # times open_clip's speed
COSINE = 0.999
UTILISATION = 0.5  # of the rate of matrix products, on a GPU


def ours(model: Model, pixels: np.ndarray) -> float:
    """Seconds a picture."""
    staged = model.stage(pixels)
    floor.wait()
    started = time.perf_counter()
    model.encode(staged)  # ends with the vectors on the host
    return (time.perf_counter() - started) / len(pixels)


def theirs(net: Any, images: torch.Tensor) -> float:
    floor.wait()
    started = time.perf_counter()
    with torch.inference_mode():
        net.encode_image(images, normalize=True).cpu()
    return (time.perf_counter() - started) / len(images)


def measure(name: str, given: Any) -> dict[str, Figure]:
    checkpoint = str(networks.checkpoint(name, given.work))
    net = floor.stock(name, checkpoint)
    auto = openclip.default_precision(DEVICE)
    models = {p: openclip.load(name, checkpoint, precision=p) for p in dict.fromkeys(("fp32", auto))}
    n = 2 if given.quick else max(model.batch for model in models.values())
    pixels = networks.pictures(n)
    images = networks.prepared(net, pixels).to(DEVICE)
    sixteen = images[:16]
    theirs(net, sixteen)
    size = min((16, n), key=lambda size: theirs(net, images[:size]))
    say(f"{name}: open_clip in batches of {size}, ours of {', '.join(f'{m.batch} ({p})' for p, m in models.items())}")
    sides = {"open_clip": partial(theirs, net, images[:size])}
    sides |= {p: partial(ours, model, pixels[: model.batch]) for p, model in models.items()}
    seconds = peers.in_turns(sides, 1 if given.quick else 5)
    figures = {f"{name} fp32: open_clip": Figure(1 / seconds["open_clip"], "images/s")}
    operations = floor.of_picture(net)
    with torch.inference_mode():
        expected = net.encode_image(sixteen, normalize=True).cpu().numpy()
    for precision, model in models.items():
        share = operations / floor.rate(openclip.DTYPES[precision]) / seconds[precision]
        cosines = (model.embed_images(pixels[: len(sixteen)]) * expected).sum(axis=1)
        goal = {auto: AUTO, "fp32": FP32}[precision] if DEVICE == "cpu" else None
        utilisation = UTILISATION if DEVICE == "cuda" and name == "ViT-L-14" and precision == auto else None
        figures |= {
            f"{name} {precision}: ours": Figure(1 / seconds[precision], "images/s"),
            f"{name} {precision}: against open_clip": Figure(seconds["open_clip"] / seconds[precision], "times", goal),
            f"{name} {precision}: cosine to open_clip, least": Figure(float(cosines.min()), "", COSINE),
            f"{name} {precision}: share of the floor": Figure(share, "share", utilisation),
        }
    return figures


def main() -> None:
    given = peers.arguments(__doc__, MODELS)
    say(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {DEVICE}")
    figures: dict[str, Figure] = {}
    for name in given.only:
        figures |= measure(name, given)
    for dtype in (torch.float32, torch.bfloat16):
        figures[f"matrix product, {str(dtype).removeprefix('torch.')}"] = Figure(floor.rate(dtype) / 1e9, "Gop/s")
    peers.report("embeddings", figures, given.json)


if __name__ == "__main__":
    main()
