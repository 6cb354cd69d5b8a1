"""Several rankings of the same photos → one."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

K = 60  # how little the first places count for more than those behind them

Item = TypeVar("Item", bound=Hashable)


def fused(rankings: Mapping[str, Sequence[Item]]) -> list[tuple[Item, float, dict[str, int]]]:
    """Reciprocal rank fusion: (item, score, its rank in each ranking that found it), best first.

    An item's score is the sum over the rankings of 1 / (60 + rank), ranks counted from 1: Cormack, Clarke and
    Buettcher, SIGIR 2009. Scores of the rankings need not be alike. Of equals the one stands first that was met first.
    """
    ranks: dict[Item, dict[str, int]] = {}
    for name, ranking in rankings.items():
        for rank, item in enumerate(ranking, 1):
            ranks.setdefault(item, {})[name] = rank
    scored = [(item, sum(1 / (K + rank) for rank in found.values()), found) for item, found in ranks.items()]
    return sorted(scored, key=lambda one: -one[1])
