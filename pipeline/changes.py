"""What was observed or corrected of photos since they were listed, and rows as that has them."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Change(NamedTuple):
    """The last word on one fact of a photo."""

    value: Any
    observed_at: datetime
    by: str  # "source", or the person who corrected it
    row_id: int  # the photo's last row then

    def holds(self, observed_at: datetime | None) -> bool:
        """Whether it stands over a row whose facts were observed then: a later row of the source has them itself."""
        return self.by != "source" or observed_at is None or self.observed_at > observed_at


def filled(field: str, value: Any, observed_at: datetime) -> Iterator[tuple[str, Any]]:
    """The columns that a change fills, and with what."""
    if field == "license":
        yield from ((f"license_{key}", value[key]) for key in ("id", "name", "url"))
        yield "rights_observed_at", observed_at
    else:
        yield field, value


def gone(changes: Mapping[str, Mapping[str, Change]]) -> dict[str, int]:
    """Ids of the photos that these changes say their source shows no longer, each with the row id it had."""
    visible = {photo_id: facts["visible"] for photo_id, facts in changes.items() if "visible" in facts}
    return {photo_id: change.row_id for photo_id, change in visible.items() if change.value is False}


def overlaid(rows: pa.Table, changes: Mapping[str, Mapping[str, Change]]) -> pa.Table:
    """Rows of `photos`, with `photo_id` and `rights_observed_at` at least, as the changes since have them."""
    changed = np.flatnonzero(pc.is_in(rows["photo_id"], value_set=pa.array(sorted(changes), pa.string())).to_numpy())
    ids, observed = (rows[name].take(pa.array(changed)).to_pylist() for name in ("photo_id", "rights_observed_at"))
    new: dict[str, dict[int, Any]] = {}
    for i, photo_id, observed_at in zip(changed.tolist(), ids, observed, strict=True):
        for name, change in changes[photo_id].items():
            if change.holds(observed_at):
                new.setdefault(name, {})[i] = change.value
    for name in sorted(new.keys() & set(rows.column_names)):
        values = rows[name].to_pylist()
        for i, value in new[name].items():
            values[i] = value
        field = rows.schema.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))
    return rows
