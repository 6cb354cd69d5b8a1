"""Two models on the same pictures and texts: the matrix of their cosines, and what each finds in an archive."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline import builds, imaging, storage
from pipeline.builds import Build
from pipeline.evaluation import retrieval
from pipeline.evaluation.recall import Shown
from pipeline.evaluation.retrieval import Side
from pipeline.evaluation.texts import folded, own_text
from pipeline.models.settings import EmbeddingSettings
from pipeline.photo import UserError
from pipeline.search import MAX_PICTURE_PIXELS, Embedder, read_picture

BATCH = 32  # pictures embedded at a time
LIMIT = 1000  # photos of an archive that a model from outside it embeds, unless told otherwise
FOLDERS = ("local-dir:", "hf-hub:")
FACTS = ("photo_id", "title", "human_captions", "owner", "license_name", "license_url", "page_url")


@dataclass(frozen=True)
class Picture:
    """A picture to compare: `name`, what people wrote of it, and what is known of a photo of the archive."""

    name: str
    image: Image.Image
    text: str | None = None
    facts: Mapping[str, Any] | None = None


def archive_build(url: str, names: Sequence[str]) -> Build:
    """The build whose photos are looked at: the first named that the archive has an index of, else any of its own."""
    indexed = storage.names(storage.join(url, "index"))
    return builds.open_build(url, next((name for name in names if name in indexed), next(iter(indexed), None)))


def side(name: str, build: Build | None, load: Callable[[Build], Embedder], shown: Shown) -> Side:
    """The model that a name stands for: an index of the archive, or MODEL/PRETRAINED or a folder. Raises UserError.

    `build`: any of the archive; None where there is none. A model from outside embeds the archive's pictures.
    """
    if build is not None:
        indexed = storage.names(storage.join(build.archive.url, "index"))
        if name in indexed:
            own = build if name == build.card["of"] else builds.open_build(build.archive.url, name)
            return retrieval.indexed(own, load)
        if "/" not in name and not name.startswith(FOLDERS):
            raise UserError(
                f"{build.archive.url} has no index of {name} (it has {', '.join(indexed)}): name one of these, or "
                "another model as MODEL/PRETRAINED or local-dir:PATH"
            )
    model, _, pretrained = (name, "", "") if name.startswith(FOLDERS) else name.partition("/")
    settings = EmbeddingSettings(model, pretrained or None)  # refuses those whose embedding is chance

    @functools.cache
    def loaded() -> Embedder:
        from pipeline.models import openclip

        return openclip.load(settings.model, settings.pretrained)

    def vectors(row_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert build is not None
        return embed_photos(build, row_ids, loaded(), shown)

    return Side(name, vectors, loaded, embeds=True)


def embed_photos(build: Build, row_ids: np.ndarray, model: Embedder, shown: Shown) -> tuple[np.ndarray, np.ndarray]:
    """As `Build.vectors`, by another model, from the pictures that the archive holds."""
    images = build.archive.table("images")
    vectors: list[np.ndarray] = []
    has: list[bool] = []
    starts = range(0, len(row_ids), BATCH)
    for start in shown(starts, len(starts), "batches of pictures"):
        rows = images.read_rows(row_ids[start : start + BATCH].tolist(), ["row_id", "image"])["image"].to_pylist()
        pixels = []
        for row in rows:
            try:
                pixels.append(model.preprocess(_decoded(row["bytes"], model.side)))
            except imaging.BadImage:  # counted: they have no vector
                has.append(False)
            else:
                has.append(True)
        if pixels:
            vectors.append(model.embed_images(np.stack(pixels)))
    held = np.array(has)
    found = np.zeros((len(row_ids), vectors[0].shape[1] if vectors else 1), np.float32)
    if vectors:
        found[held] = np.concatenate(vectors)
    return found, held


def _decoded(data: bytes, side: int | None = None) -> Image.Image:
    return imaging.decode(data, max_pixels=MAX_PICTURE_PIXELS, side=side)


def from_archive(build: Build, photo_ids: Sequence[str]) -> list[Picture]:
    """Photos of a build as pictures, in this order. Raises UserError for one that it does not hold, or no longer."""
    held, hidden = build.row_ids(photo_ids), build.news().hidden
    missing = [photo_id for photo_id in photo_ids if held.get(photo_id) is None or held[photo_id] in hidden]
    if missing:
        raise UserError(f"the index of {build.card['of']} does not hold {', '.join(missing)}")
    row_ids = [held[photo_id] for photo_id in photo_ids]
    facts = build.facts(row_ids, FACTS)
    rows = build.archive.table("images").read_rows(row_ids, ["row_id", "image"])["image"].to_pylist() if row_ids else []
    return [
        Picture(facts[row_id]["photo_id"], _decoded(row["bytes"]), own_text(facts[row_id]), facts[row_id])
        for row_id, row in zip(row_ids, rows, strict=True)
    ]


def sample(build: Build, n: int) -> list[str]:
    """Ids of n photos that people wrote something of, no two the same: always the same ones, as good as chance."""
    found: dict[str, str] = {}
    for photo in sorted(retrieval.choose(build), key=retrieval.by_chance):
        text = own_text(photo)
        if text is not None:
            found.setdefault(folded(text), photo["photo_id"])
        if len(found) == n:
            break
    if not found:
        raise UserError(f"nobody wrote anything of the photos of {build.archive.url}: give --photos and --text")
    return list(found.values())


def from_files(names: Sequence[str]) -> list[Picture]:
    """Pictures in files or at http(s) URLs. Raises UserError."""
    found = []
    for name in names:
        try:
            found.append(Picture(name, _decoded(read_picture(name))))
        except imaging.BadImage as error:
            raise UserError(f"{name} is not a usable picture ({error.reason}: {error})") from error
    return found


def texts_of(pictures: Sequence[Picture], texts: Sequence[str]) -> list[str]:
    """The texts to compare: those given, else the pictures' own. Raises UserError where a picture has none."""
    if texts:
        return list(texts)
    without = [picture.name for picture in pictures if picture.text is None]
    if without:
        raise UserError(f"nobody wrote anything of {', '.join(without)}: give a --text for each picture")
    return [str(picture.text) for picture in pictures]


def compare(
    pictures: Sequence[Picture], texts: Sequence[str], sides: Sequence[Side], recall: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The documented JSON of `tintype compare`; `recall` as from `retrieval.evaluate`."""
    models = []
    for one in sides:
        model = one.load()
        pixels = np.stack([model.preprocess(picture.image) for picture in pictures])
        cosines = model.embed_texts(list(texts)) @ model.embed_images(pixels).T
        rows = [[round(value, 6) for value in row] for row in cosines.tolist()]
        name = retrieval.model_name(model)
        models.append({"of": one.name, "model": name, "cosines": rows, "diagonal": diagonal(cosines)})
    return {
        "texts": list(texts),
        "pictures": [picture.name for picture in pictures],
        "models": models,
        "recall": recall,
    }


def diagonal(cosines: np.ndarray) -> dict[str, float] | None:
    """`{"mean", "others_mean", "margin_mean", "margin_least"}` of cosines of n texts with their pictures, float[n, n].

    A text's margin is its own picture's cosine less the best of the others'. None where the matrix has no diagonal.
    """
    n = len(cosines)
    if cosines.shape != (n, n) or n < 2:
        return None
    own, others = np.diagonal(cosines), ~np.eye(n, dtype=bool)
    margins = own - np.where(others, cosines, -np.inf).max(axis=1)
    figures = {"mean": own.mean(), "others_mean": cosines[others].mean()}
    figures |= {"margin_mean": margins.mean(), "margin_least": margins.min()}
    return {name: round(float(value), 6) for name, value in figures.items()}
