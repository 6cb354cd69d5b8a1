"""The demo's drawn world as examples: each picture with all that can be said of it."""

import random
from collections.abc import Collection, Sequence

import numpy as np

from pipeline import storage
from pipeline.demo.scenes import Scene, Thing, caption, shows_colour, with_article
from pipeline.evaluation.recall import Shown
from pipeline.training import pictures
from pipeline.training.settings import ScenesData

# Of the texts drawn: those that name one thing with its colour, which is what people ask for and hard to learn; those
# that claim any single fact; the others claim several.
NAMED, SINGLE = 0.5, 0.35
ARTICLE = 0.8  # of names, have one


class Scenes:
    """Drawn pictures, twins side by side, then all of them mirrored; as examples.Examples wants them."""

    together: int = 2

    def __init__(self, asked: ScenesData, side: int, shown: Shown) -> None:
        self.side = side
        drawn = pictures.training_set(asked.pictures)
        self.scenes = drawn + [pictures.flipped(scene) for scene in drawn]
        self.ids: Sequence[str] = [f"scene:{scene.seed}" for scene in self.scenes]
        self._pixels = pictures.training_pool(storage.cache("scenes"), drawn, side, shown)

    def claims(self, row: int) -> Collection[str]:
        return claims(self.scenes[row])

    def draw(self, row: int, dice: random.Random) -> str:
        scene = self.scenes[row]
        kind = dice.random()
        if kind < NAMED:
            named = _named(dice.choice(scene.things), scene, coloured=True)
            return named if dice.random() < ARTICLE else _bare(named)
        return dice.choice(facts(scene) if kind < NAMED + SINGLE else claims(scene))

    def caption(self, row: int) -> str:
        return caption(self.scenes[row])

    def pixels(self, rows: Sequence[int]) -> np.ndarray:
        drawn = len(self._pixels)
        found = np.empty((len(rows), self.side, self.side, 3), np.uint8)
        for picture, row in zip(found, rows, strict=True):
            picture[:] = self._pixels[row] if row < drawn else self._pixels[row - drawn][:, ::-1]
        return found


def claims(scene: Scene) -> tuple[str, ...]:
    """Every short text that is true of a scene."""
    things = scene.things
    shown = [[_named(thing, scene, coloured) for coloured in (False, True)] for thing in things]
    subjects = [name for names in shown for name in names]
    if len(things) == 2:
        subjects += [f"{a} and {b}" for pair in (shown, shown[::-1]) for a in pair[0] for b in pair[1]]
    said = [f"{subject}{place}" for subject in subjects for place in ("", f" {scene.place}")]
    said += [f"{with_article(scene.medium)} of {text}" for text in said]
    return tuple(dict.fromkeys([*said, *map(_bare, said), *facts(scene)]))


def facts(scene: Scene) -> tuple[str, ...]:
    """Texts that claim a single fact of a scene: a thing, its colour, both, the place, the medium."""
    said = [name for thing in scene.things for name in (_named(thing, scene, False), _named(thing, scene, True))]
    if shows_colour(scene.medium):
        said += [word for thing in scene.things for word in (thing.colour, f"{with_article(thing.colour)} thing")]
    return tuple(dict.fromkeys([*said, scene.place, _bare(scene.place), with_article(scene.medium), scene.medium]))


def _bare(text: str) -> str:
    """Without its first word, as titles and searches have it: "a red tent" → "red tent", "in a field" → "a field"."""
    return text.partition(" ")[2]


def _named(thing: Thing, scene: Scene, coloured: bool) -> str:
    return with_article(f"{thing.colour} {thing.kind}" if coloured and shows_colour(scene.medium) else thing.kind)
