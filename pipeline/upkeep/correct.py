"""correct: a person's word on a photo's caption, which stands over whatever a machine wrote or will write."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas
from pipeline.archive import Archive
from pipeline.photo import UserError


def correct(archive: Archive, photo_id: str, caption: str | None, by: str) -> None:
    """Log what the caption of a photo is from now on, or with None that it has none. Raises UserError.

    Searches show it at once, the index and what is exported from it when they are next built.
    """
    if caption is not None and not caption.strip():
        raise UserError("an empty caption: to show none, use --hide-caption")
    if by == "source":
        raise UserError("--by source: that is how the log calls the photo's source; give a person's name")
    row_id = _last_row(archive, photo_id)
    word = {"field": "caption", "value": json.dumps(caption), "observed_at": datetime.now(UTC), "by": by}
    row = pa.Table.from_pylist([{"row_id": row_id, "photo_id": photo_id, **word}], schemas.CHANGES)
    archive.table("changes").append(lambda _: row, {}, schemas.CHANGES)


def _last_row(archive: Archive, photo_id: str) -> int:
    if photo_id in archive.forgotten():
        raise UserError(f"{photo_id} is forgotten: there is nothing of it left to correct")
    photos = archive.table("photos")
    for part in reversed(photos.parts()):
        rows = photos.read(part, ["row_id", "photo_id"])
        found = rows.filter(pc.equal(rows["photo_id"], photo_id))["row_id"]
        if len(found):
            return int(found[-1].as_py())
    raise UserError(
        f"{archive.url} holds no photo {photo_id}; ids are those that a search shows, such as flickr:2179931434"
    )
