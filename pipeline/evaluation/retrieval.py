"""Retrieval recall of the indexes of an archive: what its models find of each other's texts and pictures."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.builds import Build
from pipeline.evaluation.recall import INTERVAL, Shown, both_ways
from pipeline.evaluation.texts import Kind, Texts, gather
from pipeline.photo import UserError
from pipeline.search import Embedder

BATCH = 256  # texts embedded at a time
COLUMNS = ("row_id", "photo_id", "title", "human_captions")


@dataclass(frozen=True)
class Side:
    """A model, and its unit vectors of the photos, float32[n, dim]; `load` gives the model itself."""

    name: str
    identity: dict[str, Any]
    vectors: np.ndarray
    load: Callable[[], Embedder]


def evaluate(
    builds: Sequence[Build],
    load: Callable[[Build], Embedder],
    shown: Shown,
    *,
    kind: Kind = "auto",
    where: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """The documented JSON of `tintype evaluate`: what each build's model finds among the photos that all of them hold.

    `where` keeps photos, and `limit` so many of those, as `choose` does. Raises UserError.
    """
    photos = choose(builds[0], where, limit)
    row_ids = np.array([photo["row_id"] for photo in photos], np.int64)
    held = [held_by(build, row_ids) for build in builds]
    has = np.logical_and.reduce([there for _, there in held])
    kept = [photo for photo, there in zip(photos, has.tolist(), strict=True) if there]
    texts = gather(kept, kind)
    sides = [
        Side(build.card["of"], build.card["identity"], vectors[has], lambda build=build: load(build))  # type: ignore[misc]
        for build, (vectors, _) in zip(builds, held, strict=True)
    ]
    return measured(builds[0], sides, texts, shown) | {"where": where, "limit": limit}


def measured(build: Build, sides: Sequence[Side], texts: Texts, shown: Shown) -> dict[str, Any]:
    """What each side finds, and in what. Raises UserError where there is no text."""
    if not texts.texts:
        raise UserError(
            f"no photo of {build.archive.url} that is looked at has {_lacking(texts)}: there is nothing to find it by"
        )
    models = []
    for side in sides:
        embedded = embed_texts(side.load(), texts.texts, shown)
        identity = {"of": side.name, "model": side.identity["model"], "pretrained": side.identity.get("pretrained")}
        models.append(identity | both_ways(side.vectors, embedded, texts.pairs, shown))
    return {
        "archive": build.archive.url,
        "photos": len(sides[0].vectors),
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
