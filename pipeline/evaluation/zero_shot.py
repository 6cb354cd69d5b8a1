"""Zero-shot accuracy: how often a model tells what a picture shows, by texts alone (arXiv 2103.00020, section 3.1)."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline import imaging
from pipeline.evaluation.labelled import Labelled
from pipeline.evaluation.recall import Shown, interval
from pipeline.evaluation.retrieval import check_finite
from pipeline.models.labels import class_vectors
from pipeline.models.openclip import Model
from pipeline.models.settings import check_classes, check_templates
from pipeline.photo import UserError

BLOCK = 256  # pictures decoded together
MOST_PIXELS = 100_000_000
DEPTH = 5


def evaluate(
    data: str, found: Labelled, load: Callable[[], Model], templates: Sequence[str], shown: Shown
) -> dict[str, Any]:
    """The documented JSON of `tintype evaluate --zero-shot`; `data` is what it calls the pictures.

    `load` is called once it is known that there is something to ask. Raises UserError.
    """
    check_templates(templates)
    check_classes(found.names)
    model = load()
    classes = class_vectors(model, found.names, templates)
    check_finite(classes, model, found.names)
    best: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    unusable: Counter[str] = Counter()
    starts = range(0, len(found.truth), BLOCK)
    with ThreadPoolExecutor(imaging.cpus(), "decode") as pool:
        for start in shown(starts, len(starts), "blocks of pictures"):
            there = found.truth[start : start + BLOCK]
            made = list(pool.map(lambda picture: _pixels(model, picture), found.pictures[start : start + BLOCK]))
            unusable.update(pixels for pixels in made if isinstance(pixels, str))
            usable = [row for row, pixels in enumerate(made) if not isinstance(pixels, str)]
            if usable:
                vectors = model.embed_images(np.stack([made[row] for row in usable]))
                finite = np.isfinite(vectors).all(axis=1)
                unusable.update({"non_finite": n} if (n := int((~finite).sum())) else {})
                best.append(np.argsort(-(vectors[finite] @ classes.T), axis=1, kind="stable")[:, :DEPTH])
                truth.append(there[usable][finite])
    if not any(map(len, best)):
        raise UserError(f"none of the {len(found.truth)} files of {data} is a usable picture: {dict(unusable)}")
    identity = model.identity()
    return {
        "data": data,
        "model": identity["model"],
        "pretrained": identity["pretrained"],
        "templates": list(templates),
        "unusable": dict(unusable.most_common()),
        **figures(np.concatenate(best), np.concatenate(truth), found.names),
    }


def _pixels(model: Model, picture: Path | np.ndarray) -> np.ndarray | str:
    """A picture as the model takes it, uint8[side, side, 3], or why it is unusable."""
    if isinstance(picture, np.ndarray):
        return model.preprocess(Image.fromarray(picture))
    try:
        return model.preprocess(imaging.decode(picture.read_bytes(), max_pixels=MOST_PIXELS, side=model.side))
    except imaging.BadImage as error:
        return error.reason
    except OSError:
        return "unreadable"


def figures(best: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """What the guesses come to: `{"pictures", "classes", "top1", "top5", "mean_recall", "per_class", "confusion"}`.

    Top 5 is None where there are no more than five classes. `confusion` lists the wrong guesses, the most frequent
    first; what is right is in `per_class`.

    Args:
        best: int64[n, k], the likeliest classes of each picture, best first, n ≥ 1
        truth: int64[n], what it shows
    """
    right = best == truth[:, None]
    counts = confusion(best[:, 0], truth, len(names))
    per_class = list(_per_class(counts, names))
    recalls = [row["recall"] for row in per_class if row["recall"] is not None]
    wrong = [(int(counts[i, j]), i, j) for i, j in np.argwhere(counts).tolist() if i != j]
    return {
        "pictures": len(truth),
        "classes": len(names),
        "top1": _share(right[:, 0]),
        "top5": _share(right[:, :DEPTH].any(axis=1)) if len(names) > DEPTH else None,
        "mean_recall": round(float(np.mean(recalls)), 6),
        "per_class": per_class,
        "confusion": [
            {"class": names[i], "taken_for": names[j], "pictures": n}
            for n, i, j in sorted(wrong, key=lambda cell: (-cell[0], *cell[1:]))
        ],
    }


def confusion(guessed: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """int64[classes, classes]: how many pictures of a class (row) were taken for which (column)."""
    return np.bincount(truth * classes + guessed, minlength=classes**2).reshape(classes, classes)


def _share(right: np.ndarray) -> dict[str, float]:
    """The share of bool[n] that is true, with Wilson's 95 % confidence interval."""
    value, low, high = interval(right, np.arange(len(right)))
    return {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6)}


def _per_class(counts: np.ndarray, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The figures of each class, in their order; a share of nothing is None."""
    shown, guessed = counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()
    for number, name in enumerate(names):
        right, row = int(counts[number, number]), counts[number].copy()
        row[number] = 0
        other = int(row.argmax())
        yield {
            "class": name,
            "pictures": shown[number],
            "right": right,
            "precision": round(right / guessed[number], 6) if guessed[number] else None,
            "recall": round(right / shown[number], 6) if shown[number] else None,
            "taken_for": {"class": names[other], "pictures": int(row[other])} if row[other] else None,
        }
