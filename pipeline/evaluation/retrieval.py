"""Retrieval recall of the indexes of an archive: what its models find of each other's texts and pictures."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.builds import Build
from pipeline.evaluation.recall import INTERVAL, TEST, Ranks, Shown, both_ways, difference, figures
from pipeline.evaluation.texts import Kind, Texts, gather
from pipeline.facts import reading
from pipeline.models.settings import named
from pipeline.photo import UserError
from pipeline.search import Embedder

BATCH = 256  # texts embedded at a time
COLUMNS = ("row_id", "photo_id", "title", "human_captions")


# As good as chance, and the same photos whenever it is asked.
BY_CHANCE = "ORDER BY sha256(photo_id) LIMIT"

# Of photos, by row ids int64[n]: unit vectors float32[n, dim], whether there is one, bool[n], and why not, counted.
Vectors = tuple[np.ndarray, np.ndarray, Mapping[str, int]]


class NoTexts(UserError):
    """Nobody wrote anything of the photos."""


@dataclass(frozen=True)
class Side:
    """A model that is measured.

    `vectors` gives those of photos, `load` the model itself, for texts.
    """

    name: str
    vectors: Callable[[np.ndarray], Vectors]
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
    """The documented JSON of `tintype evaluate`: what each model finds among the photos that all have vectors of, and
    by how much each differs from the first.

    `where` keeps photos of the build, and `limit` so many of those, as `choose` does. Raises UserError, NoTexts where
    there is no text to find a photo by.
    """
    photos = choose(build, where, limit)
    row_ids = np.array([photo["row_id"] for photo in photos], np.int64)
    held = [side.vectors(row_ids) for side in sides]
    has = np.logical_and.reduce([there for _, there, _ in held])
    if not has.any():
        lacking = "; ".join(f"{side.name}: {counted(why)}" for side, (*_, why) in zip(sides, held, strict=True) if why)
        raise UserError(f"none of {len(photos)} photos has a vector of every model ({lacking})")
    texts = gather([photo for photo, there in zip(photos, has.tolist(), strict=True) if there], kind)
    if not texts.texts:
        raise NoTexts(f"no photo of {build.archive.url} that is looked at has {_lacking(texts)}: nothing can find it")
    models, asked = [], list[dict[str, Ranks]]()
    for side, (vectors, _, why) in zip(sides, held, strict=True):
        model = side.load()
        embedded = embed_texts(model, texts.texts, shown)
        asked.append(both_ways(vectors[has], embedded, texts.pairs, shown))
        found = {way: figures(*ranks) for way, ranks in asked[-1].items()}
        models.append({"of": side.name, "model": model_name(model), "without_vectors": dict(why), **found})
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
        "test": TEST,
        "differences": [
            {
                "from": sides[0].name,
                "of": side.name,
                **{way: difference(asked[0][way], ranks) for way, ranks in found.items()},
            }
            for side, found in zip(sides[1:], asked[1:], strict=True)
        ],
    }


def model_name(model: Embedder) -> str:
    """ "ViT-B-32 / laion2b_s34b_b79k"."""
    identity = model.identity()
    return named(identity["model"], identity["pretrained"])


def _lacking(texts: Texts) -> str:
    if texts.kind == "captions":
        return "a caption that a person wrote (--texts titles looks for titles)"
    return "a caption that a person wrote, or a title that is no file name"


def counted(why: Mapping[str, int]) -> str:
    """ "truncated 2, non_finite 1"."""
    return ", ".join(f"{reason} {number:,}" for reason, number in why.items())


def choose(build: Build, where: str | None = None, limit: int | None = None) -> list[dict[str, Any]]:
    """The live photos of a build, by row id: those that `where` keeps, of these `limit`, always the same.

    Which these are, hashes of the photos' ids say. Raises UserError where none is left.
    """
    photos = drawn(build, limit, where)
    if not photos:
        raise UserError(f"--where {where!r} keeps no photo" if where else f"the index of {build.card['of']} is empty")
    return sorted(photos, key=lambda photo: int(photo["row_id"]))


def drawn(build: Build, limit: int | None, where: str | None = None) -> list[dict[str, Any]]:
    """So many live photos of a build that `where` keeps, or all, in the order of hashes of their ids if there is a
    limit. Raises UserError."""
    cursor = build.database.cursor()
    sql = f"SELECT {', '.join(COLUMNS)} FROM photos WHERE row_id NOT IN (SELECT unnest(?::BIGINT[]))"
    if where is not None:
        cursor.register("kept", pa.table({"row_id": build.matching(where)}))
        sql += " AND row_id IN (SELECT row_id FROM kept)"
    if limit is not None:
        sql += f" {BY_CHANCE} {limit}"
    hidden = sorted(build.news().hidden)
    with reading(build.folders[-1]):
        rows = cursor.execute(sql, [hidden]).fetchall()
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def held_by(build: Build, row_ids: np.ndarray) -> Vectors:
    """The vectors that a build has of photos; it need not hold all."""
    known = np.isin(row_ids, build.photos(["row_id"])["row_id"].to_numpy())
    vectors, has = np.zeros((len(row_ids), build.card["dim"]), np.float32), np.zeros(len(row_ids), bool)
    vectors[known], has[known] = build.vectors(row_ids[known])
    without = {"not_indexed": int((~known).sum()), "no_vector": int((known & ~has).sum())}
    return vectors, has, {reason: number for reason, number in without.items() if number}


def embed_texts(model: Embedder, texts: Sequence[str], shown: Shown) -> np.ndarray:
    """Unit vectors of n ≥ 1 texts, float32[n, dim]. Raises UserError where the model has none of one of them."""
    batches = [list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    found = np.concatenate([model.embed_texts(batch) for batch in shown(batches, len(batches), "batches of texts")])
    check_finite(found, model, texts)
    return found


def check_finite(vectors: np.ndarray, model: Embedder, what: Sequence[str]) -> None:
    """Raises UserError where a model gave what is no vector: nothing could be said of it but that it is damaged."""
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    if wrong:
        raise UserError(
            f"{model_name(model)} gives no finite vector of {len(wrong)} of {len(what)}, such as {what[wrong[0]]!r}: "
            "its weights are damaged, or do not work at this precision"
        )
