"""Zero-shot labels: which of some classes a picture shows, told by texts that name them (arXiv 2103.00020, 3.1.4)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.models.openclip import Model
from pipeline.models.settings import LabelSettings

TEXTS = 1024  # embedded at a time
ROWS = 1 << 24  # probabilities of a block of pictures with all classes: 64 MB of them


class Label(NamedTuple):
    """A class that a picture may show."""

    label: str
    probability: float  # among all classes


class Labeller:
    """Labels pictures by their vectors in a loaded model's space.

    Attributes:
        classes: their names
        vectors: of the classes, unit vectors float32[classes, dim]
    """

    def __init__(self, model: Model, asked: LabelSettings) -> None:
        assert not isinstance(asked.classes, str), "config.parse reads the file of classes"
        self.model = model
        self.asked = asked
        self.classes = asked.classes
        self.vectors = class_vectors(model, asked.classes, asked.templates)

    def identity(self) -> dict:
        """What its labels depend on, ready for JSON."""
        return self.model.identity() | self.asked.identity()

    def label(self, vectors: np.ndarray) -> list[list[Label]]:
        """The `top` likeliest classes of each picture, best first, from its unit vector: float32[n, dim]."""
        block = max(1, ROWS // len(self.classes))
        blocks = (vectors[first : first + block] for first in range(0, len(vectors), block))
        return [labels for part in blocks for labels in self._best(self.probabilities(part))]

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Of each class for each picture, float32[n, classes], rows that add up to 1, from unit vectors [n, dim].

        The softmax over the classes of cosine × the model's own logit scale. A model trained with a sigmoid (SigLIP)
        adds a bias to all logits alike, which the softmax does away with.
        """
        logits = self.model.logit_scale * (vectors @ self.vectors.T)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return shares / shares.sum(axis=1, keepdims=True)

    def _best(self, shares: np.ndarray) -> list[list[Label]]:
        """The top classes of rows of probabilities; equals in the order of the classes."""
        top = min(self.asked.top, len(self.classes))
        # Sorting all of a thousand classes would take a sixth of a GPU's time.
        best = np.sort(np.argpartition(-shares, top - 1, axis=1)[:, :top], axis=1)
        order = np.argsort(-np.take_along_axis(shares, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        rows = zip(best.tolist(), np.take_along_axis(shares, best, axis=1).tolist(), strict=True)
        return [[Label(self.classes[i], share) for i, share in zip(*row, strict=True)] for row in rows]


def class_vectors(model: Model, classes: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """Unit vectors float32[classes, dim]: of each class the mean of the unit vectors of its texts, at unit length."""
    texts = [template.replace("{}", name) for name in classes for template in templates]
    blocks = [model.embed_texts(texts[first : first + TEXTS]) for first in range(0, len(texts), TEXTS)]
    means = np.concatenate(blocks).reshape(len(classes), len(templates), -1).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)
