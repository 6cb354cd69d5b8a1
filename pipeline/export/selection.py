"""Which photos of an index build leave the archive, and what is known of them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas
from pipeline.builds import Build
from pipeline.sources.licences import is_restricted

RESERVED = "rights reserved or unknown"


@dataclass(frozen=True)
class Selection:
    """The photos of a build that are to leave, and why the others are not."""

    build: Build
    row_ids: np.ndarray  # int64[n], ascending
    left_out: dict[str, int]  # reason → photos

    def parts(self) -> dict[int, np.ndarray]:
        """Part → the row ids chosen of it."""
        numbers = self.row_ids >> schemas.ROW_BITS
        return {int(part): self.row_ids[numbers == part] for part in np.unique(numbers)}

    @property
    def embeddings(self) -> str:
        """Name of the table that the build indexes."""
        return f"embeddings/{self.build.card['of']}"

    def vectors(self, part: int, row_ids: np.ndarray) -> pa.ChunkedArray:
        """The stored vectors of photos of one part, float16[dim] each, null where there is none."""
        return self.build.archive.table(self.embeddings).take(part, row_ids, ["embedding"])["embedding"]

    def facts(self, row_ids: np.ndarray, columns: list[str] | None = None) -> pa.Table:
        """What the build says of these photos."""
        return self.build.photos(columns, among=row_ids)


def choose(build: Build, where: str | None, restricted: bool) -> Selection:
    """The photos that `where` is true of; unless `restricted`, those alone whose licence lets them leave.

    Raises UserError for a `where` that cannot be used.
    """
    photos = build.photos(["row_id", "license_url"])
    row_ids = photos["row_id"].to_numpy()
    keep = np.ones(len(row_ids), bool)
    left_out: dict[str, int] = {}

    def leave_out(reason: str, which: np.ndarray) -> None:
        nonlocal keep
        if count := int((keep & which).sum()):
            left_out[reason] = count
        keep = keep & ~which

    leave_out("forgotten or gone", np.isin(row_ids, list(build.news().hidden)))
    if where is not None:
        leave_out("not asked for", ~np.isin(row_ids, build.matching(where)))
    if not restricted:
        urls = photos["license_url"]
        closed = pa.array([url for url in urls.unique().to_pylist() if is_restricted(url)], pa.string())
        leave_out(RESERVED, pc.is_in(urls, value_set=closed).to_numpy())
    return Selection(build, row_ids[keep], left_out)
