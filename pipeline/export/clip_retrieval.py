"""The layout of clip-retrieval: `img_emb/`, `metadata/` and `image.index`, which its back end serves as it is.

What lies in the n-th place is the same picture in all three, counted over the files in the order of their names
(https://github.com/rom1504/clip-retrieval).
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.export.files import Files, carry_out, put
from pipeline.export.selection import Selection
from pipeline.indexes import making

# Theirs: what is asked of the metadata is the caption and, for the picture, a URL or a path.
METADATA = pa.schema(
    [
        *[(name, pa.string()) for name in ("image_path", "url", "caption", "photo_id")],
        ("row_id", pa.int64()),
        *[(name, pa.string()) for name in ("title", "owner", "date_taken", "page_url", "license_name", "license_url")],
    ]
)


def export(selection: Selection, out: str) -> dict[str, Any]:
    """Write that layout below `out`, of the photos that have a vector."""
    vectors, dim = storage.join(out, "img_emb"), selection.build.card["dim"]

    def write(part: int, row_ids: np.ndarray, made: str) -> None:
        found = selection.vectors(part, row_ids)
        there = pc.is_valid(found)
        rows = selection.facts(row_ids).filter(there)
        rows = rows.append_column("image_path", rows["photo_id"]).append_column("url", _http(rows["source_url"]))
        block = found.filter(there).combine_chunks().flatten().to_numpy().reshape(rows.num_rows, dim)
        file = io.BytesIO()
        np.save(file, block)
        storage.replace(storage.join(vectors, f"img_emb_{part:06d}.npy"), file.getvalue())
        put(files.url(part), [rows], METADATA, made)  # last: it says that the part is done

    files = Files(storage.join(out, "metadata"), "metadata_")
    said = carry_out(selection, "clip-retrieval", out, files, write)
    parts = {f"img_emb_{part:06d}.npy" for part in files.made_of()}
    for name in set(storage.names(vectors)) - parts:
        storage.delete(storage.join(vectors, name))
    url = storage.join(out, "image.index")
    blocks = (np.load(io.BytesIO(storage.read(storage.join(vectors, name)))) for name in sorted(parts))
    with storage.scratch(url) as path:
        making.write(making.plain((block.astype(np.float32) for block in blocks), dim), Path(path))
        storage.replace(url, path)
    return said


def _http(urls: pa.ChunkedArray) -> pa.ChunkedArray:
    """Addresses as they are, null in the place of paths."""
    return pc.if_else(pc.match_substring_regex(urls, "^https?://"), urls, pa.scalar(None, pa.string()))
