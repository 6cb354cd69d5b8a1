"""The pictures a demo model is trained and tested on, drawn once and kept small.

Pictures come as the model sees them before normalising: drawn, then resized as OpenCLIP's own preprocessing does it,
uint8.
"""

import inspect
import itertools
import random
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import filelock
import numpy as np
from PIL import Image

from pipeline import imaging
from pipeline.demo import draw_media, draw_places, draw_things
from pipeline.demo import scenes as demo
from pipeline.demo.scenes import (
    COLOURS,
    NEVER_TRAINED,
    OBJECTS,
    PLACES,
    Scene,
    Thing,
    draw,
    proportions,
    random_scene,
    shows_colour,
)
from pipeline.evaluation.recall import Shown

FIRST_TRAINING_SEED = 1_000_000
FIRST_UNSEEN_SEED = 500_000
_LONG_EDGE = 176  # more than twice what the model sees, so that the reduction smooths it as it does a large photo


def training_scenes() -> Iterator[Scene]:
    """Scenes two by two: one of the next seed, then its twin, which differs from it in a single respect."""
    for seed in itertools.count(FIRST_TRAINING_SEED):
        scene = random_scene(seed)
        if _held_out(scene):
            continue
        yield scene
        yield twin(scene, random.Random(f"twin {seed}"))


def training_set(count: int) -> list[Scene]:
    """So many training scenes, twins side by side. Half of them are of two things in colours, five times as many as
    chance would give: these alone teach whose colour is whose."""
    wanted = {True: count // 4, False: (count + 1) // 2 - count // 4}
    found: list[Scene] = []
    for scene, other in _by_twos(training_scenes()):
        telling = len(scene.things) == 2 and shows_colour(scene.medium)
        if wanted[telling]:
            wanted[telling] -= 1
            found += [scene, other]
        if not any(wanted.values()):
            return found
    raise AssertionError("training scenes have no end")


def unseen_scenes(count: int) -> list[Scene]:
    """Scenes for evaluation, which neither the archive nor training holds; never-trained pairs included."""
    return [random_scene(FIRST_UNSEEN_SEED + i) for i in range(count)]


def _by_twos(scenes: Iterator[Scene]) -> Iterator[tuple[Scene, Scene]]:
    return zip(scenes, scenes, strict=True)


def twin(scene: Scene, dice: random.Random) -> Scene:
    """The same picture with another kind, place or colour, or with its things' colours exchanged; no held-out pair."""
    while True:
        changed = _changed(scene, dice)
        if changed != scene and not _held_out(changed):
            return changed


def _changed(scene: Scene, dice: random.Random) -> Scene:
    things = list(scene.things)
    which = dice.randrange(len(things))
    thing = things[which]
    respects = ("kind", "place", "colour", "colour") if shows_colour(scene.medium) else ("kind", "kind", "place")
    respect = dice.choice(respects)
    if respect == "place":
        return replace(scene, place=dice.choice(PLACES))
    if respect == "kind":
        others = [kind for kind in OBJECTS if kind not in {t.kind for t in things}]
        things[which] = replace(thing, kind=dice.choice(others))
    elif len(things) == 2 and dice.random() < 0.6:
        things = [Thing(things[0].kind, things[1].colour), Thing(things[1].kind, things[0].colour)]
    else:
        things[which] = replace(thing, colour=dice.choice(COLOURS))
    return replace(scene, things=tuple(things))


def _held_out(scene: Scene) -> bool:
    return any((thing.colour, thing.kind) in NEVER_TRAINED for thing in scene.things)


def flipped(scene: Scene) -> Scene:
    """The scene that this one's picture shows when left and right are exchanged."""
    return replace(scene, things=scene.things[::-1])


def render(scenes: Sequence[Scene], side: int) -> np.ndarray:
    """The scenes' pictures, squashed to squares: uint8 [scenes, side, side, 3]."""
    pictures = np.empty((len(scenes), side, side, 3), np.uint8)
    for picture, scene in zip(pictures, scenes, strict=True):
        wide, high = proportions(scene)
        scale = _LONG_EDGE / max(wide, high)
        drawn = draw(scene, round(wide * scale), round(high * scale))
        picture[:] = np.asarray(drawn.resize((side, side), Image.Resampling.BICUBIC))
    return pictures


def training_pool(folder: Path, scenes: Sequence[Scene], side: int, shown: Shown) -> np.ndarray:
    """These scenes' pictures, uint8[scenes, side, side, 3], mapped from the file of an earlier run if there is one that
    the same code drew.

    Of several processes that want them at once, one draws, on all CPUs that it may use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = f"{side}-{len(scenes)}"
    path = folder / f"{kind}-{_code():08x}.npy"
    with filelock.FileLock(folder / f"{kind}.lock"):
        if not path.exists():
            for old in folder.glob(f"{kind}-*.npy"):  # each may be a gigabyte
                old.unlink()
            part = folder / f"{kind}.part"
            pool = np.lib.format.open_memmap(part, "w+", np.uint8, (len(scenes), side, side, 3))
            chunks = (scenes[start : start + 500] for start in range(0, len(scenes), 500))
            with ProcessPoolExecutor(imaging.cpus(), get_context("forkserver")) as drawers:
                drawn = itertools.chain.from_iterable(drawers.map(render, chunks, itertools.repeat(side)))
                for place, picture in enumerate(shown(drawn, len(scenes), "pictures drawn")):
                    pool[place] = picture
            pool.flush()
            part.rename(path)
    return np.load(path, mmap_mode="r")


def _code() -> int:
    """A number for the code that makes these pictures, another one when it changes."""
    files = [__file__, *map(inspect.getfile, (demo, draw_media, draw_places, draw_things))]
    return zlib.crc32(b"".join(Path(file).read_bytes() for file in files))
