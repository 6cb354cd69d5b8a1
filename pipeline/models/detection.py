"""Zero-shot detection: where a picture shows what some words name, and how sure that is (arXiv 2205.06230)."""

from typing import NamedTuple

import numpy as np

from pipeline.models.owl import Owl, Seen
from pipeline.models.settings import MOST_OVERLAP, ObjectSettings


class Object(NamedTuple):
    """What a query names, where a picture seems to show it.

    The box's edges are shares of the width (x) and the height (y) of the picture that was looked at, from its left and
    top: 0 ≤ x0 < x1 ≤ 1, 0 ≤ y0 < y1 ≤ 1.
    """

    label: str  # the query
    score: float  # 0 to 1
    x0: float
    y0: float
    x1: float
    y1: float


class Detector:
    """Finds what some queries name, with a loaded model. The queries' vectors are made once."""

    def __init__(self, model: Owl, asked: ObjectSettings) -> None:
        """Raises UserError for a query that the model cannot read whole."""
        assert not isinstance(asked.queries, str), "config.load reads the file of queries"
        self.model = model
        self.asked = asked
        self.queries = asked.queries
        self.vectors = model.embed_texts([asked.template.replace("{}", query) for query in asked.queries])

    def identity(self) -> dict:
        """What its objects depend on, ready for JSON."""
        return self.model.identity() | self.asked.identity()

    def find(self, seen: Seen, sizes: np.ndarray) -> list[list[Object] | None]:
        """The objects in each of n pictures, those of the highest scores first; None where the model computed what is
        no number. `sizes`: width and height of the pictures that `Owl.preprocess` was given, int[n, 2].

        As the authors do it, each patch stands for the one query that suits it best. They leave neighbours that tell
        of the same object in; here `distinct` takes them out.
        """
        best, scores = self.model.scores(seen, self.vectors)
        boxes = seen.boxes.cpu().numpy()
        rows = zip(best, scores, boxes, sizes.tolist(), strict=True)
        return [self._objects(*row[:3], *row[3]) for row in rows]

    def _objects(
        self, best: np.ndarray, scores: np.ndarray, boxes: np.ndarray, width: int, height: int
    ) -> list[Object] | None:
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            return None
        x, y = self.model.extent(width, height)
        inside = (boxes / np.array([x, y, x, y], np.float32)).clip(0, 1)
        # In the padding there is nothing to see.
        real = ((inside[:, 2:] - inside[:, :2]) * np.array([x, y], np.float32) * self.model.side >= 1).all(axis=1)
        places = np.flatnonzero((scores >= self.asked.threshold) & real)
        places = places[np.argsort(-scores[places], kind="stable")]
        kept = places[distinct(inside[places], best[places])][: self.asked.top]
        return [Object(self.queries[best[p]], float(scores[p]), *inside[p].tolist()) for p in kept]


def distinct(boxes: np.ndarray, labels: np.ndarray, most: float = MOST_OVERLAP) -> np.ndarray:
    """Places of boxes that are none of a better one again: greedy non-maximum suppression within each label.

    `boxes`: left, top, right, bottom, float[n, 4], best first. `labels`: int[n]. A box goes whose intersection over
    union with a better one of its label is above `most`.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.arange(len(boxes))
    kept = []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        sides = np.minimum(boxes[first, 2:], boxes[left, 2:]) - np.maximum(boxes[first, :2], boxes[left, :2])
        shared = sides.clip(min=0).prod(axis=1)
        overlap = shared / (areas[first] + areas[left] - shared)
        left = left[(overlap <= most) | (labels[left] != labels[first])]
    return np.array(kept, np.int64)
