"""Two models on the same pictures and texts: the matrix of their cosines, and what each finds in an archive."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline import builds, imaging, storage
from pipeline.builds import Build
from pipeline.evaluation import retrieval
from pipeline.evaluation.recall import Shown
from pipeline.evaluation.retrieval import Side, Vectors
from pipeline.evaluation.texts import folded, own_text
from pipeline.models.settings import EmbeddingSettings
from pipeline.photo import UserError
from pipeline.search import MAX_PICTURE_PIXELS, Embedder, read_picture

BATCH = 32  # pictures embedded at a time
SHOWN = 6  # photos, unless told otherwise
MOST = 100  # of them: nobody looks at a larger matrix
THUMBNAIL = 160  # pixels, long edge
LIMIT = 1000  # photos of an archive that a model from outside it embeds, unless told otherwise
FOLDERS = ("local-dir:", "hf-hub:")
FACTS = ("photo_id", "title", "human_captions", "owner", "license_name", "license_url", "page_url")


@dataclass(frozen=True)
class Picture:
    """A picture to compare: `name`, what people wrote of it, and what is known of a photo of the archive.

    `image` is no larger than the models need.
    """

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

    def vectors(row_ids: np.ndarray) -> Vectors:
        assert build is not None
        return embed_photos(build, row_ids, loaded(), shown)

    return Side(name, vectors, loaded, embeds=True)


def embed_photos(build: Build, row_ids: np.ndarray, model: Embedder, shown: Shown) -> Vectors:
    """The vectors that another model gives of photos, from the pictures that the archive holds."""
    images = build.archive.table("images")
    vectors: list[np.ndarray] = []
    has: list[bool] = []
    problems: Counter[str] = Counter()
    starts = range(0, len(row_ids), BATCH)
    for start in shown(starts, len(starts), "batches of pictures"):
        rows = images.read_rows(row_ids[start : start + BATCH].tolist(), ["row_id", "image"])["image"].to_pylist()
        pixels = []
        for row in rows:
            try:
                pixels.append(model.preprocess(_stored(row, model.side)))
            except imaging.BadImage as error:
                has.append(False)
                problems[error.reason] += 1
            else:
                has.append(True)
        if pixels:
            vectors.append(model.embed_images(np.stack(pixels)))
    held = np.array(has)
    found = np.zeros((len(row_ids), vectors[0].shape[1] if vectors else 1), np.float32)
    if vectors:
        found[held] = np.concatenate(vectors)
    finite = np.isfinite(found).all(axis=1)
    found[~finite] = 0
    problems["non_finite"] = int((~finite).sum())
    return found, held & finite, dict(+problems)


def _stored(row: Mapping[str, Any] | None, side: int) -> Image.Image:
    """A picture of the archive, `image` of its row: fetch has decoded these bytes and found them fit, however many
    pixels they have. Raises BadImage."""
    if row is None:
        raise imaging.BadImage("no_picture", "it is there no more; `tintype index CONF` renews the index")
    return imaging.decode(row["bytes"], max_pixels=imaging.PILLOW_CEILING, side=side)


def _side(sides: Sequence[Side]) -> int:
    """The short side of a picture that is large enough for all models, and to be looked at."""
    return max(THUMBNAIL, *(one.load().side for one in sides))


def from_archive(build: Build, photo_ids: Sequence[str], sides: Sequence[Side]) -> list[Picture]:
    """Photos of a build as pictures for these models, in this order.

    Raises UserError for one that it does not hold, or no longer, or that cannot be decoded.
    """
    held, hidden = build.row_ids(photo_ids), build.news().hidden
    missing = [photo_id for photo_id in photo_ids if held.get(photo_id) is None or held[photo_id] in hidden]
    if missing:
        raise UserError(f"the index of {build.card['of']} does not hold {', '.join(missing)}")
    row_ids = [held[photo_id] for photo_id in photo_ids]
    facts, images = build.facts(row_ids, FACTS), build.archive.table("images")
    found: list[Picture] = []
    for start in range(0, len(row_ids), BATCH):
        some = row_ids[start : start + BATCH]
        rows = images.read_rows(some, ["row_id", "image"])["image"].to_pylist()
        for row_id, row in zip(some, rows, strict=True):
            photo = facts[row_id]
            try:
                found.append(Picture(photo["photo_id"], _stored(row, _side(sides)), own_text(photo), photo))
            except imaging.BadImage as error:
                said = f"{photo['photo_id']} has no usable picture ({error.reason}: {error})"
                raise UserError(f"{said}; `tintype verify` says what mends it") from error
    return found


def sample(build: Build, n: int) -> list[str]:
    """Ids of n photos that people wrote something of, no two the same: always the same ones, as good as chance."""
    found: dict[str, str] = {}
    looked_at, limit = 0, 16 * n
    while len(found) < n:
        photos = retrieval.drawn(build, limit)
        for photo in photos[looked_at:]:
            text = own_text(photo)
            if text is not None and len(found) < n:
                found.setdefault(folded(text), photo["photo_id"])
        if len(photos) < limit:
            break
        looked_at, limit = limit, 16 * limit
    if not found:
        raise UserError(f"nobody wrote anything of the photos of {build.archive.url}: give --photos and --text")
    return list(found.values())


def from_files(names: Sequence[str], sides: Sequence[Side]) -> list[Picture]:
    """Pictures in files or at http(s) URLs, for these models. Raises UserError."""
    found = []
    for name in names:
        data = read_picture(name)
        try:
            image = imaging.decode(data, max_pixels=MAX_PICTURE_PIXELS, side=_side(sides))
            found.append(Picture(name, image))
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
    pictures: Sequence[Picture],
    texts: Sequence[str],
    sides: Sequence[Side],
    recall: Mapping[str, Any] | None,
    shown: Shown,
) -> dict[str, Any]:
    """The documented JSON of `tintype compare`; `recall` as from `retrieval.evaluate`.

    Raises UserError where a model has no vector of one of them.
    """
    models = []
    for one in sides:
        model = one.load()
        cosines = retrieval.embed_texts(model, texts, shown) @ _embedded(model, pictures, shown).T
        rows = [[round(value, 6) for value in row] for row in cosines.tolist()]
        name = retrieval.model_name(model)
        models.append({"of": one.name, "model": name, "cosines": rows, "diagonal": diagonal(cosines)})
    return {
        "texts": list(texts),
        "pictures": [picture.name for picture in pictures],
        "models": models,
        "recall": recall,
    }


def _embedded(model: Embedder, pictures: Sequence[Picture], shown: Shown) -> np.ndarray:
    """Unit vectors of pictures, float32[n, dim]. Raises UserError where the model has none of one of them."""
    found = []
    starts = range(0, len(pictures), BATCH)
    for start in shown(starts, len(starts), "batches of pictures"):
        pixels = [model.preprocess(picture.image) for picture in pictures[start : start + BATCH]]
        found.append(model.embed_images(np.stack(pixels)))
    vectors = np.concatenate(found)
    retrieval.check_finite(vectors, model, [picture.name for picture in pictures])
    return vectors


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
