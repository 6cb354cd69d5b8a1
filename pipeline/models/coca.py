"""Captions by any OpenCLIP CoCa, token for token what open_clip 3.3.0 says, without its dependence on transformers."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pipeline.models import generation, settings
from pipeline.models.decoder import Decoder
from pipeline.models.generation import MAX_TOKENS
from pipeline.models.openclip import Model
from pipeline.models.settings import Generation
from pipeline.models.writer import Writer, Written
from pipeline.photo import UserError

# Captions being written at a time, over all beams. On CPU more of them cost as much more time; a GPU has room to spare.
ROWS = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True, slots=True)
class Caption:
    """What the model says of one picture."""

    text: str
    logprob: float  # mean natural log-probability of a token the model chose, the end token included
    cosine: float | None  # of the text with the picture in the model's own space; None where that space is chance


class Captioner:
    """Writes captions with a loaded CoCa; not for several threads at once. UserError if the model is none."""

    def __init__(self, model: Model, kind: Generation = "beam") -> None:
        name = model.identity()["model"]
        if not model.is_coca or not hasattr(model.tokenizer, "sot_token_id"):
            raise UserError(f"{name} cannot write captions: name a CoCa, such as coca_ViT-L-14")
        if model.net.text.context_length < MAX_TOKENS:
            raise UserError(f"{name} has room for fewer than the {MAX_TOKENS} tokens of a caption")
        self.model = model
        self.kind = kind
        self.writer = writer(model, kind)
        self._vectors: dict[Hashable, np.ndarray] = {}  # of the pictures whose captions are being written

    def identity(self) -> dict:
        """What its captions depend on, ready for JSON."""
        return self.model.identity() | {"prompt": None, "generation": generation.IDENTITY[self.kind]}

    def caption(self, pixels: np.ndarray) -> list[Caption]:
        """One caption a picture of uint8[n, H, W, 3], n ≥ 1."""
        vectors, tokens = self.model.encode(pixels)
        assert tokens is not None
        return self.caption_tokens(tokens, vectors)

    def caption_tokens(self, image_tokens: torch.Tensor, vectors: np.ndarray) -> list[Caption]:
        """The same from what `Model.encode` gave, so that embedding and caption share one pass of the image tower."""
        keys = range(len(image_tokens))
        made = dict(self.add(keys, image_tokens, vectors) + self.finish())
        return [made[key] for key in keys]

    def add(
        self, keys: Sequence[Hashable], image_tokens: torch.Tensor, vectors: np.ndarray
    ) -> list[tuple[Hashable, Caption]]:
        """Take pictures in, and write until each has a place in the running batch.

        Returns the captions that ended meanwhile, of these or of earlier pictures, in any order. After an exception
        all that was being written is gone.
        """
        self._vectors |= zip(keys, vectors, strict=True)
        return self._captions(partial(self.writer.add, keys, image_tokens))

    def finish(self) -> list[tuple[Hashable, Caption]]:
        """Write all captions under way to their ends."""
        return self._captions(self.writer.finish)

    def _captions(self, write: Callable[[], list[tuple[Hashable, Written]]]) -> list[tuple[Hashable, Caption]]:
        try:
            ended = write()
            return self._finished(ended) if ended else []
        except BaseException:
            self._vectors.clear()
            self.writer.drop()
            raise

    def _finished(self, ended: list[tuple[Hashable, Written]]) -> list[tuple[Hashable, Caption]]:
        tokenizer = self.model.tokenizer
        marks = {tokenizer.sot_token_id, tokenizer.eot_token_id}
        if self.kind == "greedy":
            marks.add(0)  # an end to greedy; to the beam searches a word ("!"), as in open_clip
        texts = [clean(tokenizer.decode([t for t in written.ids if t not in marks])) for _, written in ended]
        vectors = np.stack([self._vectors.pop(key) for key, _ in ended])
        cosines: list[float | None] = [None] * len(texts)
        identity = self.model.identity()
        if settings.has_embedding(identity["model"], identity["pretrained"]):
            cosines = (self.model.embed_texts(texts) * vectors).sum(axis=1).tolist()
        rows = zip(ended, texts, cosines, strict=True)
        return [(key, Caption(text, written.logprob, cosine)) for (key, written), text, cosine in rows]


def writer(model: Model, kind: Generation) -> Writer:
    """What writes token ids with a loaded CoCa; its slots fit the device."""
    rule = generation.RULES[kind]
    decoder = Decoder(model.net, model.identity()["model"])
    start, end = model.tokenizer.sot_token_id, model.tokenizer.eot_token_id
    slots = max(1, ROWS.get(model.device, ROWS["cpu"]) // rule.beams)
    return Writer(decoder, rule, start, end, slots, model.exclusive)


def clean(text: str) -> str:
    """A caption without spaces around it and without the full stop that CoCa sets apart (" ."); case and words stay."""
    return text.strip().removesuffix(" .")
