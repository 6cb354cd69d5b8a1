"""Ranks against a plain loop, ties, texts that several pictures share, and intervals known by hand."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation import recall


def shown(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    return items


def unit(vectors: Any) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_ranks_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "BLOCK", 400)  # blocks of ten rows, the last one smaller
    dice = np.random.default_rng(0)
    questions, candidates = unit(dice.standard_normal((53, 8))), unit(dice.standard_normal((40, 8)))
    mine = [sorted(dice.choice(40, dice.integers(1, 4), replace=False).tolist()) for _ in questions]
    right = np.array([(question, one) for question, some in enumerate(mine) for one in some])
    found = recall.ranks(questions, candidates, right, shown)
    for question, some in enumerate(mine):
        cosines = candidates @ questions[question]
        others = np.delete(cosines, some)
        assert found[question] == 1 + sum(other >= max(cosines[some]) for other in others)


def test_a_tie_is_not_a_find() -> None:
    one, other = unit([[1, 2, 3]])[0], unit([[3, 2, 1]])[0]
    candidates = np.stack([one, one, one, other])
    right = np.array([(0, 1)])
    assert recall.ranks(one[None], candidates, right, shown).tolist() == [3]
    both = np.array([(0, 0), (0, 1)])  # a copy that is right as well is in nobody's way
    assert recall.ranks(one[None], candidates, both, shown).tolist() == [2]


def test_what_is_no_number_is_no_find() -> None:
    vectors = unit(np.eye(12))
    right = np.stack([np.arange(12)] * 2, axis=1)
    nowhere = np.full_like(vectors, np.nan)
    assert recall.ranks(vectors, vectors, right, shown).max() == 1
    assert recall.ranks(nowhere, vectors, right, shown).min() > 10
    assert recall.ranks(vectors, nowhere, right, shown).min() > 10
    one = np.where(np.arange(12)[:, None] == 3, np.nan, vectors).astype(np.float32)
    assert recall.ranks(vectors, one, right, shown).tolist() == [2, 2, 2, 13, *[2] * 8]


def test_each_photo_of_a_shared_text_is_right() -> None:
    pictures = unit([[1, 0, 0], [0, 1, 0], [0, 0.9, 0.1], [0, 0, 1]])
    texts = unit([[1, 0.1, 0], [0, 1, 0.05]])  # the second is of pictures 1 and 2; nobody wrote of picture 3
    found = recall.both_ways(pictures, texts, np.array([(1, 1), (0, 0), (1, 2)]), shown)
    assert found["text_to_image"].ranks.tolist() == [1, 1] and found["image_to_text"].ranks.tolist() == [1, 1, 1]
    assert found["text_to_image"].groups.tolist() == [0, 1] and found["image_to_text"].groups.tolist() == [0, 1, 2]


def test_intervals_known_by_hand() -> None:
    """8 of 10: Wilson's 95 % interval is 0.490 to 0.943 (any table of it); 0 of 10 reaches up to 0.278."""
    right = np.array([True] * 8 + [False] * 2)
    assert recall.interval(right, np.arange(10)) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert recall.interval(np.zeros(10, bool), np.arange(10)) == pytest.approx((0, 0, 0.2775), abs=1e-4)
    assert recall.interval(np.ones(10, bool), np.arange(10)) == pytest.approx((1, 0.7225, 1), abs=1e-4)


def test_five_texts_that_fare_alike_count_as_one() -> None:
    groups = np.repeat(np.arange(10), 5)
    for right in ([True] * 8 + [False] * 2, [True] * 10):
        one = recall.interval(np.array(right), np.arange(10))
        assert recall.interval(np.repeat(right, 5), groups) == pytest.approx(one)
    mixed = np.tile([True, True, True, True, False], 10)  # every picture fares the same: nothing to divide by
    assert recall.interval(mixed, groups) == pytest.approx(recall.interval(mixed, np.arange(50)))


def test_the_texts_of_an_only_picture_are_one_question() -> None:
    _, low, high = recall.interval(np.array([True, False, True, False, True]), np.zeros(5, int))
    assert (low, high) == pytest.approx((0.0771, 0.9642), abs=1e-4)  # Wilson's of 0.6 with n = 1


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Pictures of which some are easy and some hard, five texts each: 95 % of the intervals hold the share of all."""
    dice = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), 5)
    held = 0
    for _ in range(400):
        ease = dice.beta(0.7, 0.7, 60)  # half of all texts find theirs
        _, low, high = recall.interval(dice.random(300) < ease[groups], groups)
        held += low <= 0.5 <= high
    assert 0.92 <= held / 400 <= 0.98


# --- differences ------------------------------------------------------------------------------------------------------


def asked(hits: list[bool], groups: np.ndarray | None = None) -> recall.Ranks:
    """Ranks of questions that are answered first, or not among the first ten."""
    return recall.Ranks(np.where(hits, 1, 11), np.arange(len(hits)) if groups is None else groups)


@pytest.mark.parametrize(("gained", "lost"), [(9, 1), (5, 5), (7, 2), (30, 12), (0, 0), (1, 0), (0, 6)])
def test_with_one_question_a_picture_it_is_mcnemars_exact_test(gained: int, lost: int) -> None:
    """Whose p is twice the binomial tail of the rarer change, out of all changes."""
    before = [False] * gained + [True] * lost + [True] * 20 + [False] * 10
    after = [True] * gained + [False] * lost + [True] * 20 + [False] * 10
    changed = gained + lost
    tail = sum(math.comb(changed, i) for i in range(min(gained, lost) + 1)) / 2**changed
    told = recall.difference(asked(before), asked(after))["recall@5"]
    assert told["p"] == pytest.approx(min(1.0, 2 * tail), abs=0.006)
    assert told["beyond_chance"] == (min(1.0, 2 * tail) < 0.05)
    assert (told["gained"], told["lost"]) == (gained, lost)
    assert told["value"] == pytest.approx((gained - lost) / len(before), abs=1e-6)
    assert recall.difference(asked(after), asked(before))["recall@5"]["value"] == -told["value"]


def test_five_texts_that_change_together_are_one_change() -> None:
    groups = np.repeat(np.arange(8), 5)
    before, after = [False] * 20 + [True] * 20, [True] * 20 + [True] * 20
    one = recall.difference(asked(before[::5]), asked(after[::5]))["recall@1"]
    five = recall.difference(asked(before, groups), asked(after, groups))["recall@1"]
    assert five["p"] == one["p"] == pytest.approx(2 / 2**4, abs=0.004) and not five["beyond_chance"]
    assert five["gained"] == 20 and five["value"] == one["value"] == 0.5
    apart = recall.difference(asked(before), asked(after))["recall@1"]
    assert apart["p"] < 0.001 and apart["beyond_chance"]


def test_models_that_are_alike_seldom_differ_beyond_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models with the same ease at each picture, five texts each: p is below 0.05 in some 5 % of trials."""
    monkeypatch.setattr(recall, "DRAWS", 2000)
    dice = np.random.default_rng(2)
    groups = np.repeat(np.arange(60), 5)
    beyond = 0
    for _ in range(200):
        ease = [dice.beta(0.7, 0.7, 60)[groups] for _ in range(2)]  # a picture fares alike within a model
        before, after = ((dice.random(300) < one).astype(int) for one in ease)
        beyond += recall.p_value(after - before, groups) < 0.05
    assert 2 <= beyond <= 20
