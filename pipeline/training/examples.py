"""What a training learns from, whoever has it: the contract between data and loop."""

import hashlib
import random
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np


class Examples(Protocol):
    """Pictures, and the texts that are true of each.

    Attributes:
        ids: photo ids, one a row: validation is split by their hash; all captions of a photo share its row
        side: of the squares
        together: rows that come in the same batch: 1, but 2 where neighbours are twins
    """

    ids: Sequence[str]
    side: int
    together: int

    def claims(self, row: int) -> Collection[str]:
        """Every text that is true of it; equal strings of two rows mean that each text is true of both."""

    def draw(self, row: int, dice: random.Random) -> str:
        """The claim to train on this time."""

    def caption(self, row: int) -> str | None:
        """What a captioner is to write of it; None: nothing."""

    def pixels(self, rows: Sequence[int]) -> np.ndarray:
        """uint8[n, side, side, 3], as the model's own preprocessing fits them."""


def is_validation(photo_id: str, share: float) -> bool:
    """Whether a photo is of the share that is kept for validation, by the SHA-256 of its id: the same for ever.

    Photos that are added move no other. `evaluate --limit` takes photos in the order of these hashes, so that a limit
    of as many photos as validation has looks at no other.
    """
    return int.from_bytes(hashlib.sha256(photo_id.encode()).digest()[:8]) < share * 2**64
