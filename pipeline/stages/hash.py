"""hash: images → perceptual hashes. No model; decodes each picture small, in threads."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import imaging, phash, schemas
from pipeline.archive import Archive
from pipeline.imaging import cpus

TABLE = "hashes/perceptual"
# Why a row holds no hash.
NO_PICTURE, UNDECODABLE, FEATURELESS = "no_picture", "undecodable", "featureless"

Receipt = dict[str, Any]


def load(archive: Archive, shared: object = None) -> Callable[[int], list[Receipt]]:
    """Claim the table, and return what makes its parts. Raises UserError."""
    archive.table(TABLE).claim(phash.IDENTITY)
    return partial(hash_part, archive)


def hash_part(archive: Archive, part: int) -> list[Receipt]:
    """Make of one images part the part of hashes; its receipt."""
    images = archive.table("images")
    outcomes: Counter[str] = Counter()
    receipt: Receipt = {"source_write_id": images.receipt(part)["write_id"]}
    started = time.perf_counter()

    def made() -> Iterator[pa.Table]:
        rows = []
        with ThreadPoolExecutor(cpus()) as pool:
            for batch in images.batches(part, ["row_id", "photo_id", "image"]):
                rows += list(pool.map(_row, batch.to_pylist()))
        outcomes.update(row["problem"] or "annotated" for row in rows)
        receipt["outcomes"] = dict(outcomes)
        receipt["seconds"] = {"decoding": round(time.perf_counter() - started, 3)}
        yield pa.Table.from_pylist(rows, schemas.HASHES)

    archive.table(TABLE).write(part, made(), receipt, schemas.HASHES)
    return [receipt]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    key = {"row_id": row["row_id"], "photo_id": row["photo_id"]}
    data = row["image"] and row["image"]["bytes"]
    if data is None:
        return key | {"hash": None, "problem": NO_PICTURE}
    try:  # fetch has decoded these bytes in full, in a child process, and found them fit
        picture = imaging.decode(data, max_pixels=imaging.PILLOW_CEILING, side=phash.SIDE)
    except imaging.BadImage:
        return key | {"hash": None, "problem": UNDECODABLE}
    made = phash.phash(picture)
    return key | {"hash": made, "problem": None if made else FEATURELESS}
