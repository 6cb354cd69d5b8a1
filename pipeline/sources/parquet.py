"""Pictures in the rows of Parquet or CSV files, as bytes or by their URLs: what somebody has downloaded already.

img2dataset's Parquet, Hugging Face's data sets of pictures, one's own exports, and plain lists of URLs are all of this
kind.
"""

import contextlib
import json
import threading
from collections.abc import Container, Generator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.gate import Gates
from pipeline.photo import Photo, Rights, Size, UserError
from pipeline.sources import Listing
from pipeline.sources.facts import partial_date
from pipeline.sources.licences import recognise
from pipeline.sources.sidecar import facts_of

# What columns are called that hold pictures, their addresses, their names; the first that is there counts.
PICTURES = ("image", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "img")
URLS = ("url", "image_url", "source_url", "img_url", "image")
IDS = ("photo_id", "id", "key", "image_id", "file_name", "filename", "image_path")
ENDINGS = (".parquet", ".csv", ".tsv")
ROW = "parquet-row:"  # address of a picture within a file: parquet-row:<file>#<column>#<row>


@dataclass(frozen=True)
class Columns:
    """Which columns of a file hold pictures as bytes, their URLs, and names that stay the same."""

    held: str | None
    url: str | None
    id: str | None


@dataclass(frozen=True)
class ParquetSource:
    """All pictures in the rows of a Parquet or CSV file, or of those in a folder, in the order of names and rows."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}
    default_store: ClassVar[Literal["original", "derivative"]] = "original"
    default_max_pixels: ClassVar[int] = 100_000_000

    path: str
    """A .parquet, .csv or .tsv file, or a folder of them: a local path or any fsspec URL."""
    kind: Literal["parquet"] = "parquet"
    """This kind of source."""
    image: str | None = None
    """The column of pictures, as bytes or URLs; to be named where it has none of the usual names."""
    id: str | None = None
    """The column of names that stay the same. Where none is known, file and row number tell pictures apart."""
    limit: int | None = None
    """Only the first so many rows, to try it out; the same archive grows when it is raised."""
    license: str | None = None
    """Licence of the pictures whose rows name none: a URL, or a name such as CC BY 4.0."""
    prefix: str = ""
    """Put before the names in photo ids, to tell apart the pictures of several sources in one archive."""

    @property
    def root(self) -> str:
        """The file or folder as workers address it: an absolute path, or the URL."""
        return storage.absolute(self.path)

    @property
    def name(self) -> str:
        return f"parquet:{self.root}"

    def pace(self, gates: Gates) -> None:
        """Nothing is asked of a host to list it."""

    def check(self) -> None:
        """Raise UserError where there is no such file, or no column of pictures in one."""
        for file in self._files():
            self._columns(file)

    def photos(self, known: Container[str], newest: datetime | None = None) -> Generator[list[Photo], None, Listing]:
        """Yield the pictures whose ids are not in `known`, a row group at a time. Raises UserError as `check` does."""
        observed_at = datetime.now(UTC)
        seen = empty = 0
        listed: set[str] = set()
        for file in self._files():
            columns = self._columns(file)
            number = 0
            for rows in _rows(file, columns):
                new = []
                for row in rows[: None if self.limit is None else self.limit - seen]:
                    photo = self._photo(file, number, row, columns, observed_at)
                    number += 1
                    seen += 1
                    empty += not photo.sizes
                    if photo.sizes and photo.photo_id not in known and photo.photo_id not in listed:
                        new.append(photo)
                        listed.add(photo.photo_id)
                if new:
                    yield new
                if seen == self.limit:
                    return Listing(
                        complete=True, total=None, seen=seen, note=f"stopped at the limit of {seen}", limited=True
                    )
        note = f"passed over {empty} rows without a picture or URL" if empty else None
        return Listing(complete=True, total=seen, seen=seen, note=note)

    def sizes(self, photo_id: str) -> list[Size] | None:
        """Nothing but what was listed."""
        return []

    def is_gone(self, photo_id: str) -> bool:
        """Whether no row has that name any more. Raises UserError as `check` does."""
        return photo_id not in self._ids

    @cached_property
    def _ids(self) -> set[str]:
        """Of all rows with a picture, whatever the limit, when first asked: reading them all for each would not end."""
        return {photo.photo_id for page in replace(self, limit=None).photos(()) for photo in page}

    def forgets(self, license_id: str | None) -> bool:
        return False

    def _files(self) -> list[str]:
        if self.root.endswith(ENDINGS):
            if not storage.exists(self.root):
                raise UserError(f"there is no file {self.path}")
            return [self.root]
        files = [storage.join(self.root, name) for name in storage.names(self.root) if name.endswith(ENDINGS)]
        if not files:
            raise UserError(f"there are no {', '.join(ENDINGS)} files in {self.path}")
        return files

    def _columns(self, file: str) -> Columns:
        schema = _schema(file)
        for asked in filter(None, (self.image, self.id)):
            if asked not in schema.names:
                raise UserError(f"{file} has no column {asked!r}; it has {', '.join(schema.names)}")

        def first(names: tuple[str, ...], bytes_: bool) -> str | None:
            fitting = (name for name in names if name in schema.names and _holds_bytes(schema.field(name)) == bytes_)
            return next(fitting, None)

        held = first((self.image,) if self.image else PICTURES, True)
        url = first((self.image,) if self.image and not held else URLS, False)
        if held is None and url is None:
            raise UserError(
                f"{file}: which column holds pictures or URLs? name it as `image`: {', '.join(schema.names)}"
            )
        return Columns(held, url, self.id or first(IDS, False))

    def _photo(self, file: str, number: int, row: dict[str, Any], columns: Columns, observed_at: datetime) -> Photo:
        held = columns.held is not None and row.pop(columns.held)
        url = row.get(columns.url) if columns.url else None
        # The picture's address is not its page, and what a machine wrote of it no caption by people.
        told = {key: value for key, value in row.items() if key != columns.url}
        if told.get("caption_model"):
            told.pop("caption", None)
        facts = facts_of(told)
        licence = facts.licence or self.license
        name, license_url = recognise(licence) if licence else (None, None)
        date_taken, granularity = partial_date(facts.date)
        sizes = [Size(f"{ROW}{file}#{columns.held}#{number}")] if held else []
        if url and not sizes:
            sizes = [Size(str(url))]
        return Photo(
            photo_id=self._id(file, number, row, columns.id),
            source=self.name,
            rights=Rights(None, name, license_url, observed_at),
            title=facts.title,
            description=facts.description,
            tags=facts.tags,
            human_captions=facts.captions,
            date_taken=date_taken,
            date_granularity=granularity,
            owner=facts.creator,
            page_url=facts.page_url,
            sizes=tuple(sizes),
            raw=json.dumps(row, ensure_ascii=False, default=str),
        )

    def _id(self, file: str, number: int, row: dict[str, Any], column: str | None) -> str:
        value = row.get(column) if column else None
        if value is None:
            return f"row:{self.prefix}{file.rpartition('/')[2]}#{number}"
        # An archive's own export goes on by the names it had.
        return str(value) if column == "photo_id" and ":" in str(value) else f"row:{self.prefix}{value}"


def _holds_bytes(field: pa.Field) -> bool:
    """Whether a column holds pictures themselves: as bytes, or as Hugging Face has them, a struct with bytes in it."""
    kind = field.type
    if pa.types.is_struct(kind):
        return "bytes" in {inner.name for inner in kind}
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[Any]:
    try:
        with storage.open_file(file) as opened:
            yield opened
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error


def _csv(opened: Any, file: str, names: list[str] | None = None) -> pc_csv.CSVStreamingReader:
    """All columns as text, if their names are given: else what looks like a number would lose its zeros."""
    types = pc_csv.ConvertOptions(column_types=dict.fromkeys(names or (), pa.string()), strings_can_be_null=True)
    return pc_csv.open_csv(
        opened,
        parse_options=pc_csv.ParseOptions(delimiter="\t" if file.endswith(".tsv") else ",", newlines_in_values=True),
        convert_options=types,
    )


def _schema(file: str) -> pa.Schema:
    with _opened(file) as opened:
        return pq.read_schema(opened) if file.endswith(".parquet") else _csv(opened, file).schema


def _rows(file: str, columns: Columns) -> Iterator[list[dict[str, Any]]]:
    """The rows of a file, some at a time; in the place of a picture stands whether there is one."""
    schema = _schema(file)
    with _opened(file) as opened:
        if not file.endswith(".parquet"):
            for batch in _csv(opened, file, schema.names):
                yield batch.to_pylist()
            return
        parquet = pq.ParquetFile(opened)
        others = [field.name for field in schema if not _holds_bytes(field)]
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group, columns=others).to_pylist()
            if columns.held:
                there = _there(parquet, group, columns.held)
                rows = [{**row, columns.held: held} for row, held in zip(rows, there, strict=True)]
            yield rows


def _there(parquet: pq.ParquetFile, group: int, column: str) -> list[bool]:
    """Whether the rows of a group hold a picture; read only where the file's own statistics do not say it of all."""
    about = parquet.metadata.row_group(group)
    leaves = [about.column(i) for i in range(about.num_columns)]
    [leaf] = [leaf for leaf in leaves if leaf.path_in_schema in (column, f"{column}.bytes")]
    if leaf.is_stats_set and leaf.statistics.has_null_count and leaf.statistics.null_count == 0:
        return [True] * about.num_rows
    return [picture is not None for picture in _pictures(parquet.read_row_group(group, columns=[column]))]


def _pictures(table: pa.Table) -> list[bytes | None]:
    [values] = (column.to_pylist() for column in table.itercolumns())
    return [value["bytes"] if isinstance(value, dict) else value for value in values]


def read_row(address: str) -> bytes:
    """The picture that an address of a row names. Raises FileNotFoundError, OSError."""
    file, column, row = address.removeprefix(ROW).rsplit("#", 2)
    with _reading:  # a part's pictures lie together: the first thread that comes reads for all
        first, pictures = _group_of(file, column, int(row))
    picture = pictures[int(row) - first]
    if picture is None:
        raise FileNotFoundError(address)
    return picture


_reading = threading.Lock()


def _group_of(file: str, column: str, row: int) -> tuple[int, list[bytes | None]]:
    first = 0
    for group, rows in enumerate(_group_rows(file)):
        if row < first + rows:
            return first, _group(file, column, group)
        first += rows
    raise FileNotFoundError(f"{file} has no row {row}")


@lru_cache(maxsize=64)
def _group_rows(file: str) -> list[int]:
    with storage.open_file(file) as opened:
        metadata = pq.read_metadata(opened)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


@lru_cache(maxsize=2)
def _group(file: str, column: str, group: int) -> list[bytes | None]:
    with storage.open_file(file) as opened:
        return _pictures(pq.ParquetFile(opened).read_row_group(group, columns=[column]))
