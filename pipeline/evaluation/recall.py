"""Retrieval recall: at which rank texts find their pictures and pictures their texts. Arrays in, figures out."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

DEPTHS = (1, 5, 10)
BLOCK = 32 << 20  # cosines at a time
TIE = 1e-6  # cosines this close are equal: float32 products of the same two vectors differ by less, from block to block
Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
INTERVAL = (
    "95 %, Wilson's, with the questions counted for as many as they are worth where one picture has several texts"
)

DRAWS = 100_000  # of signs, for a p-value
CHANCE = 0.05  # a p-value below which a difference is beyond chance
SEED = 0  # of those draws
TEST = "two-sided randomization test of the hits gained and lost, those of one picture together (McNemar's exact test, \
drawn, where each picture has one question)"

Shown = Callable[[Iterable[Any], int, str], Iterable[Any]]  # progress.counted, and where it is to be said


class Ranks(NamedTuple):
    """The ranks of questions' right answers, counted from 1, and the picture that each question is about: int64[n]."""

    ranks: np.ndarray
    groups: np.ndarray


def both_ways(pictures: np.ndarray, texts: np.ndarray, pairs: np.ndarray, shown: Shown) -> dict[str, Ranks]:
    """`{"text_to_image", "image_to_text"}`; the questions are in the same order whichever model the vectors are of.

    Args:
        pictures: unit vectors float32[n, dim], the candidates of texts; those in `pairs` are asked about
        texts: unit vectors float32[m, dim], m ≥ 1
        pairs: int64[p, 2], (text, picture) that belong together, each once; every text has a picture
    """
    by_text = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    by_picture = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    asked, question = np.unique(by_picture[:, 1], return_inverse=True)
    first = by_text[np.searchsorted(by_text[:, 0], np.arange(len(texts))), 1]
    found = ranks(texts, pictures, by_text, shown)
    back = ranks(pictures[asked], texts, np.stack([question, by_picture[:, 0]], axis=1), shown)
    return {"text_to_image": Ranks(found, first), "image_to_text": Ranks(back, asked)}


def ranks(questions: np.ndarray, candidates: np.ndarray, right: np.ndarray, shown: Shown) -> np.ndarray:
    """The rank of each question's best right candidate among all, int64[n], counted from 1.

    Right ones are not in each other's way. Ties count against us: a wrong candidate with the same cosine comes first.
    So does what is no number: a question that has such a cosine with a right one comes after all candidates.

    Args:
        questions, candidates: unit vectors float32[n, dim] and float32[m, dim]
        right: int64[p, 2], (question, candidate) by question; every question has one
    """
    starts = np.searchsorted(right[:, 0], np.arange(len(questions) + 1))
    found = np.empty(len(questions), np.int64)
    rows = max(1, BLOCK // len(candidates))
    blocks = range(0, len(questions), rows)
    for first in shown(blocks, len(blocks), "blocks of cosines"):
        last = min(first + rows, len(questions))
        cosines = questions[first:last] @ candidates.T
        pairs, edges = right[starts[first] : starts[last]], starts[first:last] - starts[first]
        own = cosines[pairs[:, 0] - first, pairs[:, 1]]
        least = np.maximum.reduceat(own, edges) - np.float32(TIE)
        theirs = np.add.reduceat((own >= least[pairs[:, 0] - first]).astype(np.int64), edges)
        worse = np.count_nonzero(cosines < least[:, None], axis=1)  # of which no NaN is one
        found[first:last] = 1 + len(candidates) - worse - theirs
    return found


def figures(found: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """`{"questions", "recall@1": {"value", "low", "high"}, "recall@5", "recall@10", "median_rank"}` of ranks, int64[n].

    `groups`: int64[n], the picture that a question is about.
    """
    said: dict[str, Any] = {"questions": len(found)}
    for depth in DEPTHS:
        value, low, high = interval(found <= depth, groups)
        said[f"recall@{depth}"] = {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6)}
    return said | {"median_rank": float(np.median(found))}


def interval(right: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """(share, low, high): the share of bool[n] that is true, and its 95 % confidence interval.

    Wilson's (JASA 22, 1927), which holds at 0 and 1 too. Questions about the same picture, `groups`: int64[n], fare
    alike, so they count for fewer: n is divided by the design effect, the variance between pictures over that of as
    many independent questions, as survey statistics has it (Dean and Pagano, J. Surv. Stat. Methodol. 3, 2015).
    """
    _, place = np.unique(groups, return_inverse=True)
    sizes, hits = np.bincount(place), np.bincount(place, weights=right)
    n, share = float(len(right)), float(right.mean())
    if 0 < share < 1 and len(sizes) > 1:
        between = float(np.square(hits - share * sizes).sum())
        n = min(n, n * n * share * (1 - share) / between) if between else n
    else:
        n = float(len(sizes))  # no picture differs from another: as if all the questions about one were one
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    reach = Z * np.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return share, max(0.0, float(middle - reach)), min(1.0, float(middle + reach))


def difference(before: Ranks, after: Ranks) -> dict[str, Any]:
    """`{"recall@1": {"value", "gained", "lost", "p", "beyond_chance"}, …}` of two models' ranks of the same questions.

    `value` is by how much recall rose; `gained` and `lost` are the questions that only the one or the other answers.
    """
    said: dict[str, Any] = {}
    for depth in DEPTHS:
        change = (after.ranks <= depth).astype(np.int64) - (before.ranks <= depth)
        p = p_value(change, before.groups)
        said[f"recall@{depth}"] = {
            "value": round(float(change.mean()), 6),
            "gained": int((change > 0).sum()),
            "lost": int((change < 0).sum()),
            "p": round(p, 6),
            "beyond_chance": p < CHANCE,
        }
    return said


def p_value(change: np.ndarray, groups: np.ndarray) -> float:
    """How likely hits gained and lost, 1 and -1 in int64[n], would differ as much if the two models were alike.

    Then it would be chance which of them gave which answers: a randomization test, as Smucker, Allan and Carterette
    recommend for retrieval (CIKM 2007). Questions about the same picture, `groups`: int64[n], fare alike, so they
    change sides together. With one question a picture it is McNemar's exact test (Psychometrika 12, 1947).
    """
    _, place = np.unique(groups, return_inverse=True)
    by_picture = np.bincount(place, weights=change).astype(np.int64)
    dice, drawn = np.random.default_rng(SEED), np.zeros(DRAWS, np.int64)
    for size, pictures in zip(*np.unique(np.abs(by_picture[by_picture != 0]), return_counts=True), strict=True):
        drawn += size * (2 * dice.binomial(pictures, 0.5, DRAWS) - pictures)
    return float((1 + np.count_nonzero(np.abs(drawn) >= abs(by_picture.sum()))) / (1 + DRAWS))
