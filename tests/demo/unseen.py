"""How well a demo model finds and names what is in scenes it has never seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from open_clip.coca_model import CoCa
from torch import Tensor
from torch.nn import functional

from pipeline.demo.scenes import COLOURS, NEVER_TRAINED, OBJECTS, Scene, caption, shows_colour, with_article
from pipeline.training.judge import greedy
from pipeline.training.pictures import flipped

Tokenize = Callable[[list[str]], Tensor]  # texts → token ids of the model's own vocabulary, [texts, context length]


@dataclass(frozen=True)
class Figures:
    """Shares between 0 and 1."""

    precision: float  # of the first 5 photos for `a <colour> <object>`, over trained pairs
    precision_never_trained: float  # the same over pairs that were never trained
    captions: float  # captions right in every word; of two things either may come first
    arithmetic: float  # image + (new colour − old colour) with a right photo among the first 5

    def __str__(self) -> str:
        return (
            f"precision@5 {self.precision:.3f}, never trained {self.precision_never_trained:.3f}, "
            f"captions {self.captions:.3f}, arithmetic {self.arithmetic:.3f}"
        )


@torch.no_grad()
def evaluate(
    model: CoCa,
    scenes: Sequence[Scene],
    pixels: Tensor,
    tokenize: Tokenize,
    decode: Callable[[list[int]], str],
    captions: int,
) -> Figures:
    """Take the scenes for an archive: search it, caption its first `captions` pictures, swap colours.

    Args:
        model: a CoCa in evaluation mode.
        scenes: what the pictures show.
        pixels: preprocessed pictures, float32 [scenes, 3, side, side].
        tokenize: texts to ids of the model's vocabulary; `""` gives the marks of a caption's start and end.
        decode: ids of that vocabulary to a text, without the marks of start and end.
        captions: how many to write.
    """
    encoded = [model.visual(part) for part in pixels.split(100)]
    images = functional.normalize(torch.cat([latent for latent, _ in encoded]), dim=-1)
    tokens = torch.cat([tokens for _, tokens in encoded])
    start, end = tokenize([""])[0, :2].tolist()
    written = [decode(ids) for part in tokens[:captions].split(100) for ids in greedy(model, part, start, end)]
    right = [text in (caption(scene), caption(flipped(scene))) for text, scene in zip(written, scenes, strict=False)]

    def text_vectors(texts: list[str]) -> np.ndarray:
        return model.encode_text(tokenize(texts)).numpy()

    found = _precision(scenes, images.numpy(), text_vectors)
    return Figures(
        float(np.mean([p for pair, p in found.items() if pair not in NEVER_TRAINED])),
        float(np.mean([p for pair, p in found.items() if pair in NEVER_TRAINED])),
        float(np.mean(right)),
        _arithmetic(scenes, images.numpy(), text_vectors),
    )


def _shown(scenes: Sequence[Scene]) -> dict[tuple[str, str], set[int]]:
    """Which scenes show which (colour, kind)."""
    shown: dict[tuple[str, str], set[int]] = {(colour, kind): set() for colour in COLOURS for kind in OBJECTS}
    for i, scene in enumerate(scenes):
        if shows_colour(scene.medium):
            for thing in scene.things:
                shown[thing.colour, thing.kind].add(i)
    return {pair: found for pair, found in shown.items() if found}


def _precision(
    scenes: Sequence[Scene], images: np.ndarray, text_vectors: Callable[[list[str]], np.ndarray]
) -> dict[tuple[str, str], float]:
    """Of the first 5 photos for each pair (or as many as there are), the share that shows it."""
    shown = _shown(scenes)
    scores = text_vectors([with_article(f"{colour} {kind}") for colour, kind in shown]) @ images.T
    precision = {}
    for (pair, right), row in zip(shown.items(), scores, strict=True):
        first = np.argsort(-row)[: min(5, len(right))]
        precision[pair] = len(right.intersection(first.tolist())) / len(first)
    return precision


def _arithmetic(
    scenes: Sequence[Scene], images: np.ndarray, text_vectors: Callable[[list[str]], np.ndarray], scale: float = 1.0
) -> float:
    """Of all pictures with one thing in colour and all other colours it is shown in: how often the swap finds one."""
    words = dict(zip(COLOURS, text_vectors(list(COLOURS)), strict=True))
    shown = _shown(scenes)
    hits = []
    for i, scene in enumerate(scenes):
        if len(scene.things) != 1 or not shows_colour(scene.medium):
            continue
        (thing,) = scene.things
        for new in COLOURS:
            right = shown.get((new, thing.kind), set()) - {i}
            if new == thing.colour or not right:
                continue
            scores = images @ (images[i] + scale * (words[new] - words[thing.colour]))
            scores[i] = -np.inf
            hits.append(bool(right.intersection(np.argsort(-scores)[:5].tolist())))
    return float(np.mean(hits))
