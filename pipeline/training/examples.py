"""Pictures, and what is true of each: what training learns from, wherever it comes from."""

import functools
import hashlib
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Examples(Protocol):
    """Pictures, and the texts that are true of each.

    Attributes:
        ids: photo ids, one a row
        side: pixels of the squares
        together: rows that come in the same batch: 1, or more where neighbours are alike but for what is to be learnt
    """

    ids: Sequence[str]
    side: int
    together: int

    def claims(self, row: int) -> Collection[str]:
        """Every text that is true of it. Texts of two rows that are equal are each true of both."""
        ...

    def draw(self, row: int, dice: random.Random) -> str:
        """The claim to train on this time."""
        ...

    def caption(self, row: int) -> str | None:
        """What a captioner is to write of it; None: nothing."""
        ...

    def pixels(self, rows: Sequence[int]) -> np.ndarray:
        """uint8[n, side, side, 3], as the model's own preprocessing fits them."""
        ...


@dataclass(frozen=True)
class Joined:
    """Examples of several sources, one after another, each with its templates.

    Attributes:
        known: of each source, whether the model that is trained knew it before; empty: nothing is said of that
    """

    sources: Sequence[tuple[Examples, Sequence[str]]]
    known: Sequence[bool] = ()

    @functools.cached_property
    def ids(self) -> list[str]:
        return [photo_id for source, _ in self.sources for photo_id in source.ids]

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """The first row of each source, and the end of the last: int64[sources + 1]."""
        return np.cumsum([0, *(len(source.ids) for source, _ in self.sources)])

    @property
    def side(self) -> int:
        return self.sources[0][0].side

    @property
    def together(self) -> int:
        """Neighbours come together where there is one source alone: others have not as many."""
        return self.sources[0][0].together if len(self.sources) == 1 else 1

    def _of(self, row: int) -> tuple[Examples, int, Sequence[str]]:
        place = int(np.searchsorted(self.starts, row, side="right")) - 1
        source, templates = self.sources[place]
        return source, row - int(self.starts[place]), templates

    def claims(self, row: int) -> Collection[str]:
        source, inside, _ = self._of(row)
        return source.claims(inside)

    def draw(self, row: int, dice: random.Random) -> str:
        source, inside, _ = self._of(row)
        return source.draw(inside, dice)

    def caption(self, row: int) -> str | None:
        source, inside, _ = self._of(row)
        return source.caption(inside)

    def templates(self, row: int) -> Sequence[str]:
        """Texts that a claim is put into, at `{}`, one by chance each time; none: it stands as it is."""
        return self._of(row)[2]

    def knew(self, row: int) -> bool:
        """Whether `loss.keep` holds what the model makes of it: where no source is marked, all are held."""
        return not any(self.known) or self.known[int(np.searchsorted(self.starts, row, side="right")) - 1]

    def pixels(self, rows: Sequence[int]) -> np.ndarray:
        found = np.empty((len(rows), self.side, self.side, 3), np.uint8)
        places = np.searchsorted(self.starts, rows, side="right") - 1
        for place in np.unique(places).tolist():
            here = np.flatnonzero(places == place)
            first = int(self.starts[place])
            found[here] = self.sources[place][0].pixels([rows[i] - first for i in here.tolist()])
        return found


def is_validation(photo_id: str, share: float) -> bool:
    """Whether a photo is kept from training, by a hash of its id: more photos never move it to the other side.

    `evaluate --limit` takes photos in the order of these hashes, so that a limit of as many photos as validation has
    looks at no other.
    """
    return _place(photo_id) < share


def split(ids: Sequence[str], share: float, most: int) -> tuple[list[int], list[int]]:
    """Rows to train on, and at most `most` rows to validate with, in the order of their hashes."""
    kept = [row for row, photo_id in enumerate(ids) if is_validation(photo_id, share)]
    away = set(kept)
    validating = sorted(kept, key=lambda row: (_place(ids[row]), row))[:most]
    return [row for row in range(len(ids)) if row not in away], validating


def _place(photo_id: str) -> float:
    return int.from_bytes(hashlib.sha256(photo_id.encode("utf-8", "surrogateescape")).digest()[:8], "big") / (1 << 64)
