"""One wide Parquet data set: a photo a row, with facts, rights, caption, vector, and its picture if asked for."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schemas, storage
from pipeline.export import card
from pipeline.export.files import Files, carry_out, put
from pipeline.export.selection import Selection


def export(selection: Selection, out: str, *, pictures: bool) -> dict[str, Any]:
    """Write `data/part-….parquet` and a dataset card below `out`; see docs/tables.md.

    With `pictures` it is one that Hugging Face `datasets` opens and shows as it is.
    """
    kind = "huggingface" if pictures else "wide"
    schema = _schema(selection, pictures)

    def write(part: int, row_ids: np.ndarray, made: str) -> None:
        put(files.url(part), _rows(selection, pictures, part, row_ids), schema, made)

    files = Files(storage.join(out, "data"), "part-")
    said = carry_out(selection, kind, out, files, write)
    storage.replace(storage.join(out, "README.md"), card.render(selection, schema).encode())
    return said


def _schema(selection: Selection, pictures: bool) -> pa.Schema:
    facts = pq.read_schema(selection.build.folders[0] / "photos.parquet").remove_metadata()
    schema = facts.append(schemas.embeddings(selection.build.card["dim"]).field("embedding"))
    if not pictures:
        return schema
    return schema.append(schemas.IMAGES.field("image")).with_metadata(schemas.IMAGES.metadata)


def _rows(selection: Selection, pictures: bool, part: int, row_ids: np.ndarray) -> Iterator[pa.Table]:
    """The rows of one part: all at once, or with their pictures a row group of `images` at a time."""
    rows = selection.facts(row_ids).append_column("embedding", selection.vectors(part, row_ids))
    if not pictures:
        yield rows
        return
    first = 0
    for batch in selection.build.archive.table("images").batches(part, ["row_id", "image"]):
        chosen = batch.filter(pc.is_in(batch["row_id"], value_set=pa.array(row_ids)))
        if chosen.num_rows:
            yield rows.slice(first, chosen.num_rows).append_column("image", pa.chunked_array([chosen["image"]]))
        first += chosen.num_rows
