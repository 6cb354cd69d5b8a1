"""An archive is a folder of tables; a table is a folder of parts; a part is one Parquet file, written once.

A part's presence is its completion mark: what is left to do is `parts of my source − parts of mine`. Nothing else
records progress. Knows no models and no Ray.
"""

import functools
import importlib.metadata
import json
import platform
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import __version__, logs, schemas, storage
from pipeline.changes import Change, filled, gone, overlaid
from pipeline.photo import UserError

FORMAT = 1
RECEIPT = b"tintype"  # key of the receipt in a part's Parquet footer
PART = re.compile(r"part-(\d{6,})\.parquet")
# Six hits read from one row group of 130 MB cost 1.4 s, from groups of 50 rows 21 ms.
IMAGE_GROUP_ROWS = 50
IMAGE_GROUP_BYTES = 16 << 20
# Of `images`, what the live view shows beside the facts.
PICTURE = [n for n in schemas.IMAGES.names if n not in (*schemas.PHOTOS.names, "outcome", "image", "reason", "detail")]
MOST_SHOWN = 6  # items of lists that differ
VERSIONS = ("ray", "torch", "open_clip_torch", "pyarrow", "pillow", "faiss-gpu", "faiss-cpu", "flickrapi")


@dataclass(frozen=True)
class Table:
    """A table of an archive. `name` is its folder: "photos", "embeddings/coca"."""

    url: str
    name: str

    def parts(self) -> list[int]:
        """Numbers of the committed parts, ascending."""
        found = (PART.fullmatch(name) for name in storage.names(self.url))
        return sorted(int(match[1]) for match in found if match)

    def pending(self, source: "Table") -> list[int]:
        """Parts of `source` that this table lacks."""
        return sorted(set(source.parts()) - set(self.parts()))

    def part_url(self, part: int) -> str:
        return storage.join(self.url, f"part-{part:06d}.parquet")

    def read(self, part: int, columns: list[str] | None = None) -> pa.Table:
        """The rows of one part, in order. Raises FileNotFoundError."""
        with storage.open_file(self.part_url(part)) as file:
            return pq.read_table(file, columns=columns)

    def batches(self, part: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of one part, a row group at a time."""
        with storage.open_file(self.part_url(part)) as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                yield from parquet.read_row_group(group, columns=columns).combine_chunks().to_batches()

    def read_rows(self, row_ids: Iterable[int], columns: list[str] | None = None) -> pa.Table:
        """Some rows, in the order asked for, reading only the row groups that hold them. Raises KeyError."""
        wanted = list(row_ids)
        found: list[pa.Table] = []
        for part in sorted({schemas.part_of(row_id)[0] for row_id in wanted}):
            rows = sorted({row for p, row in map(schemas.part_of, wanted) if p == part})
            with storage.open_file(self.part_url(part)) as file:
                parquet = pq.ParquetFile(file)
                first = 0
                for group in range(parquet.num_row_groups):
                    after = first + parquet.metadata.row_group(group).num_rows
                    here = [row - first for row in rows if first <= row < after]
                    if here:
                        found.append(parquet.read_row_group(group, columns=columns).take(here))
                    first = after
        if not found:
            raise KeyError(wanted)
        table = pa.concat_tables(found)
        position = {row_id: i for i, row_id in enumerate(table["row_id"].to_pylist())}
        return table.take([position[row_id] for row_id in wanted])

    def take(self, part: int, row_ids: np.ndarray, columns: list[str]) -> pa.Table:
        """Rows of one part by their row ids, int64[n]: an aligned table has them where these say."""
        rows = self.read(part, ["row_id", *columns]).take(pa.array(row_ids - (part << schemas.ROW_BITS)))
        assert np.array_equal(rows["row_id"].to_numpy(), row_ids), f"{self.name} part {part} is not aligned"
        return rows

    def write(
        self,
        part: int,
        batches: Iterable[pa.RecordBatch | pa.Table],
        receipt: dict[str, Any],
        schema: pa.Schema,
    ) -> bool:
        """Commit a part; False if another writer was first, whose part then stands.

        A store may carry a write out and its answer be lost: the second try then finds the first one's part, which the
        write id tells from another writer's.

        `receipt` is read after the last batch was drawn, so what produces the batches may fill it while it works.
        Written here too: table, part, rows, versions, time, and a write id that tells this writing from any other.
        """
        url = self.part_url(part)
        with storage.scratch(url) as path:
            rows = 0
            with _writer(path, schema) as writer:
                for batch in batches:
                    table = pa.table(batch) if isinstance(batch, pa.RecordBatch) else batch
                    for group in _row_groups(table):
                        writer.write_table(group.cast(schema))
                    rows += table.num_rows
                receipt |= {
                    "table": self.name,
                    "part": part,
                    "rows": rows,
                    "write_id": uuid.uuid4().hex,
                    "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
                    "run": logs.run(),
                    "versions": versions(),
                }
                writer.add_key_value_metadata({RECEIPT: json.dumps(receipt)})
            return storage.create(url, path) or self.receipt(part)["write_id"] == receipt["write_id"]

    def append(self, build: Callable[[int], pa.Table | None], receipt: dict[str, Any], schema: pa.Schema) -> int | None:
        """Commit rows under the next free part number, and return it.

        `build(part)` makes the rows, with the row ids of that part. It is asked again when another writer took the
        number, and answers None when nothing is left to say.
        """
        parts = self.parts()
        part = parts[-1] + 1 if parts else 0
        while (rows := build(part)) is not None:
            if self.write(part, [rows], receipt, schema):
                return part
            part += 1
        return None

    def rewrite(self, part: int, change: Callable[[pa.Table], pa.Table], receipt: dict[str, Any]) -> None:
        """Put a part in its own place, each row group as `change` gives it back.

        The one exception to a part's never changing, for what must be forgotten. It keeps its write id, since it is no
        other part to those that were made of it; `receipt` is read after the last row group, as `write` does.
        """
        url = self.part_url(part)
        with storage.scratch(url) as path:
            with storage.open_file(url) as file:
                parquet = pq.ParquetFile(file)
                schema = parquet.schema_arrow  # with its metadata, among which receipts are not
                with _writer(path, schema) as writer:
                    for group in range(parquet.num_row_groups):
                        writer.write_table(change(parquet.read_row_group(group)).cast(schema))
                    writer.add_key_value_metadata({RECEIPT: json.dumps(receipt)})
            storage.replace(url, path)

    def receipt(self, part: int) -> dict[str, Any]:
        """What a part's footer says of how it was made."""
        with storage.open_file(self.part_url(part)) as file:
            return json.loads(pq.read_metadata(file).metadata[RECEIPT])

    def identity(self) -> dict[str, Any] | None:
        """What a derived table was made with (`table.json`), None where nothing has claimed it."""
        try:
            return json.loads(storage.read(storage.join(self.url, "table.json")))
        except FileNotFoundError:
            return None

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Declare what this table is made with, before work starts. Raises UserError if it was with something else."""
        ours = json.loads(json.dumps(identity))
        if storage.create(storage.join(self.url, "table.json"), json.dumps(ours, indent=2, sort_keys=True).encode()):
            return
        theirs = self.identity() or {}
        differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if differing:
            shown = "; ".join(f"{key}: {_contrast(theirs.get(key), ours.get(key))}" for key in differing)
            raise UserError(f"{self.name} was made with something else ({shown}); choose another name for the new one")


def _contrast(theirs: Any, ours: Any) -> str:
    """How one thing that a table was made with differs from what it would be made with now; of lists, in what."""
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) + len(ours) > MOST_SHOWN:
        only = [[item for item in these if item not in those] for those, these in ((ours, theirs), (theirs, ours))]
        if not any(only):
            return "in another order"
        theirs, ours = (f"{items[:MOST_SHOWN]!r}{' and more' * (len(items) > MOST_SHOWN)} alone" for items in only)
        return f"{theirs} there, {ours} now"
    return f"{theirs!r} there, {ours!r} now"


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of a part: pictures as they are, since they are compressed already, and zstd for all else.

    With a checksum in each page, `verify` sees what a disk or a copy has changed.
    """
    if "image" not in schema.names:
        return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)
    others = [name for name in schema.names if name != "image"] + ["image.path"]
    encoding = {"compression": dict.fromkeys(others, "zstd"), "use_dictionary": others}
    return pq.ParquetWriter(path, schema, write_page_checksum=True, **encoding)


def _row_groups(table: pa.Table) -> Iterator[pa.Table]:
    """Cut a table into row groups: one of 50 rows or 16 MB, whichever is less, where it holds pictures."""
    if "image" not in table.column_names:
        yield table
        return
    start = size = 0
    lengths = pc.fill_null(pc.binary_length(pc.struct_field(table["image"], "bytes")), 0).to_pylist()
    for row, length in enumerate(lengths):
        if row > start and (row - start >= IMAGE_GROUP_ROWS or size + length > IMAGE_GROUP_BYTES):
            yield table.slice(start, row - start)
            start, size = row, 0
        size += length
    yield table.slice(start)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what results depend on, as recorded in receipts."""
    found = {"tintype": __version__, "python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Archive:
    """An archive at an fsspec URL or local path; made by `create` or `open`."""

    url: str

    @classmethod
    def open(cls, url: str) -> "Archive":
        """Raises UserError where there is no archive, or one of a later format."""
        try:
            about = json.loads(storage.read(storage.join(url, "archive.json")))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"there is no archive at {url}; `tintype run CONF` makes one") from error
        if about["format"] > FORMAT:
            raise UserError(f"{url} has format {about['format']}, this tintype reads up to {FORMAT}: update tintype")
        return cls(url)

    @classmethod
    def create(cls, url: str) -> "Archive":
        """Open the archive at `url`, making it if there is none."""
        about = {"format": FORMAT, "created_by": f"tintype {__version__}"}
        try:
            storage.create(storage.join(url, "archive.json"), json.dumps(about, indent=2).encode())
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:  # no such bucket, no right to write
            raise UserError(f"cannot make an archive at {url}: {error}") from error
        return cls.open(url)

    def table(self, name: str) -> Table:
        return Table(storage.join(self.url, *name.split("/")), name)

    def tables(self) -> list[str]:
        """Names of the aligned tables that have a folder: photos, images, then the derived ones."""
        top = set(storage.names(self.url))
        derived = [f"{kind}/{name}" for kind in schemas.DERIVED for name in self._derived(kind)]
        return [name for name in ("photos", "images") if name in top] + derived

    def _derived(self, kind: str) -> list[str]:
        return storage.names(storage.join(self.url, kind))

    def forgotten(self) -> dict[str, int]:
        """Ids of photos never to be held or shown again, each with the row id it had."""
        table = self.table("forgotten")
        rows = [row for part in table.parts() for row in table.read(part, ["photo_id", "row_id"]).to_pylist()]
        return {row["photo_id"]: row["row_id"] for row in rows}

    def gone(self) -> dict[str, int]:
        """Ids of photos that their source shows no longer, each with the row id it had."""
        return gone(self.changes())

    def changes(self, without: Collection[int] = ()) -> dict[str, dict[str, Change]]:
        """photo_id → field → the value last observed or corrected; a person's word stands over the source's.

        A `license` comes as the columns that it fills. `without`: parts of the log that are known already.
        """
        table = self.table("changes")
        latest: dict[tuple[str, str], tuple[bool, datetime, int, Change]] = {}
        for part in table.parts():
            for row in table.read(part).to_pylist() if part not in without else ():
                for name, value in filled(row["field"], json.loads(row["value"]), row["observed_at"]):
                    key = (row["photo_id"], name)
                    change = Change(value, row["observed_at"], row["by"], row["row_id"])
                    word = (row["by"] != "source", row["observed_at"], part, change)
                    if key not in latest or word[:3] >= latest[key][:3]:
                        latest[key] = word
        changed: dict[str, dict[str, Change]] = {}
        for (photo_id, name), word in latest.items():
            changed.setdefault(photo_id, {})[name] = word[-1]
        return changed

    def live(self) -> pa.Table:
        """The photos as they stand: each one's last fetched row with its changes, without the gone and the forgotten.

        Columns: those of `photos` but `raw` and `sizes`, those of `images` but the bytes and the outcome; by row id.
        """
        changes = self.changes()
        row_ids = self.live_keys(changes)["row_id"].to_numpy()
        parts = np.unique(row_ids >> schemas.ROW_BITS).tolist() or self.table("images").parts()[:1]
        return pa.concat_tables(self.facts(part, rows_in(row_ids, part), changes) for part in parts)

    def live_keys(self, changes: Mapping[str, Mapping[str, Change]], parts: Collection[int] | None = None) -> pa.Table:
        """row_id and photo_id of the live photos, by row id, as far as these parts of `images` tell; all unless given.

        `changes` are the archive's. Raises UserError where there are no pictures yet.
        """
        images = self.table("images")
        columns = ["row_id", "photo_id", "outcome"]
        known = images.parts() if parts is None else sorted(parts)
        tables = list(storage.ahead(lambda part: images.read(part, columns), known))
        if not tables:
            raise UserError(f"the archive at {self.url} holds no pictures yet; `tintype fetch CONF` gets them")
        rows = pa.concat_tables(tables).replace_schema_metadata(None)
        rows = rows.filter(pc.equal(rows["outcome"], "fetched")).drop_columns(["outcome"])
        last = rows.group_by("photo_id").aggregate([("row_id", "max")])["row_id_max"]
        rows = rows.filter(pc.is_in(rows["row_id"], value_set=last))
        unseen = pa.array(sorted(self.forgotten().keys() | gone(changes).keys()), pa.string())
        return rows.filter(pc.invert(pc.is_in(rows["photo_id"], value_set=unseen))).sort_by("row_id")

    def facts(self, part: int, row_ids: np.ndarray, changes: Mapping[str, Mapping[str, Change]]) -> pa.Table:
        """What `live` says of rows of one part, int64[n], ascending."""
        places = pa.array(row_ids - (part << schemas.ROW_BITS))
        facts = self.table("photos").read(part, [name for name in schemas.PHOTOS.names if name not in ("raw", "sizes")])
        picture = self.table("images").read(part, PICTURE)
        rows = _aligned(facts.take(places), picture.take(places)).replace_schema_metadata(None)
        return overlaid(rows, changes)


def rows_in(row_ids: np.ndarray, part: int) -> np.ndarray:
    """Those of ascending row ids, int64[n], that are of a part."""
    first, after = np.searchsorted(row_ids, [part << schemas.ROW_BITS, (part + 1) << schemas.ROW_BITS])
    return row_ids[first:after]


def _aligned(left: pa.Table, right: pa.Table) -> pa.Table:
    """Two aligned parts side by side."""
    assert left.num_rows == right.num_rows, "aligned parts differ in rows"
    for name in right.column_names:
        left = left.append_column(right.schema.field(name), right[name])
    return left
