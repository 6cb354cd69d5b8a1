"""The model of an index, the half of it that is needed: words need the text tower, dropped pictures the other."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from PIL import Image

from pipeline.builds import Build
from pipeline.photo import UserError
from pipeline.search import Embedder, model_of

TEXTS = 2000  # whose vectors are remembered: who moves the slider asks for the same words again


class Unready(Exception):
    """What a server stands on is missing or damaged: no fault of whoever asks."""


class Towers:
    """The two towers of one model, each loaded when first asked for, and kept: search.Embedder.

    Whatever needs one raises Unready where it cannot be loaded.
    """

    def __init__(self, build: Build) -> None:
        self._build = build
        self._loaded: dict[str, Embedder] = {}
        self._locks = {"text": threading.Lock(), "image": threading.Lock()}
        self._texts: OrderedDict[str, np.ndarray] = OrderedDict()

    def warm(self) -> None:
        """Load the text tower, and have it compute once: what is set up then is set up."""
        self._tower("text").embed_texts(["a photograph"])

    @property
    def side(self) -> int:
        return self._tower("image").side

    def identity(self) -> dict[str, Any]:
        return self._tower("text").identity()

    def preprocess(self, image: Image.Image) -> np.ndarray:
        return self._tower("image").preprocess(image)

    def embed_images(self, batch: np.ndarray) -> np.ndarray:
        return self._tower("image").embed_images(batch)

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Called by one thread at a time."""
        new = [text for text in texts if text not in self._texts]
        if new:
            self._texts |= zip(new, self._tower("text").embed_texts(new), strict=True)
        found = np.stack([self._texts[text] for text in texts])
        for text in texts:
            self._texts.move_to_end(text)
        while len(self._texts) > TEXTS:
            self._texts.popitem(last=False)
        return found

    def _tower(self, name: Literal["text", "image"]) -> Embedder:
        with self._locks[name]:
            if name not in self._loaded:
                try:
                    self._loaded[name] = model_of(self._build, _loader(name))
                except UserError as error:
                    raise Unready(str(error)) from error
            return self._loaded[name]


def _loader(tower: Literal["text", "image"]) -> Callable[[Build], Embedder]:
    def load(build: Build) -> Embedder:
        from pipeline.models import store  # torch takes seconds to load; the server answers meanwhile

        made = build.card["identity"]
        archive = build.archive.url
        return store.load(archive, made["model"], made["pretrained"], made["checkpoint_sha256"], tower=tower)

    return load
