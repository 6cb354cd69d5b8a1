"""What can be said of a scene, and which sayings are true of which scenes.

A scene has facts: the kinds, colours and coloured kinds that it shows, its place and its medium. A phrase claims some
facts, in one of many wordings, and is true of every scene that has them all. So a batch of pictures and a batch of
phrases have a full table of right answers, which is what the contrastive loss learns from.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.demo.scenes import COLOURS, MEDIA, NEVER_TRAINED, OBJECTS, PLACES, Scene, shows_colour, with_article

Fact = str | tuple[str, str]  # a kind, colour, place or medium; or a colour and the kind that has it

PAIRS = tuple((colour, kind) for colour in COLOURS for kind in OBJECTS if (colour, kind) not in NEVER_TRAINED)

_ALL: tuple[Fact, ...] = (*OBJECTS, *COLOURS, *PLACES, *MEDIA, *PAIRS)
_FACTS = {fact: i for i, fact in enumerate(_ALL)}
_WORDINGS = ("{}", "{}", "{}", "a photo of {}", "a picture of {}", "an image of {}", "this is {}")


@dataclass(frozen=True)
class Phrase:
    text: str
    claims: tuple[Fact, ...]


def truth(phrases: Sequence[Phrase], scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Which phrases are true of which scenes, and which are only nearly so: two tables, bool [scenes, phrases].

    Nearly true is "a red tent" of a red sailboat beside a blue tent: all its words are, only not together.
    """
    shown = _table([_facts(scene) for scene in scenes])
    claimed = _table([list(phrase.claims) for phrase in phrases])
    words = _table([_apart(phrase.claims) for phrase in phrases])
    true = shown @ claimed.T == claimed.sum(axis=1)
    return true, (shown @ words.T == words.sum(axis=1)) & ~true


def _table(rows: Sequence[Sequence[Fact]]) -> np.ndarray:
    """One row of zeros and ones for each list of facts."""
    table = np.zeros((len(rows), len(_FACTS)), np.float32)
    for row, found in zip(table, rows, strict=True):
        row[[_FACTS[fact] for fact in found]] = 1.0
    return table


def _apart(claims: Sequence[Fact]) -> list[Fact]:
    """The claims with each coloured kind taken for a colour and a kind."""
    return [word for claim in claims for word in ((claim,) if isinstance(claim, str) else claim)]


def _facts(scene: Scene) -> list[Fact]:
    """What a scene shows, never-trained pairs not counted."""
    found: list[Fact] = [scene.place, scene.medium]
    for thing in scene.things:
        found.append(thing.kind)
        if shows_colour(scene.medium):
            found.append(thing.colour)
            if (thing.colour, thing.kind) not in NEVER_TRAINED:
                found.append((thing.colour, thing.kind))
    return found


def bank(dice: random.Random) -> list[Phrase]:
    """Every single fact once, each in a wording taken by chance."""
    phrases = [Phrase(_word(dice, f"{colour} {kind}"), ((colour, kind),)) for colour, kind in PAIRS]
    phrases += [Phrase(_word(dice, kind), (kind,)) for kind in OBJECTS]
    phrases += [Phrase(dice.choice((colour, with_article(colour), f"{colour} thing")), (colour,)) for colour in COLOURS]
    phrases += [Phrase(dice.choice((place, place, _bare(place))), (place,)) for place in PLACES]
    return phrases + [Phrase(dice.choice((medium, with_article(medium))), (medium,)) for medium in MEDIA]


def describe(scene: Scene, dice: random.Random) -> Phrase:
    """A phrase that claims several facts of this scene, chosen at random."""
    things = list(scene.things)
    dice.shuffle(things)
    if len(things) == 2 and dice.random() < 0.4:
        things.pop()
    claims: list[Fact] = []
    names = []
    for thing in things:
        coloured = shows_colour(scene.medium) and dice.random() < 0.75
        claims.append((thing.colour, thing.kind) if coloured else thing.kind)
        names.append(with_article(f"{thing.colour} {thing.kind}" if coloured else thing.kind))
    text = " and ".join(names)
    if dice.random() < 0.65:
        text += f" {scene.place}"
        claims.append(scene.place)
    if dice.random() < 0.4:
        text = f"{with_article(scene.medium)} of {text}"
        claims.append(scene.medium)
    return Phrase(text, tuple(claims))


def vocabulary(tokenize: Callable[[list[str]], np.ndarray]) -> list[int]:
    """The token ids that any phrase or caption may hold, in rising order; 0, the padding, is the first."""
    words = [*OBJECTS, *COLOURS, *PLACES, *MEDIA, *(w.format("") for w in _WORDINGS), "a an of and the thing", ""]
    return sorted({0, *np.unique(tokenize(words)).tolist()})


def _word(dice: random.Random, name: str) -> str:
    if dice.random() < 0.2:
        return name
    return dice.choice(_WORDINGS).format(with_article(name))


def _bare(place: str) -> str:
    """`in a field` → `a field`; `at sea` → `sea`."""
    return place.split(" ", 1)[1]
