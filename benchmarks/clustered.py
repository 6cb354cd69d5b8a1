"""Archives of many vectors, clustered as embeddings of photographs are, with facts and without pictures.

2,000 subjects of Zipf-like sizes lie on axes that they share, the first of which matter most; within a subject photos
differ along 32 axes of its own, and a little along all. All photos have a direction in common, as CLIP's have, and
texts have another one in its place: the gap between modalities. So the tenth neighbour lies at a cosine of some 0.8,
and the best text at 0.55. Drawn once, by seed, and kept.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from peers import say

from pipeline import rollup, schemas
from pipeline.archive import Archive
from tests.small_archive import MOMENT, made_of

NAME = "clustered"  # of the embeddings
ROWS = 1000  # a part
SUBJECTS, AXES, SEED = 2000, 32, 6
BETWEEN, WITHIN, NOISE, COMMON, GAP = 0.75, 0.6, 0.2, 0.6, 0.7  # lengths of what a vector is the sum of
QUERIES = 500
WORDS = ("harbour", "bridge", "mill", "street", "church", "river", "garden", "station", "market", "castle", "orchard")


@dataclass(frozen=True)
class Clustered:
    """`vectors`: float32[n, dim], in the order of the row ids, as an index has them: rounded to float16 by the table.

    `pictures` and `texts`: queries float32[QUERIES, dim], held out.
    """

    url: str
    vectors: np.ndarray
    pictures: np.ndarray
    texts: np.ndarray
    folder: Path

    def truth(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Row numbers of the k nearest, int64[n, k]."""
        return faiss.knn(queries, self.vectors, k, metric=faiss.METRIC_INNER_PRODUCT)[1]


def row_numbers(row_ids: np.ndarray) -> np.ndarray:
    """Where the vectors of these rows are; −1 stays −1."""
    return np.where(row_ids < 0, -1, (row_ids >> schemas.ROW_BITS) * ROWS + (row_ids & ((1 << schemas.ROW_BITS) - 1)))


def row_ids(numbers: np.ndarray) -> np.ndarray:
    return (numbers // ROWS << schemas.ROW_BITS) + numbers % ROWS


def subject(number: int) -> str:
    """The owner of all photos of a subject; later ones have fewer photos."""
    return f"owner {number:04d}"


class Draw:
    def __init__(self, dim: int) -> None:
        random = np.random.default_rng(SEED)
        axes = np.linalg.qr(random.standard_normal((dim, dim)))[0].astype(np.float32)
        self.common, self.gap, shared = COMMON * axes[0], GAP * axes[1], axes[2:]
        shared = shared / np.sqrt(1 + np.arange(dim - 2, dtype=np.float32) / 4)[:, None]
        centres = random.standard_normal((SUBJECTS, dim - 2), np.float32) @ shared
        self.centres = BETWEEN * centres / np.linalg.norm(centres, axis=1, keepdims=True)
        own = (random.standard_normal((SUBJECTS * AXES, dim - 2), np.float32) @ shared).reshape(SUBJECTS, AXES, dim)
        self.own = WITHIN * own / np.sqrt((own**2).sum((1, 2), keepdims=True))
        sizes = 1 / (10 + np.arange(SUBJECTS))
        self.share = sizes / sizes.sum()
        self.dim = dim

    def __call__(self, n: int, seed: int, text: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(unit vectors float32[n, dim], the subject of each int64[n])."""
        random = np.random.default_rng(seed)
        subjects = random.choice(SUBJECTS, n, p=self.share)
        order = np.argsort(subjects, kind="stable")
        edges = np.searchsorted(subjects[order], np.arange(SUBJECTS + 1))
        vectors = np.empty((n, self.dim), np.float32)
        for number, rows in enumerate(np.split(order, edges[1:-1])):
            noise = random.standard_normal((len(rows), self.dim), np.float32) * (NOISE / np.sqrt(self.dim))
            within = random.standard_normal((len(rows), AXES), np.float32) @ self.own[number]
            vectors[rows] = self.centres[number] + within + noise
        vectors += self.gap if text else self.common
        return unit(vectors), subjects


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def archive(work: Path, parts: int, dim: int) -> Clustered:
    """The archive of this size, made unless it is there."""
    folder = work / f"clustered-{parts}x{ROWS}x{dim}"
    if not (folder / "ready").exists():
        say(f"drawing {parts * ROWS:,} vectors of {dim} dimensions")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        draw = Draw(dim)
        vectors, subjects = draw(parts * ROWS, seed=1)
        halves = vectors.astype(np.float16)
        write(Archive.create(str(folder / "archive")), halves, subjects)
        (folder / "vectors").mkdir()
        np.save(folder / "vectors/vectors.npy", unit(halves.astype(np.float32)))
        np.save(folder / "pictures.npy", draw(QUERIES, seed=2)[0])
        np.save(folder / "texts.npy", draw(QUERIES, seed=3, text=True)[0])
        (folder / "ready").touch()
    names = ("vectors/vectors", "pictures", "texts")
    vectors, pictures, texts = (np.load(folder / f"{name}.npy") for name in names)
    return Clustered(str(folder / "archive"), vectors, pictures, texts, folder)


def write(archive: Archive, halves: np.ndarray, subjects: np.ndarray) -> None:
    """Parts of photos, images without bytes, and embeddings, with the roll-up that a run would have left."""
    dim = halves.shape[1]
    embeddings = archive.table(f"embeddings/{NAME}")
    embeddings.claim({"model": NAME, "pretrained": None, "checkpoint_sha256": "ab" * 32, "dim": dim})
    tables = {"photos": schemas.PHOTOS, "images": schemas.IMAGES, embeddings.name: schemas.embeddings(dim)}
    random = np.random.default_rng(SEED)
    receipts = []
    for part in range(len(halves) // ROWS):
        here = slice(part * ROWS, (part + 1) * ROWS)
        flat = pa.array(halves[here].reshape(-1))
        columns = facts(part, subjects[here], random)
        columns |= {"embedding": pa.FixedSizeListArray.from_arrays(flat, dim)}
        made_from = None
        for name, schema in tables.items():
            receipt = made_of(archive, made_from, part) if made_from else {}
            receipt |= {"outcomes": {"fetched": ROWS}, "exceptions": []} if name == "images" else {}
            arrays = [columns.get(field.name, pa.nulls(ROWS, field.type)) for field in schema]
            cast = [pa.array(column, field.type) for column, field in zip(arrays, schema, strict=True)]
            assert archive.table(name).write(part, [pa.table(cast, schema=schema)], receipt, schema)
            receipts.append(rollup.shortened(receipt))
            made_from = name if name == "photos" else "images"
    rollup.keep(archive, receipts)


def facts(part: int, subjects: np.ndarray, random: np.random.Generator) -> dict[str, pa.Array | list[object]]:
    """Columns of photos and images: `owner` follows the vectors, `latitude` is uniform and follows nothing."""
    ids = [f"flickr:{53_000_000_000 + part * ROWS + row}" for row in range(ROWS)]
    words = np.array(WORDS)[random.integers(0, len(WORDS), (ROWS, 3))]
    return {
        "row_id": schemas.row_ids(part, ROWS),
        "photo_id": ids,
        "source": ["flickr:somebody"] * ROWS,
        "title": [f"{a} and {b}, {row}" for row, (a, b, _) in enumerate(words)],
        "tags": [sorted({a, c}) for a, _, c in words],
        "date_taken": [f"{year}-06-03" for year in random.integers(1880, 2020, ROWS)],
        "date_granularity": ["day"] * ROWS,
        "latitude": random.uniform(-90, 90, ROWS),
        "owner": [subject(number) for number in subjects],
        "page_url": [f"https://www.flickr.com/photos/somebody/{photo_id.partition(':')[2]}" for photo_id in ids],
        "license_id": random.integers(0, 11, ROWS).astype(str).tolist(),
        "license_name": ["No known copyright restrictions"] * ROWS,
        "license_url": ["https://www.flickr.com/commons/usage/"] * ROWS,
        "rights_observed_at": [MOMENT] * ROWS,
        "media": ["photo"] * ROWS,
        "attempt": [1] * ROWS,
        "listed_at": [MOMENT] * ROWS,
        "outcome": ["fetched"] * ROWS,
        "format": ["jpeg"] * ROWS,
        "width": [500] * ROWS,
        "height": [375] * ROWS,
        "small": [False] * ROWS,
        "store": ["original"] * ROWS,
        "source_size": random.integers(50_000, 150_000, ROWS),
        "source_sha256": [hashlib.sha256(photo_id.encode()).hexdigest() for photo_id in ids],
        "fetched_at": [MOMENT] * ROWS,
    }


def link(url: str, folder: Path, parts: range) -> None:
    """Put these parts of an archive into another one in `folder`, and what all have in common if there is none yet."""
    for there in Path(url).rglob("*"):
        here = folder / there.relative_to(url)
        if there.is_dir():
            here.mkdir(parents=True, exist_ok=True)
        elif there.name.startswith("part-"):
            if int(there.stem.partition("-")[2]) in parts:
                os.link(there, here)
        elif not here.exists():
            here.write_bytes(there.read_bytes())
