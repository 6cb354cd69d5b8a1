"""annotate: images → unit vectors, captions, labels and objects. Each picture is decoded once for all models.

When several tables name the same checkpoint, its image tower runs once for all of them.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.archive import Archive
from pipeline.imaging import cpus
from pipeline.models import openclip, store
from pipeline.models.coca import Captioner
from pipeline.models.detection import Detector
from pipeline.models.labels import Labeller
from pipeline.models.owl import Owl
from pipeline.models.settings import CaptionSettings, LabelSettings, ObjectSettings, TableSettings
from pipeline.pulse import Hear, Pulse
from pipeline.stages.feed import Feed
from pipeline.stages.fetch import Shared
from pipeline.stages.outputs import Key, Network, Output, table
from pipeline.stages.pictures import Part

COLUMNS = ["row_id", "photo_id", "outcome", "image"]
DECODING = "upright sRGB, reduced towards the model's side"  # part of a table's identity


class Annotator:
    """Annotates parts: call it with a part's number, from several threads so that batches are full across parts.

    `close` ends its own threads.
    """

    def __init__(self, archive: Archive, outputs: Sequence[Output], hear: Hear | None = None) -> None:
        """`hear` is told every second or so how far each part is."""
        self.archive = archive
        self.outputs = tuple(outputs)
        self.hear = hear
        self.feed = Feed(cpus())
        self.close = self.feed.close

    def __call__(self, part: int) -> list[dict[str, Any]]:
        """Make of one images part the parts that the outputs' tables lack; their receipts."""
        outputs = tuple(o for o in self.outputs if part not in self.archive.table(o.table).parts())
        if not outputs:
            return []
        source = self.archive.table("images").receipt(part)
        tell = Pulse(self.hear, "annotate", part) if self.hear else None
        with self.feed.part(outputs, source["rows"], tell) as made:
            keys = self.read(part, made)
            self.feed.wait(made)
        return [self.write(part, output, keys, made, source["write_id"]) for output in outputs]

    def read(self, part: int, made: Part) -> list[Key]:
        """Hand over the rows of an images part, when it is its turn; their keys."""
        keys: list[Key] = []
        with self.feed.turn:
            started = time.perf_counter()
            for batch in self.archive.table("images").batches(part, COLUMNS):
                rows = batch.to_pylist()
                keys += [(row["row_id"], row["photo_id"]) for row in rows]
                made.seconds["reading"] += time.perf_counter() - started
                self.feed.add(made, rows)
                started = time.perf_counter()
        assert not made.coming, f"part {part} of images holds {len(keys)} rows, its receipt says something else"
        return keys

    def write(self, part: int, output: Output, keys: list[Key], made: Part, source: str) -> dict[str, Any]:
        """Commit the part of one output; its receipt."""
        values = [made.values[output.table][row_id] for row_id, _ in keys]
        receipt: dict[str, Any] = {
            "source_write_id": source,
            "outcomes": dict(Counter(value if isinstance(value, str) else "annotated" for value in values)),
            "device": output.model.device,
            "precision": output.model.precision,
            "batch": output.model.batch,
        }

        def timed() -> Iterator[pa.Table]:
            started = time.perf_counter()
            yield table(output, keys, values)
            seconds = {**made.seconds, "writing": time.perf_counter() - started}
            receipt["seconds"] = {phase: round(value, 3) for phase, value in seconds.items()}

        self.archive.table(output.table).write(part, timed(), receipt, output.schema)
        return receipt


def load(
    archive: Archive,
    tables: Mapping[str, TableSettings],
    checkpoints: Mapping[tuple[str, str | None], str | None],
    shared: Shared | None = None,
) -> Callable[[int], list[dict[str, Any]]]:
    """Load the models, claim their tables, and return an Annotator of them. Raises UserError.

    `tables`: by name, as config.Settings.derived has them.
    `checkpoints`: (model, pretrained) → SHA-256 of the weights in the archive; None: random weights.
    """
    if "OMP_NUM_THREADS" in os.environ:
        openclip.use_threads(cpus())
    models: dict[tuple[str, str | None, str], Network] = {}
    outputs = []
    for name, asked in tables.items():
        weights = (asked.model, asked.pretrained)
        key = (*weights, asked.precision)
        if key not in models:
            models[key] = _network(archive.url, asked, checkpoints[weights])
        model = models[key]
        by = _by(model, asked)
        # Precision belongs to the identity where it was fixed; `auto` may differ between machines.
        fixed = {} if asked.precision == "auto" else {"precision": asked.precision}
        identity = (by or model).identity() | {"decoding": DECODING}
        archive.table(name).claim(identity | fixed)
        outputs.append(Output(name, model, by))
    return Annotator(archive, outputs, shared.hear if shared else None)


def _network(archive: str, asked: TableSettings, sha256: str | None) -> Network:
    if isinstance(asked, ObjectSettings):
        assert sha256
        return store.load_owl(archive, asked.model, sha256, asked.precision)
    return store.load(archive, asked.model, asked.pretrained, sha256, precision=asked.precision)


def _by(model: Network, asked: TableSettings) -> Captioner | Labeller | Detector | None:
    """What makes of a model's output what a table is to hold; None for its vectors."""
    if isinstance(asked, ObjectSettings):
        assert isinstance(model, Owl)
        return Detector(model, asked)
    assert not isinstance(model, Owl)
    if isinstance(asked, CaptionSettings):
        return Captioner(model, asked.generation)
    return Labeller(model, asked) if isinstance(asked, LabelSettings) else None
