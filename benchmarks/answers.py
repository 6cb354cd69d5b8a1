"""Are the answers right? Search, captions, arithmetic and labels, on the demo archive and on scenes never seen.

    python benchmarks/answers.py [--archive archives/demo] [--scenes 300] [--json]

Everything goes the way a user's search goes: through the archive, its index, and the model stored in it. Without an
archive it makes one, as `tintype demo` does.
"""

import argparse
import io
import itertools
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline import builds, imaging, search
from pipeline.demo.scenes import (
    COLOURS,
    MEDIA,
    NEVER_TRAINED,
    OBJECTS,
    PLACES,
    Scene,
    draw,
    proportions,
    random_scene,
    shows_colour,
    with_article,
)
from pipeline.demo.show import make
from pipeline.models import store
from pipeline.models.coca import Captioner
from pipeline.models.labels import Labeller
from pipeline.models.openclip import Model
from pipeline.models.settings import TEMPLATES, Generation, LabelSettings
from pipeline.progress import Progress
from pipeline.search import Query

FIRST_UNSEEN = 500_000  # seeds of scenes that no training drew and the archive does not hold
SIZE = 500  # pixels of their long edge, as Flickr's medium size
GOALS = {"precision@5": 0.90, "captions": 0.90, "arithmetic": 0.80, "zero-shot top-1": 0.90}


def titles(build: builds.Build) -> dict[str, str]:
    """Photo id → title of all photos in the build."""
    rows = build.database.cursor().execute("SELECT photo_id, title FROM photos").fetchall()
    return {photo_id: title for photo_id, title in rows if title}


def named(pair: tuple[str, str], title: str) -> bool:
    """Whether a title names this colour of this object, in whole words."""
    return re.search(rf"\b{pair[0]} {pair[1]}\b", title, re.IGNORECASE) is not None


def precision(build: builds.Build, model: Model) -> dict[str, float]:
    """Of the first 5 hits for `a <colour> <object>`, or as many as there are, the share whose title names it."""
    known = titles(build)
    pairs = [(colour, kind) for colour in COLOURS for kind in OBJECTS]
    there = {pair: sum(named(pair, title) for title in known.values()) for pair in pairs}
    asked = [pair for pair in pairs if there[pair]]
    answers = search.search_many(
        build, [Query(text=with_article(" ".join(pair)), k=5) for pair in asked], lambda: model
    )
    shares = {}
    for pair, answer in zip(asked, answers, strict=True):
        first = answer.hits[: min(5, there[pair])]
        shares[pair] = sum(named(pair, hit.title or "") for hit in first) / len(first)
    return {
        "precision@5": float(np.mean(list(shares.values()))),
        "precision@5, trained pairs": float(np.mean([s for pair, s in shares.items() if pair not in NEVER_TRAINED])),
        "precision@5, never-trained pairs": float(np.mean([s for pair, s in shares.items() if pair in NEVER_TRAINED])),
    }


def arithmetic(build: builds.Build, model: Model) -> dict[str, float]:
    """A photo of one thing + new colour − its colour: how often that thing in the new colour is among the first 5."""
    known = titles(build)
    pairs = {(colour, kind) for colour in COLOURS for kind in OBJECTS}
    shown = {photo_id: [pair for pair in pairs if named(pair, title)] for photo_id, title in known.items()}
    there = {pair for found in shown.values() for pair in found}
    queries, wanted = [], []
    for photo_id, found in sorted(shown.items()):
        if len(found) == 1 and " and " not in known[photo_id]:
            [(colour, kind)] = found
            swaps = [(new, kind) for new in COLOURS if new != colour and (new, kind) in there]
            queries += [Query(image=photo_id, plus=new, minus=colour, k=5) for new, _ in swaps]
            wanted += swaps
    answers = search.search_many(build, queries, lambda: model)
    right = [any(named(pair, hit.title or "") for hit in a.hits) for pair, a in zip(wanted, answers, strict=True)]
    return {"arithmetic": float(np.mean(right))}


def said(text: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """The things with their colours, the places and the media that a caption names."""
    kinds = "|".join(sorted(OBJECTS, key=len, reverse=True))
    things = re.findall(rf"\b(?:(?:{'|'.join(COLOURS)}) )?(?:{kinds})\b", text)
    return frozenset(things), frozenset(p for p in PLACES if p in text), frozenset(m for m in MEDIA if m in text)


def truth(scene: Scene) -> tuple[frozenset[str], frozenset[str]]:
    colour = shows_colour(scene.medium)
    return frozenset(f"{t.colour} {t.kind}" if colour else t.kind for t in scene.things), frozenset({scene.place})


def captions(model: Model, scenes: int) -> dict[str, float]:
    """Captions of unseen scenes that name just their objects, colours (where the medium shows them) and place."""
    right: dict[Generation, list[bool]] = {kind: [] for kind in get_args(Generation)}
    captioners = {kind: Captioner(model, kind) for kind in right}
    for first in range(0, scenes, 50):
        batch = [random_scene(FIRST_UNSEEN + seed) for seed in range(first, min(first + 50, scenes))]
        pixels = np.stack([model.preprocess(imaging.decode(picture(scene), max_pixels=1 << 30)) for scene in batch])
        vectors, tokens = model.encode(pixels)
        assert tokens is not None
        for kind, captioner in captioners.items():
            for scene, caption in zip(batch, captioner.caption_tokens(tokens, vectors), strict=True):
                things, places, _ = said(caption.text)
                right[kind].append((things, places) == truth(scene))
    shares = {f"captions, {kind}": float(np.mean(given)) for kind, given in right.items()}
    return {"captions": shares.pop("captions, beam")} | shares


def zero_shot(model: Model, scenes: int) -> dict[str, float]:
    """Unseen scenes of a single thing of which the likeliest label names it, by one template and by CLIP's first."""
    single = (scene for scene in map(random_scene, itertools.count(FIRST_UNSEEN)) if len(scene.things) == 1)
    chosen = list(itertools.islice(single, scenes))
    pixels = [model.preprocess(imaging.decode(picture(scene), max_pixels=1 << 30, side=model.side)) for scene in chosen]
    vectors, shown = model.embed_images(np.stack(pixels)), [scene.things[0].kind for scene in chosen]
    right = {}
    for name, template in {"zero-shot top-1": "a {}", "zero-shot top-1, a photo of": TEMPLATES[0]}.items():
        labeller = Labeller(model, LabelSettings("demo", OBJECTS, templates=(template,), top=1))
        given = labeller.label(vectors)
        right[name] = float(np.mean([label.label == kind for [label], kind in zip(given, shown, strict=True)]))
    return right


def picture(scene: Scene) -> bytes:
    """A scene as the image host serves it: a JPEG file."""
    across, down = proportions(scene)
    size = (round(SIZE * across / max(across, down)), round(SIZE * down / max(across, down)))
    file = io.BytesIO()
    draw(scene, *size).save(file, "JPEG", quality=88)
    return file.getvalue()


def measure(archive: str, scenes: int) -> dict[str, float]:
    build = builds.open_build(archive)
    made = build.card["identity"]
    model = store.load(archive, made["model"], made["pretrained"], made["checkpoint_sha256"], precision="fp32")
    return precision(build, model) | arithmetic(build, model) | captions(model, scenes) | zero_shot(model, scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", default="archives/demo")
    parser.add_argument("--scenes", type=int, default=300, help="unseen scenes to caption, and to label")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    given = parser.parse_args()
    if (Path(given.archive) / "archive.json").exists():
        figures = measure(given.archive, given.scenes)
    else:
        with tempfile.TemporaryDirectory() as folder, Progress(Console(stderr=True)) as progress:
            make(folder + "/demo", progress, runner="local")
            figures = measure(folder + "/demo", given.scenes)
    report(figures, given.json)


def report(figures: dict[str, float], as_json: bool) -> None:
    holds = all(figures[name] >= goal for name, goal in GOALS.items())
    if not as_json:
        table = Table("figure", "value", "goal", box=None, pad_edge=False)
        for name, value in figures.items():
            table.add_row(name, f"{value:.3f}", f"≥ {GOALS[name]:.2f}" if name in GOALS else "")
        Console(width=100).print(table)
    shown: dict[str, Any] = {
        name: {"value": round(value, 4), "goal": GOALS.get(name), "unit": "share"} for name, value in figures.items()
    }
    print(json.dumps({"benchmark": "answers", "figures": shown, "holds": holds}, ensure_ascii=False), file=sys.stdout)


if __name__ == "__main__":
    main()
