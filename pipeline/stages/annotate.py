"""annotate: images → unit vectors and captions. Each picture is decoded once for all models.

When an embedding and a caption name the same checkpoint, its image tower runs once for both.
"""

import itertools
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import imaging, schemas
from pipeline.archive import Archive
from pipeline.models import openclip, store
from pipeline.models.coca import Captioner
from pipeline.models.openclip import Model
from pipeline.models.settings import CaptionSettings, EmbeddingSettings

BATCH = 64  # pictures that the models take at once
AHEAD = 2  # batches being decoded while one is computed
NO_LIMIT = imaging.PILLOW_CEILING  # fetch has decoded these bytes in full and found them fit
DECODING = "upright sRGB, reduced towards the model's side"  # part of a table's identity

# Why a derived row holds nothing.
NO_PICTURE, UNDECODABLE, NOT_FINITE = "no_picture", "undecodable", "not_finite"


@dataclass(frozen=True)
class Output:
    """A table and what fills it: the model's vectors, or the captions of a captioner on it."""

    table: str
    model: Model
    captioner: Captioner | None = None

    @property
    def schema(self) -> pa.Schema:
        return schemas.CAPTIONS if self.captioner else schemas.embeddings(self.model.dim)

    def identity(self) -> dict[str, Any]:
        identity = (self.captioner or self.model).identity()
        return {**identity, "decoding": DECODING}


@dataclass(frozen=True)
class Picture:
    """A row of `images`, ready for the models: `pixels` float32[3, H, W] for each of them, or a problem."""

    row_id: int
    photo_id: str
    pixels: tuple[np.ndarray, ...] = ()
    problem: str | None = None


def tables(embeddings: Iterable[str], captions: Iterable[str]) -> list[str]:
    """Names of the tables that embeddings and captions of these names fill."""
    return [f"embeddings/{name}" for name in embeddings] + [f"captions/{name}" for name in captions]


def load(
    archive: Archive,
    embeddings: Mapping[str, EmbeddingSettings],
    captions: Mapping[str, CaptionSettings],
    checkpoints: Mapping[tuple[str, str | None], str | None],
    shared: object = None,
) -> Callable[[int], list[dict[str, Any]]]:
    """Load the models, claim their tables, and return what annotates one part. Raises UserError.

    `checkpoints`: (model, pretrained) → SHA-256 of the weights in the archive; None: random weights.
    """
    if threads := os.environ.get("OMP_NUM_THREADS"):
        openclip.use_threads(int(threads))
    models: dict[tuple[str, str | None, str], Model] = {}
    outputs = []
    every: list[tuple[str, EmbeddingSettings | CaptionSettings]] = [*embeddings.items(), *captions.items()]
    for name, asked in every:
        weights = (asked.model, asked.pretrained)
        key = (*weights, asked.precision)
        if key not in models:
            models[key] = store.load(archive.url, *weights, checkpoints[weights], precision=asked.precision)
        model = models[key]
        captioner = Captioner(model, asked.generation) if isinstance(asked, CaptionSettings) else None
        output = Output(f"captions/{name}" if captioner else f"embeddings/{name}", model, captioner)
        # Precision belongs to the identity where it was fixed; `auto` may differ between machines.
        fixed = {} if asked.precision == "auto" else {"precision": asked.precision}
        archive.table(output.table).claim(output.identity() | fixed)
        outputs.append(output)
    return lambda part: annotate_part(archive, part, outputs)


def annotate_part(archive: Archive, part: int, outputs: Iterable[Output]) -> list[dict[str, Any]]:
    """Make of one images part the parts that the outputs' tables lack; their receipts."""
    wanted = [output for output in outputs if part not in archive.table(output.table).parts()]
    if not wanted:
        return []
    images = archive.table("images")
    rows = (
        row for batch in images.batches(part, ["row_id", "photo_id", "outcome", "image"]) for row in batch.to_pylist()
    )
    seconds: defaultdict[str, float] = defaultdict(float)
    made: dict[str, list[dict[str, Any]]] = {output.table: [] for output in wanted}
    for batch in prepared(rows, list({id(output.model): output.model for output in wanted}.values()), seconds):
        for table, annotated in annotate_rows(batch, wanted, seconds).items():
            made[table] += annotated
    source = images.receipt(part)["write_id"]
    receipts = []
    for output in wanted:
        receipt: dict[str, Any] = {
            "source_write_id": source,
            "outcomes": dict(Counter(row["problem"] or "annotated" for row in made[output.table])),
            "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
            "device": output.model.device,
            "precision": output.model.precision,
        }
        table = pa.Table.from_pylist(made[output.table], output.schema)
        archive.table(output.table).write(part, [table], receipt, output.schema)
        receipts.append(receipt)
    return receipts


def prepared(
    rows: Iterable[Mapping[str, Any]], models: list[Model], seconds: dict[str, float]
) -> Iterator[list[Picture]]:
    """Batches of pictures decoded once and preprocessed for each model, in threads beside the device.

    `seconds["decoding"]` counts the time that the models had to wait for this.
    """
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode") as pool:
        waiting: deque[list[Future[Picture]]] = deque()
        source = iter(rows)
        while True:
            while len(waiting) <= AHEAD and (chunk := list(itertools.islice(source, BATCH))):
                waiting.append([pool.submit(prepare, row, models) for row in chunk])
            if not waiting:
                return
            started = time.perf_counter()
            batch = [future.result() for future in waiting.popleft()]
            seconds["decoding"] += time.perf_counter() - started
            yield batch


def prepare(row: Mapping[str, Any], models: list[Model]) -> Picture:
    """Decode one images row and preprocess it for each model."""
    if row["outcome"] != "fetched":
        return Picture(row["row_id"], row["photo_id"], problem=NO_PICTURE)
    try:
        side = max(model.side for model in models)
        image = imaging.decode(row["image"]["bytes"], max_pixels=NO_LIMIT, side=side)
    except imaging.BadImage:  # another machine's decoder had no objection
        return Picture(row["row_id"], row["photo_id"], problem=UNDECODABLE)
    return Picture(row["row_id"], row["photo_id"], tuple(model.preprocess(image) for model in models))


def annotate_rows(
    batch: list[Picture], outputs: list[Output], seconds: dict[str, float]
) -> dict[str, list[dict[str, Any]]]:
    """Table → its rows for a batch of pictures, aligned with it."""
    sound = [picture for picture in batch if not picture.problem]
    made: dict[str, dict[int, dict[str, Any]]] = {output.table: {} for output in outputs}
    models = list({id(output.model): output.model for output in outputs}.values())
    for position, model in enumerate(models if sound else []):
        started = time.perf_counter()
        vectors, tokens = model.encode(np.stack([picture.pixels[position] for picture in sound]))
        seconds["embedding"] += time.perf_counter() - started
        finite = np.isfinite(vectors).all(axis=1)
        for output in outputs:
            if output.model is not model:
                continue
            if output.captioner is None:
                values: Iterator[dict[str, Any]] = ({"embedding": vector.astype(np.float16)} for vector in vectors)
            else:
                started = time.perf_counter()
                assert tokens is not None
                captions = output.captioner.caption_tokens(tokens, vectors)
                seconds["captioning"] += time.perf_counter() - started
                name = model.identity()["model"]
                values = (
                    {"caption": c.text, "logprob": c.logprob, "cosine": c.cosine, "model": name} for c in captions
                )
            for picture, value, fine in zip(sound, values, finite, strict=True):
                made[output.table][picture.row_id] = value if fine else {"problem": NOT_FINITE}
    return {
        table: [
            {"row_id": p.row_id, "photo_id": p.photo_id, "problem": p.problem, **rows.get(p.row_id, {})} for p in batch
        ]
        for table, rows in made.items()
    }
