"""How well a network under training finds pictures by their texts, and captions them: on photos kept from training."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.evaluation import recall
from pipeline.training.examples import Joined

AT_ONCE = 100  # pictures or texts


@torch.no_grad()
def judge(
    net: Any,
    examples: Joined,
    rows: Sequence[int],
    pixels: Callable[[Sequence[int]], Tensor],
    tokenize: Callable[[list[str]], Tensor],
    *,
    captions: int,
    decode: Callable[[list[int]], str],
) -> dict[str, float]:
    """Recall of pictures by their texts, and the share of captions that are true word for word.

    Args:
        rows: of the examples
        pixels: rows to float32[n, 3, side, side], normalised, on the network's device
        captions: of the first so many pictures, captions are written; a CoCa's alone
    """
    net.eval()
    device = next(net.parameters()).device
    coca = isinstance(net, open_clip.CoCa) and captions > 0
    images, tokens = [], []
    for first in range(0, len(rows), AT_ONCE):
        seen = net.visual(pixels(rows[first : first + AT_ONCE])) if coca else None
        given = seen[0] if seen else net.encode_image(pixels(rows[first : first + AT_ONCE]))
        images.append(functional.normalize(given.float(), dim=-1).cpu())
        if seen and first < captions:
            tokens.append(seen[1])
    texts, pairs = questions(examples, rows)
    words = [net.encode_text(part).float() for part in tokenize(texts).to(device).split(AT_ONCE)]
    vectors = torch.cat(images).numpy(), functional.normalize(torch.cat(words), dim=-1).cpu().numpy()
    ranks = recall.ranks(vectors[1], vectors[0], pairs, lambda items, *_: items)
    found = {"photos": len(rows), **{f"recall@{k}": float((ranks <= k).mean()) for k in (1, 5)}}
    if coca:
        found["captions right"] = _right(net, examples, rows, torch.cat(tokens)[:captions], tokenize, decode)
    return found


def questions(examples: Joined, rows: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """What photos are to be found by: of each its caption, else the first text that is true of it, in a template.

    Returns texts, each once, and which photos each is true of: (text, place in `rows`), int64[p, 2], by text. A text
    that is true of several may find any of them.
    """
    said: dict[str, str] = {}
    own = []
    for row in rows:
        written = examples.caption(row)
        own.append(written or min(examples.claims(row)))
        templates = () if written else examples.templates(row)
        said.setdefault(own[-1], templates[0].replace("{}", own[-1]) if templates else own[-1])
    numbers = {text: number for number, text in enumerate(said)}
    pairs = [
        (numbers[text], photo)
        for photo, (row, asked) in enumerate(zip(rows, own, strict=True))
        for text in {asked, *examples.claims(row)} & numbers.keys()
    ]
    return list(said.values()), np.array(sorted(pairs), np.int64)


def _right(
    net: Any,
    examples: Joined,
    rows: Sequence[int],
    image_tokens: Tensor,
    tokenize: Callable[[list[str]], Tensor],
    decode: Callable[[list[int]], str],
) -> float:
    """The share of captions, written token by token, that are what a person wrote, or another text that is true."""
    start, end = tokenize([""])[0, :2].tolist()
    written = [decode(ids) for part in image_tokens.split(AT_ONCE) for ids in greedy(net, part, start, end)]
    return float(
        np.mean([
            text == examples.caption(row) or text in examples.claims(row)
            for text, row in zip(written, rows, strict=False)
        ])
    )  # fmt: skip


@torch.no_grad()
def greedy(net: Any, image_tokens: Tensor, start: int, end: int) -> list[list[int]]:
    """The most probable next token, again and again, until the end mark: one list of ids per picture, marks left out.

    Args:
        image_tokens: float32 [pictures, queries, width], the second output of a CoCa's `visual`.
    """
    ids = torch.full((len(image_tokens), 1), start, device=image_tokens.device)
    while ids.shape[1] < net.context_length and not (ids == end).any(dim=1).all():
        _, embedded = net.text(ids)
        logits = net.text_decoder(image_tokens, embedded)
        ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
    return [row[1 : row.index(end)] if end in row else row[1:] for row in ids.tolist()]
