"""The demo's world: what is drawn is what is said."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from pipeline.demo.scenes import (
    COLOURS,
    MEDIA,
    NEVER_TRAINED,
    OBJECTS,
    PLACES,
    Scene,
    Thing,
    caption,
    draw,
    proportions,
    random_scene,
    shows_colour,
)

# A range of each colour's red, green and blue parts that none of the others is in.
_RANGES = {
    "red": ((150, 256), (0, 90), (0, 90)),
    "blue": ((0, 90), (0, 130), (120, 256)),
    "yellow": ((190, 256), (150, 256), (0, 90)),
    "purple": ((90, 170), (0, 100), (110, 256)),
}


def _where(scene: Scene, colour: str) -> np.ndarray:
    """Which pixels of the scene's picture have this colour: bool [height, width]."""
    pixels = np.asarray(draw(scene, 240, 180))
    return np.all(
        [(pixels[..., i] >= low) & (pixels[..., i] < high) for i, (low, high) in enumerate(_RANGES[colour])], 0
    )


def test_the_world_is_large_enough_and_its_names_cannot_be_mixed_up() -> None:
    assert (len(OBJECTS), len(COLOURS), len(PLACES), len(MEDIA)) == (12, 8, 6, 4)
    names = [*OBJECTS, *COLOURS, *MEDIA]
    assert not [(a, b) for a, b in combinations(names, 2) if a in b or b in a]


def test_a_tenth_of_the_pairs_is_never_trained_but_no_colour_or_kind_as_a_whole() -> None:
    assert len(NEVER_TRAINED) == round(0.1 * len(OBJECTS) * len(COLOURS))
    assert {colour for colour, _ in NEVER_TRAINED} <= set(COLOURS)
    kinds = [kind for _, kind in NEVER_TRAINED]
    assert set(kinds) <= set(OBJECTS) and len(set(kinds)) == len(kinds)


def test_random_scenes_hold_everything() -> None:
    scenes = [random_scene(seed) for seed in range(3000)]
    assert {scene.place for scene in scenes} == set(PLACES)
    assert {scene.medium for scene in scenes} == set(MEDIA)
    pairs = {(thing.colour, thing.kind) for scene in scenes for thing in scene.things}
    assert pairs == {(colour, kind) for colour in COLOURS for kind in OBJECTS}
    assert 0.15 < np.mean([len(scene.things) == 2 for scene in scenes]) < 0.3
    assert all(len({thing.kind for thing in scene.things}) == len(scene.things) for scene in scenes)
    assert scenes[7] == random_scene(7)


@pytest.mark.parametrize(
    ("medium", "said"),
    [
        ("photograph", "an orange sailboat and a black tent at sea"),
        ("poster", "a poster of an orange sailboat and a black tent at sea"),
        ("sepia print", "a sepia print of a sailboat and a tent at sea"),
        ("stereograph", "a stereograph of a sailboat and a tent at sea"),
    ],
)
def test_a_caption_names_what_can_be_seen(medium: str, said: str) -> None:
    assert caption(Scene(1, (Thing("sailboat", "orange"), Thing("tent", "black")), "at sea", medium)) == said


@pytest.mark.parametrize("medium", MEDIA)
def test_a_scene_is_drawn_the_same_each_time(medium: str) -> None:
    scene = replace(random_scene(4), medium=medium)
    assert draw(scene, 96, 72).tobytes() == draw(scene, 96, 72).tobytes()
    assert draw(scene, 96, 72).tobytes() != draw(replace(scene, seed=5), 96, 72).tobytes()


@pytest.mark.parametrize("medium", MEDIA)
def test_a_scene_looks_the_same_at_every_size(medium: str) -> None:
    for seed in range(4):
        scene = replace(random_scene(seed), medium=medium)
        small, large = draw(scene, 160, 120), draw(scene, 640, 480)
        assert small.size == (160, 120) and small.mode == "RGB"
        seen = [np.asarray(picture.resize((40, 30)), np.int16) for picture in (small, large)]
        difference = np.abs(seen[0] - seen[1]).mean()
        assert difference < 8.0, f"{scene}: {difference}"


@pytest.mark.parametrize("medium", MEDIA)
def test_colours_are_seen_where_the_medium_shows_them(medium: str) -> None:
    for kind in OBJECTS:
        scene = Scene(3, (Thing(kind, "purple"),), "in a field", medium)
        share = float(_where(scene, "purple").mean())
        if shows_colour(medium):
            assert share > 0.015, f"{kind}: {share}"
        else:
            assert share == 0.0, f"{kind}: {share}"


def test_two_things_stand_in_the_order_in_which_they_are_named() -> None:
    for left, right in combinations(OBJECTS, 2):
        scene = Scene(11, (Thing(left, "red"), Thing(right, "purple")), "in the snow", "photograph")
        red, purple = (np.nonzero(_where(scene, colour))[1] for colour in ("red", "purple"))
        assert len(red) and len(purple), (left, right)
        assert np.percentile(red, 95) < 120 < np.percentile(purple, 5), (left, right)


def test_pictures_have_proportions_that_suit_them() -> None:
    assert proportions(Scene(1, (Thing("tent", "red"),), "at sea", "stereograph")) == (2, 1)
    for seed in range(200):
        scene = random_scene(seed)
        wide, high = proportions(scene)
        assert len(scene.things) == 1 or wide >= high
