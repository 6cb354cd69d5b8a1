import random

import numpy as np

from pipeline.demo.scenes import NEVER_TRAINED, Scene, Thing, caption, random_scene
from pipeline.training import model, texts
from pipeline.training.texts import Phrase

_BOTH = Scene(1, (Thing("sailboat", "red"), Thing("tent", "blue")), "at sea", "photograph")
_SEPIA = Scene(2, (Thing("sailboat", "red"),), "at sea", "sepia print")


def test_a_phrase_is_true_of_every_scene_that_has_all_it_claims() -> None:
    phrases = [
        Phrase("a red sailboat", (("red", "sailboat"),)),
        Phrase("a red tent", (("red", "tent"),)),  # both words are true, together they are not
        Phrase("a sailboat", ("sailboat",)),
        Phrase("red", ("red",)),
        Phrase("a sailboat at sea", ("sailboat", "at sea")),
        Phrase("a sepia print of a sailboat", ("sailboat", "sepia print")),
    ]
    expected = [[True, False, True, True, True, False], [False, False, True, False, True, True]]
    true, nearly = texts.truth(phrases, [_BOTH, _SEPIA])
    assert true.tolist() == expected
    assert np.argwhere(nearly).tolist() == [[0, 1]]


def test_a_description_is_true_of_its_scene() -> None:
    dice = random.Random(5)
    scenes = [scene for scene in map(random_scene, range(300)) if not _never_trained(scene)]
    phrases = [texts.describe(scene, dice) for scene in scenes]
    assert texts.truth(phrases, scenes)[0].diagonal().all()
    assert len({phrase.text for phrase in phrases}) > 200


def test_the_bank_has_every_trained_pair_once_and_no_other() -> None:
    pairs = [phrase.claims[0] for phrase in texts.bank(random.Random(1)) if isinstance(phrase.claims[0], tuple)]
    assert len(pairs) == len(set(pairs)) == 86
    assert not NEVER_TRAINED.intersection(pairs)


def test_the_vocabulary_holds_all_that_is_ever_said() -> None:
    tokenizer = model.tokenizer({"text_cfg": {"context_length": 32}})
    known = texts.vocabulary(lambda words: tokenizer(words).numpy())
    dice = random.Random(2)
    scenes = [random_scene(seed) for seed in range(500)]
    said = [caption(scene) for scene in scenes] + [phrase.text for _ in range(20) for phrase in texts.bank(dice)]
    said += [texts.describe(scene, dice).text for scene in scenes if not _never_trained(scene)]
    assert set(np.unique(tokenizer(said)).tolist()) <= set(known)
    assert known[0] == 0 and known == sorted(known)


def _never_trained(scene: Scene) -> bool:
    return any((thing.colour, thing.kind) in NEVER_TRAINED for thing in scene.things)
