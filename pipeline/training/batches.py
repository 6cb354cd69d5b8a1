"""Which pictures and texts each step sees: a function of the seed and the step, so that however many workers there are
and however often they are killed, a step is the same. No pixels here.
"""

import functools
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.training.examples import Joined

DRAWS = 4  # for each further text of a step, at most: many come again where few are true of many pictures


@dataclass(frozen=True)
class Batch:
    """One step, over all workers.

    Attributes:
        rows: of the examples, b of them
        texts: t of them, each once, templates applied
        own: int64[b], which text was drawn for each picture
        true: bool[b, t], which texts are true of which pictures
        confusable: bool[b, t], which are false though all their words are in true ones
        captions: what is to be written of each picture; "" for nothing
        knew: of pictures bool[b] and of texts bool[t], whether `loss.keep` holds what the model makes of them
    """

    rows: list[int]
    texts: list[str]
    own: np.ndarray
    true: np.ndarray
    confusable: np.ndarray
    captions: list[str]
    knew: tuple[np.ndarray, np.ndarray]


def groups(rows: Sequence[int], together: int) -> np.ndarray:
    """Rows that come together, int64[groups, together], of those that may be trained on; incomplete ones left out."""
    first = np.array(sorted({row - row % together for row in rows}), np.int64)
    found = first[:, None] + np.arange(together)
    return found[np.isin(found, np.asarray(rows)).all(axis=1)]


def plan(
    examples: Joined, among: np.ndarray, step: int, *, size: int, texts: int, seed: int, absent: bool = False
) -> Batch:
    """What step `step`, counted from 0, is about.

    Args:
        among: the rows that may be trained on, as `groups` puts them together
        size: pictures; where there are fewer rows, some come more than once
        texts: at most; each picture draws one, and then others are drawn for pictures taken by chance, until there are
            so many or hardly any new ones come
        absent: take those from all pictures there are, so that most texts are true of none of the step
    """
    chosen = _rows(among, step, size, seed)
    dice = random.Random(f"{seed} texts {step}")
    true_of = {row: frozenset(examples.claims(row)) for row in chosen}
    columns: dict[str, int] = {}
    said: list[str] = []
    knew: list[bool] = []

    def column(row: int) -> int:
        claim = examples.draw(row, dice)
        if claim not in columns:
            columns[claim] = len(columns)
            said.append(dice.choice(examples.templates(row) or ("{}",)).replace("{}", claim))
            knew.append(examples.knew(row))
        return columns[claim]

    own = np.array([column(row) for row in chosen], np.int64)
    for _ in range(DRAWS * (texts - size)):
        if len(columns) == texts:
            break
        column(int(dice.choice(among.flat)) if absent else dice.choice(chosen))
    claims = list(columns)
    true = np.array([[claim in true_of[row] for claim in claims] for row in chosen], bool)
    return Batch(
        chosen,
        said,
        own,
        true,
        confusable(claims, [true_of[row] for row in chosen]) & ~true,
        [examples.caption(row) or "" for row in chosen],
        (np.array([examples.knew(row) for row in chosen]), np.array(knew)),
    )


def _rows(among: np.ndarray, step: int, size: int, seed: int) -> list[int]:
    """The rows of a step: epochs one after another, each in an order of its own, neighbours kept together."""
    together = among.shape[1]
    wanted = np.arange(step * size, (step + 1) * size)
    epochs, places = np.divmod(wanted // together, len(among))
    orders = {epoch: _order(len(among), seed, epoch) for epoch in np.unique(epochs).tolist()}
    drawn = np.array([orders[epoch][place] for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)])
    return among[drawn, wanted % together].tolist()


@functools.lru_cache(4)
def _order(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def confusable(claims: Sequence[str], true_of: Sequence[Collection[str]]) -> np.ndarray:
    """bool[b, t]: whether all words of a text are in texts that are true of a picture."""
    known: dict[str, int] = {}
    wanted = [{known.setdefault(word, len(known)) for word in claim.casefold().split()} for claim in claims]
    has = np.zeros((len(true_of), len(known)), np.float32)
    for words, texts in zip(has, true_of, strict=True):
        held = {word for text in texts for word in text.casefold().split()}
        words[[place for word, place in known.items() if word in held]] = 1.0
    asked = np.zeros((len(claims), len(known)), np.float32)
    for words, places in zip(asked, wanted, strict=True):
        words[list(places)] = 1.0
    return np.asarray(has @ asked.T == asked.sum(axis=1))
