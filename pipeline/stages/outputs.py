"""What is made of pictures, and how a table keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import schemas
from pipeline.models.coca import Caption, Captioner
from pipeline.models.detection import Detector, Object
from pipeline.models.labels import Label, Labeller
from pipeline.models.openclip import Model
from pipeline.models.owl import Owl

# Why a derived row holds nothing.
NO_PICTURE, UNDECODABLE, NOT_FINITE = "no_picture", "undecodable", "not_finite"

Network = Model | Owl
Key = tuple[int, str]  # row id, photo id
# A vector float16[dim], a caption, labels, objects, or the name of a problem.
Value = np.ndarray | Caption | list[Label] | list[Object] | str


@dataclass(frozen=True)
class Output:
    """A table and what fills it: the model's vectors, or what a captioner, a labeller or a detector makes with it."""

    table: str
    model: Network
    by: Captioner | Labeller | Detector | None = None

    @property
    def schema(self) -> pa.Schema:
        schema = schemas.derived(self.table, self.model.dim)
        assert schema is not None
        return schema

    @property
    def captioner(self) -> Captioner | None:
        """What is under way for several batches: captions end one by one."""
        return self.by if isinstance(self.by, Captioner) else None

    def made(self, vectors: np.ndarray) -> Sequence[Value]:
        """What is known of pictures as soon as their vectors are, float32[n, dim]; not for captions and objects."""
        return self.by.label(vectors) if isinstance(self.by, Labeller) else list(vectors.astype(np.float16))


def table(output: Output, keys: Sequence[Key], values: Sequence[Value]) -> pa.Table:
    """The rows of an output's part: the value of each key, or the problem that it is."""
    name = output.model.identity()["model"]
    columns: dict[str, Any] = {
        "row_id": [row_id for row_id, _ in keys],
        "photo_id": [photo_id for _, photo_id in keys],
        "problem": [value if isinstance(value, str) else None for value in values],
    }
    if isinstance(output.by, Labeller | Detector):
        found = [None if value is None else [one._asdict() for one in value] for value in map(_listed, values)]
        columns["labels" if isinstance(output.by, Labeller) else "objects"] = found
        columns["model"] = [None if some is None else name for some in found]
    elif output.captioner:
        said = [value if isinstance(value, Caption) else None for value in values]
        columns["caption"] = [caption and caption.text for caption in said]
        columns["logprob"] = [caption and caption.logprob for caption in said]
        columns["cosine"] = [caption and caption.cosine for caption in said]
        columns["model"] = [caption and name for caption in said]
    else:
        # Row by row, Arrow would take every number in its hands while the device's thread waits for the interpreter.
        vectors = np.zeros((len(values), output.model.dim), np.float16)
        for row, value in enumerate(values):
            if isinstance(value, np.ndarray):
                vectors[row] = value
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.reshape(-1)), output.model.dim, mask=pa.array(isinstance(v, str) for v in values)
        )
    return pa.table({name: columns[name] for name in output.schema.names}, output.schema)


def _listed(value: Value) -> Sequence[Label | Object] | None:
    """Labels, or objects; None of a problem."""
    return value if isinstance(value, list) else None
