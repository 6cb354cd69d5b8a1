"""Are captions quick, and are they open_clip's, token for token?

    python benchmarks/captions.py [--quick] [--only PART] [--json]

Compares with open_clip's own `generate`, in an environment that it makes, and with what it said for `golden.json`.
Times are from pixels in memory to token ids, on as many threads for the one as for the other. Weights are made up
(networks.py), such that captions differ and end at many lengths. The goals are for captions of 30 tokens, which have
most to do: they come of weights that never end one.
"""

import pipeline.models  # noqa: F401  before torch, whose OpenMP reads what it sets once

# isort: split

import time
from collections.abc import Callable, Hashable
from functools import lru_cache, partial
from typing import Any

import floor
import golden
import networks
import numpy as np
import peers
import torch
from peers import DEVICE, Figure, say

from pipeline.models import coca, generation, openclip
from pipeline.models.openclip import Model

PARTS = ("identity", "B-32", "B-32-ends", "L-14", "one-pass", "rates")
PICTURES = {"cpu": {"coca_ViT-B-32": 8, "coca_ViT-L-14": 4}, "cuda": {"coca_ViT-B-32": 64, "coca_ViT-L-14": 64}}[DEVICE]
GOALS = {
    "cpu": {("coca_ViT-B-32", "beam"): 60, ("coca_ViT-L-14", "beam"): 35, ("coca_ViT-B-32", "greedy"): 12},
    "cuda": {("coca_ViT-B-32", "beam"): 20, ("coca_ViT-L-14", "beam"): 20},
}[DEVICE]
IDENTICAL = 0.99  # share of captions; near-ties, as golden.py has them, are the only excuse of the others


def write(model: Model, kind: Any, pixels: np.ndarray, slots: int | None = None, batch: int | None = None) -> list:
    """Token ids of the caption of each picture, written `slots` at a time after batches of the image tower."""
    writer = coca.writer(model, kind) if slots else ready(model, kind)
    writer.slots = slots or writer.slots
    ended: list[tuple[Hashable, Any]] = []
    batch = batch or model.batch
    for first in range(0, len(pixels), batch):
        some = range(first, min(first + batch, len(pixels)))
        tokens = model.encode(pixels[some.start : some.stop])[1]
        assert tokens is not None
        ended += writer.add(some, tokens)
    ended += writer.finish()
    ids = {key: written.ids for key, written in ended}
    return [ids[key] for key in range(len(pixels))]


# Made once, as a worker does it when it loads the model.
ready = lru_cache(maxsize=1)(coca.writer)


def timed(work: Callable[[], object]) -> float:
    floor.wait()
    started = time.perf_counter()
    work()
    floor.wait()
    return time.perf_counter() - started


# --- identity ---------------------------------------------------------------------------------------------------------


def identity(given: Any) -> dict[str, Figure]:
    """The same tokens as open_clip: at any batch, in any order, one caption after the other or many in one batch."""
    figures: dict[str, Figure] = {}
    total, same = 0, 0.0
    for name, said in golden.read().items():
        model = golden.load(name, given.work)
        pixels = golden.pictures(name, model, 4 if given.quick else golden.PICTURES[name])
        found = golden.fingerprints(golden.source(name, given.work)[1], pixels)
        if not given.quick and any(found[key] != said[key] for key in found):
            say(f"{name}: this machine makes other weights or pictures than golden.json was made of: not compared")
            continue
        backwards = np.arange(len(pixels))[::-1]
        for kind in ("beam", "greedy"):
            written = {
                "all in one batch, continuous": write(model, kind, pixels),
                "batches of 3 backwards, continuous": write(model, kind, pixels[backwards], 4, 3)[::-1],
                "batches of 5, each to its end": [
                    ids for first in range(0, len(pixels), 5) for ids in write(model, kind, pixels[first : first + 5])
                ],
            }
            figures |= compare(f"{name} {kind}", said[kind], written)
            share, n = figures[f"{name} {kind}: same tokens"].value, len(pixels)
            total, same = total + n, same + share * n
    return figures | {"all: same tokens": Figure(same / total, "share", IDENTICAL)}


def compare(name: str, said: dict[str, Any], written: dict[str, list]) -> dict[str, Figure]:
    """The worst of the ways in which the captions were written."""
    same, excused = 1.0, 1.0
    for way, captions in written.items():
        differ = [i for i, ids in enumerate(captions) if ids != said["ids"][i]]
        firm = [i for i in differ if said["margins"][i] >= golden.NEAR_TIE]
        n = len(captions)
        say(f"    {name}, {way}: {n - len(differ)} of {n} the same, {len(differ) - len(firm)} near-ties, firm: {firm}")
        same, excused = min(same, 1 - len(differ) / n), min(excused, 1 - len(firm) / n)
    ended = [ids for ids in said["ids"] if len(ids) < generation.MAX_TOKENS]
    return {
        f"{name}: same tokens": Figure(same, "share"),
        f"{name}: same tokens or a near-tie": Figure(excused, "share", 1.0),
        f"{name}: shorter than {generation.MAX_TOKENS} tokens": Figure(len(ended) / len(said["ids"]), "share"),
        f"{name}: distinct": Figure(len({tuple(ids) for ids in said["ids"]}) / len(said["ids"]), "share"),
    }


# --- against open_clip ------------------------------------------------------------------------------------------------


def against(name: str, kinds: tuple[str, ...], ends: bool, given: Any) -> dict[str, Figure]:
    """The same pictures in one batch, by open_clip and by us, in turns. `ends`: with captions that end before 30."""
    path = networks.checkpoint(name, given.work, ends)
    model = openclip.load(name, str(path), precision="fp32")
    n = 2 if given.quick else PICTURES[name]
    pixels = networks.pictures(n, model.side)
    figures: dict[str, Figure] = {}
    with peers.Reference(given.work, name, path, pixels) as reference:
        for kind in kinds:
            say(f"{name}, {kind}, batch {n}, fp32, captions {'of many lengths' if ends else 'of 30 tokens'}")
            theirs = reference.generate(kind, 0, n)["ids"]
            ours = write(model, kind, pixels)
            seconds = peers.in_turns(
                {
                    "open_clip": lambda kind=kind: reference.generate(kind, 0, n)["seconds"],
                    "ours": partial(timed, partial(write, model, kind, pixels)),
                },
                1 if given.quick else 3,
            )
            goal = None if ends else GOALS.get((name, kind))
            case = f"{name} {kind}, batch {n}, {'many lengths' if ends else '30 tokens'}"
            figures |= {
                f"{case}: against open_clip": Figure(seconds["open_clip"] / seconds["ours"], "times", goal),
                f"{case}: ours": Figure(n / seconds["ours"], "captions/s"),
                f"{case}: open_clip": Figure(n / seconds["open_clip"], "captions/s"),
                f"{case}: same tokens": Figure(sum(map(list.__eq__, ours, theirs)) / n, "share"),
                f"{case}: length": Figure(float(np.mean([len(ids) for ids in ours])), "tokens"),
            }
    return figures


def one_pass(given: Any) -> dict[str, Figure]:
    """Embedding and caption from one pass of the image tower, against the two one after the other."""
    name = "coca_ViT-B-32" if given.quick else "coca_ViT-L-14"
    figures = {}
    for precision in precisions():
        model = golden.load(name, given.work, precision)
        captioner = coca.Captioner(model, "beam")
        pixels = networks.pictures(2 if given.quick else 2 * PICTURES[name], model.side)

        def apart(model=model, captioner=captioner, pixels=pixels) -> None:
            model.embed_images(pixels)
            captioner.caption(pixels)

        def together(model=model, captioner=captioner, pixels=pixels) -> None:
            vectors, tokens = model.encode(pixels)
            assert tokens is not None
            captioner.caption_tokens(tokens, vectors)

        say(f"{name}, {len(pixels)} pictures, {precision}, embedding and caption")
        sides = {"apart": partial(timed, apart), "one pass": partial(timed, together)}
        seconds = peers.in_turns(sides, 1 if given.quick else 5)
        goal = 1.25 if precision == "fp32" else None
        ratio = seconds["apart"] / seconds["one pass"]
        figures[f"{name} embed + caption, {precision}: one pass against two"] = Figure(ratio, "times", goal)
    return figures


# --- rates ------------------------------------------------------------------------------------------------------------


def precisions() -> list[str]:
    """fp32, and the other one if this machine's `auto` means another."""
    return sorted({"fp32", openclip.default_precision(DEVICE)}, reverse=True)


def rates(given: Any) -> dict[str, Figure]:
    """Captions a second of each kind in each precision, and what share of the floor that is."""
    figures: dict[str, Figure] = {}
    for name in ["coca_ViT-B-32"] if given.quick else list(PICTURES):
        pixels = networks.pictures(4 if given.quick else 8 * PICTURES[name])
        net = floor.stock(name, str(golden.source(name, given.work)[1]))
        picture = floor.of_picture(net)
        for precision in precisions():
            model = golden.load(name, given.work, precision)
            best = floor.rate(next(model.net.parameters()).dtype)
            say(f"{name}, {len(pixels)} pictures, {precision}")
            kinds = list(generation.RULES)
            sides = {kind: partial(timed, partial(write, model, kind, pixels)) for kind in kinds}
            for kind, seconds in peers.in_turns(sides, 1 if given.quick else 3).items():
                length = float(np.mean([len(ids) for ids in write(model, kind, pixels)]))
                least = (picture + floor.of_caption(net, length, generation.RULES[kind].beams)) / best
                figures |= {
                    f"{name} {kind}, {precision}: ours": Figure(len(pixels) / seconds, "captions/s"),
                    f"{name} {kind}, {precision}: length": Figure(length, "tokens"),
                    f"{name} {kind}, {precision}: share of the floor": Figure(least * len(pixels) / seconds, "share"),
                }
    return figures


def main() -> None:
    given = peers.arguments(__doc__, PARTS)
    say(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {DEVICE}")
    parts: dict[str, Callable[[], dict[str, Figure]]] = {
        "identity": lambda: identity(given),
        "B-32": lambda: against("coca_ViT-B-32", ("greedy", "beam"), False, given),
        "B-32-ends": lambda: against("coca_ViT-B-32", ("greedy", "beam"), True, given),
        "L-14": lambda: against("coca_ViT-L-14", ("beam",), False, given),
        "one-pass": lambda: one_pass(given),
        "rates": lambda: rates(given),
    }
    figures: dict[str, Figure] = {}
    for part in given.only:
        figures |= parts[part]()
    peers.report("captions", figures, given.json)


if __name__ == "__main__":
    main()
