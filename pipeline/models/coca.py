"""Captions by any OpenCLIP CoCa: greedy, and the beam search that open_clip's `generate` runs by default.

It says, token for token, what open_clip 3.3.0 says, without its dependence on transformers. The oddities below are that
search's own; `tests/models/make_golden.py` recorded what it answers.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from pipeline.models import settings
from pipeline.models.openclip import Model
from pipeline.photo import UserError

MIN_TOKENS = 5  # the start token counts
MAX_TOKENS = 30
# open_clip searches with 6 beams in 3 groups, but without a diversity penalty the groups are identical: one will do.
BEAMS = 2
GENERATION = {
    "greedy": {"kind": "greedy", "min_tokens": MIN_TOKENS, "max_tokens": MAX_TOKENS},
    "beam": {"kind": "beam", "beams": 6, "groups": 3, "min_tokens": MIN_TOKENS, "max_tokens": MAX_TOKENS},
}


@dataclass(frozen=True, slots=True)
class Caption:
    """What the model says of one picture."""

    text: str
    logprob: float  # mean natural log-probability of a generated token, the end token included
    cosine: float | None  # of the text with the picture in the model's own space; None where that space is chance


class Captioner:
    """Writes captions with a loaded CoCa. UserError if the model is none."""

    def __init__(self, model: Model, generation: Literal["beam", "greedy"] = "beam") -> None:
        name = model.identity()["model"]
        if not model.is_coca or not hasattr(model.tokenizer, "sot_token_id"):
            raise UserError(f"{name} cannot write captions: name a CoCa, such as coca_ViT-L-14")
        if model.net.text.context_length < MAX_TOKENS:
            raise UserError(f"{name} has room for fewer than the {MAX_TOKENS} tokens of a caption")
        self.model = model
        self.generation = generation

    def identity(self) -> dict:
        """What its captions depend on, ready for JSON."""
        return self.model.identity() | {"prompt": None, "generation": GENERATION[self.generation]}

    def caption(self, pixels: np.ndarray) -> list[Caption]:
        """One caption a picture of float32[n, 3, H, W], n ≥ 1."""
        vectors, tokens = self.model.encode(pixels)
        assert tokens is not None
        return self.caption_tokens(tokens, vectors)

    def caption_tokens(self, image_tokens: torch.Tensor, vectors: np.ndarray) -> list[Caption]:
        """The same from what `Model.encode` gave, so that embedding and caption share one pass of the image tower."""
        written = self.model.run(lambda rows: self._write(image_tokens[rows]), len(image_tokens))
        texts, logprobs = zip(*(pair for part in written for pair in part), strict=True)
        cosines: list[float | None] = [None] * len(texts)
        identity = self.model.identity()
        if settings.has_embedding(identity["model"], identity["pretrained"]):
            cosines = (self.model.embed_texts(list(texts)) * vectors).sum(axis=1).tolist()
        return [Caption(*row) for row in zip(texts, logprobs, cosines, strict=True)]

    def _write(self, image_tokens: torch.Tensor) -> list[tuple[str, float]]:
        tokenizer = self.model.tokenizer
        start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
        search = beam if self.generation == "beam" else greedy
        captions = search(self.model.net, image_tokens, start, end)
        # Token 0 is a word ("!") to the beam search and an end to greedy, as in open_clip.
        marks = {start, end} if self.generation == "beam" else {start, end, 0}
        texts = [clean(tokenizer.decode([t for t in ids if t not in marks])) for ids in captions]
        return list(zip(texts, logprobs(self.model.net, image_tokens, captions), strict=True))


def clean(text: str) -> str:
    """A caption without spaces around it and without the full stop that CoCa sets apart (" ."); case and words stay."""
    return text.strip().removesuffix(" .")


class Rows:
    """Captions being written, a row each, all of one length; several rows may be of one picture.

    Attributes:
        ids: int64[rows, length], the start token first
        images: int64[rows], which picture each row is of
    """

    def __init__(self, net: Any, image_tokens: torch.Tensor, images: torch.Tensor, start: int) -> None:
        self.net = net
        self.image_tokens = image_tokens
        self.images = images
        self.ids = torch.full((len(images), 1), start, device=images.device)

    def logits(self) -> torch.Tensor:
        """float32[rows, vocabulary]: raw scores of the next token."""
        states = _states(self.net, self.image_tokens[self.images], self.ids)
        return (states[:, -1] @ self.net.text_decoder.text_projection).float()

    def extend(self, parents: torch.Tensor, tokens: torch.Tensor) -> None:
        """Row i becomes row parents[i] with tokens[i] appended; rows that are nobody's parent go."""
        self.ids = torch.cat([self.ids[parents], tokens[:, None]], dim=1)
        self.images = self.images[parents]


def _states(net: Any, image_tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The decoder's output at every position, before the projection onto the vocabulary: [rows, length, width]."""
    _, x = net.text(ids)
    decoder = net.text_decoder
    mask = decoder.attn_mask[: ids.shape[1], : ids.shape[1]]
    for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
        x = cross(block(x, attn_mask=mask), k_x=image_tokens, v_x=image_tokens)
    return decoder.ln_final(x)


def greedy(net: Any, image_tokens: torch.Tensor, start: int, end: int) -> list[list[int]]:
    """The likeliest token each time: for each of image_tokens [n, tokens, width] the ids, start token to last.

    As in open_clip the last place is always an end token, and token 0, its padding, ends even a caption too short.
    """
    rows = Rows(net, image_tokens, torch.arange(len(image_tokens), device=image_tokens.device), start)
    written: dict[int, list[int]] = {}
    while len(rows.ids):
        length = rows.ids.shape[1]
        if length + 1 == MAX_TOKENS:
            tokens = torch.full_like(rows.images, end)
        else:
            logits = rows.logits()
            if length < MIN_TOKENS:
                logits[:, end] = -torch.inf
            tokens = logits.argmax(dim=-1)
        stopped = (tokens == end) | (tokens == 0)
        ended = torch.cat([rows.ids, tokens[:, None]], dim=1)[stopped].tolist()
        written.update(zip(rows.images[stopped].tolist(), ended, strict=True))
        going = (~stopped).nonzero()[:, 0]
        rows.extend(going, tokens[going])
    return [written[image] for image in range(len(image_tokens))]


class Finished:
    """The best finished captions of one picture: at most BEAMS, by score."""

    def __init__(self) -> None:
        self.captions: list[tuple[float, list[int]]] = []

    @property
    def worst(self) -> float:
        return min(score for score, _ in self.captions)

    def add(self, score: float, ids: list[int]) -> None:
        if len(self.captions) < BEAMS or score > self.worst:
            self.captions.append((score, ids))
        if len(self.captions) > BEAMS:
            self.captions.remove(min(self.captions, key=lambda caption: caption[0]))

    def is_done(self, attainable: float) -> bool:
        return len(self.captions) == BEAMS and self.worst >= attainable

    def best(self) -> list[int]:
        return max(reversed(self.captions), key=lambda caption: caption[0])[1]  # of equals the last


def beam(net: Any, image_tokens: torch.Tensor, start: int, end: int) -> list[list[int]]:
    """open_clip's default search: for each of image_tokens [n, tokens, width] the ids, start token to last.

    Its scores add up raw logits, not log-probabilities. A finished caption's score is divided by its length with the
    end token, an open one's by its length. One that is cut off at MAX_TOKENS has no end token.
    """
    images = torch.arange(len(image_tokens), device=image_tokens.device)
    rows = Rows(net, image_tokens, images.repeat_interleave(BEAMS), start)
    # All but the first beam start far behind: else all would choose the same tokens.
    scores = torch.tensor([0.0, -1e9], device=image_tokens.device).repeat(len(image_tokens))
    finished = [Finished() for _ in range(len(image_tokens))]
    while len(rows.ids):
        length = rows.ids.shape[1] + 1  # with the token that is being chosen
        logits = rows.logits()
        if length <= MIN_TOKENS:
            logits[:, end] = -torch.inf
        vocabulary = logits.shape[1]
        totals = (logits + scores[:, None]).view(-1, BEAMS * vocabulary)
        best = totals.topk(2 * BEAMS)
        kept: list[tuple[int, int, float]] = []  # parent row, token, score
        candidates = zip(rows.images[::BEAMS].tolist(), best.values.tolist(), best.indices.tolist(), strict=True)
        for group, (image, values, places) in enumerate(candidates):
            going: list[tuple[int, int, float]] = []
            for rank, (value, place) in enumerate(zip(values, places, strict=True)):
                parent, token = group * BEAMS + place // vocabulary, place % vocabulary
                if token != end:
                    going.append((parent, token, value))
                elif rank < BEAMS:
                    finished[image].add(value / length, [*rows.ids[parent].tolist(), end])
                if len(going) == BEAMS:
                    break
            if finished[image].is_done(values[0] / length):
                continue
            if length == MAX_TOKENS:
                for parent, token, value in going:
                    finished[image].add(value / length, [*rows.ids[parent].tolist(), token])
                continue
            kept += going
        rows.extend(*(torch.tensor([k[i] for k in kept], device=images.device, dtype=torch.long) for i in (0, 1)))
        scores = torch.tensor([score for _, _, score in kept], device=images.device)
    return [captions.best() for captions in finished]


def logprobs(net: Any, image_tokens: torch.Tensor, captions: list[list[int]]) -> list[float]:
    """Mean natural log-probability of the tokens after the start token, the end token included; one pass over all."""
    lengths = torch.tensor([len(ids) for ids in captions], device=image_tokens.device)
    # Padding comes last, and under a causal mask nothing before it can see it.
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in captions], batch_first=True).to(lengths.device)
    states = _states(net, image_tokens, ids[:, :-1])
    total = torch.zeros(len(captions), device=lengths.device)
    for place in range(states.shape[1]):  # place by place: all at once would be captions × 30 × 49,408 floats
        logits = (states[:, place] @ net.text_decoder.text_projection).float()
        token = ids[:, place + 1]
        logprob = logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(dim=1)
        total += torch.where(place + 1 < lengths, logprob, 0.0)
    return (total / (lengths - 1)).tolist()
