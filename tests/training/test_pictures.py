import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from pipeline.demo import draw_things
from pipeline.demo.scenes import NEVER_TRAINED, Scene, Thing, draw, proportions, random_scene, shows_colour
from pipeline.training import pictures

MODEL = Path(__file__).parents[2] / "pipeline" / "demo" / "model"


def test_training_sees_no_held_out_pair_and_no_seed_of_the_archive_or_of_evaluation() -> None:
    trained = list(itertools.islice(pictures.training_scenes(), 2000))
    assert min(scene.seed for scene in trained) >= 1_000_000
    assert not [t for scene in trained for t in scene.things if (t.colour, t.kind) in NEVER_TRAINED]
    unseen = pictures.unseen_scenes(700)
    assert all(500_000 <= scene.seed < 600_000 for scene in unseen)
    assert {(t.colour, t.kind) for scene in unseen for t in scene.things} >= NEVER_TRAINED


def test_twins_differ_in_a_single_respect() -> None:
    trained = list(itertools.islice(pictures.training_scenes(), 600))
    for scene, twin in zip(trained[::2], trained[1::2], strict=True):
        assert scene.seed == twin.seed and scene.medium == twin.medium
        differs = [
            scene.place != twin.place,
            [t.kind for t in scene.things] != [t.kind for t in twin.things],
            [t.colour for t in scene.things] != [t.colour for t in twin.things],
        ]
        assert sum(differs) == 1, (scene, twin)


def test_a_mirrored_picture_is_of_the_mirrored_scene() -> None:
    scene = Scene(1, (Thing("tent", "red"), Thing("balloon", "blue")), "at sea", "poster")
    assert pictures.flipped(scene) == replace(scene, things=(Thing("balloon", "blue"), Thing("tent", "red")))


def test_pictures_are_prepared_as_openclip_prepares_a_large_photo() -> None:
    config = json.loads((MODEL / "open_clip_config.json").read_text())["preprocess_cfg"]
    preprocess = image_transform_v2(PreprocessCfg(size=72, **config), is_train=False)
    for seed in range(8):
        scene = random_scene(seed)
        wide, high = proportions(scene)
        large = preprocess(draw(scene, 240 * wide, 240 * high)).numpy()
        mean, std = (np.array(config[part]).reshape(3, 1, 1) for part in ("mean", "std"))
        ours = (pictures.render([scene], 72)[0].transpose(2, 0, 1) / 255 - mean) / std
        assert np.abs(large - ours).mean() * std.max() < 0.04, seed  # of the full range; a thin line is a pixel off


def shown(items: Iterable[Any], *_: Any) -> Iterable[Any]:
    return items


def test_the_pool_is_drawn_once_and_anew_by_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = pictures.training_set(6)
    pool = pictures.training_pool(tmp_path, scenes, 24, shown)
    [path] = tmp_path.glob("*.npy")
    assert pool.shape == (6, 24, 24, 3)
    np.testing.assert_array_equal(pool, pictures.render(scenes, 24))
    drawn = path.stat().st_mtime_ns
    pictures.training_pool(tmp_path, scenes, 24, shown)
    assert path.stat().st_mtime_ns == drawn and Image.fromarray(pool[0]).size == (24, 24)
    other = tmp_path / "draw_things.py"
    other.write_text("another way to draw")
    monkeypatch.setattr(draw_things, "__file__", str(other))
    pictures.training_pool(tmp_path, scenes, 24, shown)
    [anew] = tmp_path.glob("*.npy")
    assert anew != path


def test_half_of_a_training_set_tells_whose_colour_is_whose() -> None:
    chosen = pictures.training_set(400)
    telling = [len(scene.things) == 2 and shows_colour(scene.medium) for scene in chosen]
    assert len(chosen) == 400 and sum(telling[::2]) == 100
    assert all(one.seed == other.seed for one, other in zip(chosen[::2], chosen[1::2], strict=True))
