"""Retrieval recall of the indexes of an archive: what its models find of each other's texts and pictures."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.builds import Build
from pipeline.evaluation.recall import INTERVAL, Shown, both_ways
from pipeline.evaluation.texts import Kind, Texts, gather
from pipeline.models.settings import named
from pipeline.photo import UserError
from pipeline.search import Embedder

BATCH = 256  # texts embedded at a time
COLUMNS = ("row_id", "photo_id", "title", "human_captions")


class NoTexts(UserError):
    """Nobody wrote anything of the photos."""


@dataclass(frozen=True)
class Side:
    """A model that is measured.

    `vectors` gives, for row ids of photos, int64[n], their unit vectors float32[n, dim] and whether there is one,
    bool[n]; `load` gives the model itself, for texts.
    """

    name: str
    vectors: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    load: Callable[[], Embedder]
    embeds: bool = False  # whether it has yet to embed the photos it is asked for


def indexed(build: Build, load: Callable[[Build], Embedder]) -> Side:
    """The model of an index, with the vectors that are in it."""
    return Side(build.card["of"], functools.partial(held_by, build), functools.cache(lambda: load(build)))


def evaluate(
    build: Build,
    sides: Sequence[Side],
    shown: Shown,
    *,
    kind: Kind = "auto",
    where: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """The documented JSON of `tintype evaluate`: what each model finds among the photos that all have vectors of.

    `where` keeps photos of the build, and `limit` so many of those, as `choose` does. Raises UserError, NoTexts where
    there is no text to find a photo by.
    """
    photos = choose(build, where, limit)
    row_ids = np.array([photo["row_id"] for photo in photos], np.int64)
    held = [side.vectors(row_ids) for side in sides]
    has = np.logical_and.reduce([there for _, there in held])
    texts = gather([photo for photo, there in zip(photos, has.tolist(), strict=True) if there], kind)
    if not texts.texts:
        raise NoTexts(f"no photo of {build.archive.url} that is looked at has {_lacking(texts)}: nothing can find it")
    models = []
    for side, (vectors, _) in zip(sides, held, strict=True):
        model = side.load()
        embedded = embed_texts(model, texts.texts, shown)
        found = both_ways(vectors[has], embedded, texts.pairs, shown)
        models.append({"of": side.name, "model": model_name(model), **found})
    return {
        "archive": build.archive.url,
        "photos": int(has.sum()),
        "without_vectors": int((~has).sum()),
        "where": where,
        "limit": limit,
        "texts": {
            "kind": texts.kind,
            "number": len(texts.texts),
            "of_photos": texts.photos,
            "shared": texts.shared,
            "left_out": dict(texts.left_out),
        },
        "interval": INTERVAL,
        "models": models,
    }


def model_name(model: Embedder) -> str:
    """ "ViT-B-32 / laion2b_s34b_b79k"."""
    identity = model.identity()
    return named(identity["model"], identity["pretrained"])


def _lacking(texts: Texts) -> str:
    if texts.kind == "captions":
        return "a caption that a person wrote (--texts titles looks for titles)"
    return "a caption that a person wrote, or a title that is no file name"


def choose(build: Build, where: str | None = None, limit: int | None = None) -> list[dict[str, Any]]:
    """The live photos of a build, by row id: those that `where` keeps, of these `limit`, always the same.

    Which these are, hashes of the photos' ids say. Raises UserError where none is left.
    """
    among = None if where is None else np.sort(build.matching(where))
    hidden = build.news().hidden
    photos = [row for row in build.photos(COLUMNS, among).to_pylist() if row["row_id"] not in hidden]
    if not photos:
        raise UserError(f"--where {where!r} keeps no photo" if where else f"the index of {build.card['of']} is empty")
    if limit is not None and limit < len(photos):
        photos = sorted(sorted(photos, key=by_chance)[:limit], key=lambda photo: int(photo["row_id"]))
    return photos


def by_chance(photo: dict[str, Any]) -> bytes:
    """A key that sorts photos in an order that is as good as chance, and always the same."""
    return hashlib.sha256(photo["photo_id"].encode()).digest()


def held_by(build: Build, row_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `Build.vectors`, for rows that the build need not hold."""
    known = np.isin(row_ids, build.photos(["row_id"])["row_id"].to_numpy())
    vectors, has = np.zeros((len(row_ids), build.card["dim"]), np.float32), np.zeros(len(row_ids), bool)
    vectors[known], has[known] = build.vectors(row_ids[known])
    return vectors, has


def embed_texts(model: Embedder, texts: Sequence[str], shown: Shown) -> np.ndarray:
    """Unit vectors of n ≥ 1 texts, float32[n, dim]."""
    batches = [list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    return np.concatenate([model.embed_texts(batch) for batch in shown(batches, len(batches), "batches of texts")])
