"""A small archive, pictures, vectors and captions in it, for tests of what is built on top of them."""

import hashlib
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import schemas
from pipeline.archive import Archive
from pipeline.stages import fill, index, measure

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)
DIM = 16
CLASSES = ["boat", "tent", "hill"]
INDEX_FILES = ("index.faiss", "vectors.npy", "row_ids.npy")  # those of any kind
IDENTITY = {"model": "test-model", "pretrained": None, "checkpoint_sha256": "ab" * 32, "dim": DIM}


def unit(vectors: Any) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def random_vectors(n: int, seed: int = 0) -> np.ndarray:
    """n unit vectors as a table keeps them: float16[n, DIM]."""
    return unit(np.random.default_rng(seed).standard_normal((n, DIM))).astype(np.float16)


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (120, 80)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


def photo(photo_id: str, **facts: Any) -> dict[str, Any]:
    """A row of photos, its row id apart."""
    row = {
        "photo_id": photo_id,
        "source": "flickr:somebody",
        "title": f"title of {photo_id}",
        "tags": ["a tag"],
        "date_taken": "1910-06-03",
        "date_granularity": "day",
        "owner": "Somebody",
        "page_url": f"https://www.flickr.com/photos/somebody/{photo_id.partition(':')[2]}",
        "license_id": "7",
        "license_name": "No known copyright restrictions",
        "license_url": "https://www.flickr.com/commons/usage/",
        "rights_observed_at": MOMENT,
        "media": "photo",
        "attempt": 1,
        "listed_at": MOMENT,
    }
    return row | facts


def add_pictures(
    archive: Archive, part: int, photos: list[dict[str, Any]], outcomes: dict[str, str] | None = None
) -> None:
    """Write a part of photos and images; `outcomes` by photo id, "fetched" where it says nothing."""
    row_ids = schemas.row_ids(part, len(photos)).to_pylist()
    rows, images = [], []
    for row_id, facts in zip(row_ids, photos, strict=True):
        rows.append(facts | {"row_id": row_id})
        outcome = (outcomes or {}).get(facts["photo_id"], "fetched")
        image: dict[str, Any] = {"row_id": row_id, "photo_id": facts["photo_id"], "outcome": outcome}
        if outcome == "fetched":
            data = jpeg((row_id % 256, part * 40 % 256, 90))
            image |= {"image": {"bytes": data, "path": None}, "format": "jpeg", "width": 120, "height": 80}
            image |= {"store": "original", "source_url": f"https://host/{row_id}.jpg", "fetched_at": MOMENT}
            image |= {"source_size": len(data), "source_sha256": hashlib.sha256(data).hexdigest()}
        images.append(image)
    assert archive.table("photos").write(part, [pa.Table.from_pylist(rows, schemas.PHOTOS)], {}, schemas.PHOTOS)
    receipt = made_of(archive, "photos", part)
    assert archive.table("images").write(part, [pa.Table.from_pylist(images, schemas.IMAGES)], receipt, schemas.IMAGES)


def made_of(archive: Archive, name: str, part: int) -> dict[str, Any]:
    """The receipt of a part that was made of this one."""
    return {"source_write_id": archive.table(name).receipt(part)["write_id"]}


def add_vectors(archive: Archive, part: int, vectors: list[Any], name: str = "tiny") -> None:
    """Write a part of embeddings/<name>; None stands for a vector that was not finite."""
    table = archive.table(f"embeddings/{name}")
    table.claim(IDENTITY)
    schema = schemas.embeddings(DIM)
    ids = archive.table("photos").read(part, ["row_id", "photo_id"])
    rows = [
        {"embedding": vector, "problem": None if vector is not None else "non_finite", **key}
        for vector, key in zip(vectors, ids.to_pylist(), strict=True)
    ]
    assert table.write(part, [pa.Table.from_pylist(rows, schema)], made_of(archive, "images", part), schema)


def add_captions(archive: Archive, part: int, name: str = "tiny") -> None:
    """Write a part of captions/<name>: "caption of <photo id>"."""
    table = archive.table(f"captions/{name}")
    table.claim({"model": "test-captioner"})
    rows = [
        {**key, "caption": f"caption of {key['photo_id']}", "logprob": -1.5, "cosine": 0.25, "model": "test-captioner"}
        for key in archive.table("photos").read(part, ["row_id", "photo_id"]).to_pylist()
    ]
    receipt = made_of(archive, "images", part)
    assert table.write(part, [pa.Table.from_pylist(rows, schemas.CAPTIONS)], receipt, schemas.CAPTIONS)


def add_labels(archive: Archive, part: int, name: str = "tiny", top: int = 2) -> None:
    """Write a part of labels/<name>: a part's photos are boats, tents or hills in turn, with a probability of 0.75."""
    table = archive.table(f"labels/{name}")
    table.claim({"model": "test-labeller", "classes": CLASSES, "templates": ["a {}"], "top": top})
    rows = []
    for number, key in enumerate(archive.table("photos").read(part, ["row_id", "photo_id"]).to_pylist()):
        best = [CLASSES[(number + place) % len(CLASSES)] for place in range(top)]
        labels = [{"label": label, "probability": share} for label, share in zip(best, (0.75, 0.125), strict=True)]
        rows.append({**key, "labels": labels, "model": "test-labeller"})
    receipt = made_of(archive, "images", part)
    assert table.write(part, [pa.Table.from_pylist(rows, schemas.LABELS)], receipt, schemas.LABELS)


QUERIES = ["bicycle", "horse-drawn carriage", "<b>"]


def add_objects(archive: Archive, part: int, name: str = "tiny") -> None:
    """Write a part of objects/<name>: every second photo shows a bicycle on the left, every fourth a carriage too."""
    table = archive.table(f"objects/{name}")
    table.claim({"model": "test-detector", "queries": QUERIES, "template": "a {}", "threshold": 0.25, "top": 3})
    bicycle = {"label": "bicycle", "score": 0.75, "x0": 0.0, "y0": 0.25, "x1": 0.5, "y1": 1.0}
    carriage = {"label": "horse-drawn carriage", "score": 0.5, "x0": 0.25, "y0": 0.25, "x1": 0.5, "y1": 0.5}
    rows = []
    for number, key in enumerate(archive.table("photos").read(part, ["row_id", "photo_id"]).to_pylist()):
        found = [bicycle][: number % 2 == 0] + [carriage][: number % 4 == 0]
        rows.append({**key, "objects": found, "model": "test-detector"})
    receipt = made_of(archive, "images", part)
    assert table.write(part, [pa.Table.from_pylist(rows, schemas.OBJECTS)], receipt, schemas.OBJECTS)


def forget(archive: Archive, photo_id: str) -> None:
    row = {"row_id": 0, "photo_id": photo_id, "forgotten_at": MOMENT, "reason": "asked"}
    archive.table("forgotten").append(
        lambda part: pa.Table.from_pylist([row], schemas.FORGOTTEN), {}, schemas.FORGOTTEN
    )


def change(archive: Archive, photo_id: str, field: str, value: str, by: str = "source", days: float = 1) -> None:
    """`days`: how long after the photo was listed."""
    at = MOMENT + timedelta(days=days)
    row = {"row_id": 0, "photo_id": photo_id, "field": field, "value": value, "observed_at": at, "by": by}
    archive.table("changes").append(lambda part: pa.Table.from_pylist([row], schemas.CHANGES), {}, schemas.CHANGES)


def small_numbers(patch: pytest.MonkeyPatch) -> None:
    """Have any build grow, blocks be of a part or two, and recall be measured with few queries."""
    patch.setattr(index, "GROWS", 1)
    patch.setattr(fill, "BLOCK_BYTES", 4 * DIM * 100)
    patch.setattr(measure, "QUERIES", {"rows": 40, "texts": 5})
    patch.setattr(measure, "TIMED", 10)


def make(url: str, parts: int = 3, rows: int = 20) -> tuple[Archive, dict[str, np.ndarray]]:
    """An archive of whole parts, photos flickr:<part>-<row>, and the vector of each photo id, float16[DIM]."""
    archive = Archive.create(url)
    stored = {}
    for part in range(parts):
        vectors = random_vectors(rows, seed=part)
        ids = [f"flickr:{part}-{row}" for row in range(rows)]
        add_pictures(archive, part, [photo(photo_id) for photo_id in ids])
        add_vectors(archive, part, list(vectors))
        add_captions(archive, part)
        stored |= dict(zip(ids, vectors, strict=True))
    return archive, stored
