"""conf/*.yaml → validated settings. Unknown keys are errors that suggest the nearest known key.

Each part's settings are a dataclass beside the code that obeys it; here they are put together. `docs/config.md` is made
from these classes.
"""

import difflib
import json
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import yaml

from pipeline import storage
from pipeline.builds import SAID
from pipeline.models.settings import CaptionSettings, EmbeddingSettings, LabelSettings, ObjectSettings, TableSettings
from pipeline.photo import UserError
from pipeline.search import Mode, Query, check
from pipeline.sources.flickr import FlickrSource
from pipeline.sources.folder import FolderSource
from pipeline.sources.parquet import ParquetSource
from pipeline.sources.unsplash import UnsplashSource
from pipeline.stages.fetch import ImageSettings
from pipeline.stages.index import IndexSettings

AnySource = Annotated[FlickrSource | FolderSource | ParquetSource | UnsplashSource, pydantic.Discriminator("kind")]


Kind = TypeVar("Kind")
TABLE = re.compile(r"\w[\w.-]*")
T = TypeVar("T", LabelSettings, ObjectSettings)


def _share(value: Any) -> Any:
    return float(value.removesuffix("%")) / 100 if isinstance(value, str) and value.endswith("%") else value


@dataclass(frozen=True)
class RunSettings:
    """How runs are carried out."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    runner: Literal["ray", "local"] = "ray"
    """`ray`: on Ray, a private one unless `RAY_ADDRESS` names a cluster. `local`: in this process alone."""
    gpus: Annotated[int, pydantic.Field(ge=0)] | None = None
    """GPUs of the Ray cluster that annotate at most; one that grows on demand is grown to so many, as far as there is
    work for them. Unset: those that the cluster has. 0: annotate on CPUs."""
    fetchers: Annotated[int, pydantic.Field(ge=1)] | None = None
    """Parts fetched at a time on Ray; a cluster that grows on demand is grown for them. Unset: two a CPU that the
    cluster has, or fewer where they would only wait for `images.rate`."""
    part_size: Annotated[int, pydantic.Field(ge=1, lt=1 << 20)] = 1000
    """Photos a part holds: the unit of work, of commit and of retry. Parts already listed keep their size."""
    max_failed: Annotated[float, pydantic.Field(ge=0, le=1), pydantic.BeforeValidator(_share)] = 0.01
    """Exit with status 1 if more than this share of a run's pictures failed in a way that may pass (`1%` or `0.01`)."""


@dataclass(frozen=True)
class Settings:
    """One archive: where it is, what goes into it, and what is made of it."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    archive: str
    """Where the archive lies: a local path or any fsspec URL (`s3://bucket/loc`)."""
    sources: Annotated[tuple[AnySource, ...], pydantic.Field(min_length=1)]
    """Where photos come from; several may share an archive."""
    images: ImageSettings = field(default_factory=ImageSettings)
    """How pictures are fetched and kept."""
    embeddings: dict[str, EmbeddingSettings] = field(default_factory=dict)
    """Embeddings tables by name."""
    captions: dict[str, CaptionSettings] = field(default_factory=dict)
    """Captions tables by name."""
    labels: dict[str, LabelSettings] = field(default_factory=dict)
    """Labels tables by name."""
    objects: dict[str, ObjectSettings] = field(default_factory=dict)
    """Objects tables by name."""
    index: IndexSettings = field(default_factory=IndexSettings)
    """The search index."""
    run: RunSettings = field(default_factory=RunSettings)
    """How runs are carried out."""

    def derived(self) -> dict[str, TableSettings]:
        """The tables that annotating fills, by name, each with what fills it."""
        kinds: dict[str, Mapping[str, TableSettings]] = {
            "embeddings": self.embeddings,
            "captions": self.captions,
            "labels": self.labels,
            "objects": self.objects,
        }
        return {f"{kind}/{name}": asked for kind, tables in kinds.items() for name, asked in tables.items()}


def read_yaml(path: str, what: str) -> Any:
    """What a YAML file holds. Raises UserError."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the {what} {path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def read_lines(path: str) -> list[str]:
    """The lines that say something of a text file, at a local path or any fsspec URL. Raises UserError."""
    try:
        lines = storage.read(path).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:  # bytes that are no UTF-8, a protocol that there is not
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def load_queries(path: str, k: int, where: str | None, mode: Mode = "vector") -> list[Query]:
    """Read a file of queries, with the keys of search.Query; `k`, `where` and `mode` hold where one has none.

    `.yaml`: a list. `.jsonl`: an object a line, or a string, which is a text. `.parquet`: a row each, nulls left out.
    Raises UserError that names the file and the place in it.
    """
    readers = {".yaml": _yaml_queries, ".yml": _yaml_queries, ".jsonl": _json_lines, ".parquet": _rows}
    read = readers.get(Path(path).suffix.lower())
    if read is None:
        raise UserError(f"{path}: queries come as {', '.join(sorted(readers))}")
    adapter = pydantic.TypeAdapter(Query)
    found = []
    for place, given in read(path):
        if isinstance(given.get("id"), int):
            given["id"] = str(given["id"])
        try:
            query = adapter.validate_python({"k": k, "where": where, "mode": mode, **given})
            check(query)
        except pydantic.ValidationError as error:
            raise UserError(f"{path}, {place}: " + "; ".join(_told(e, Query) for e in error.errors())) from error
        except UserError as error:
            raise UserError(f"{path}, {place}: {error}") from error
        found.append(query)
    if not found:
        raise UserError(f"{path} holds no queries")
    return found


def _yaml_queries(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    given = read_yaml(path, "queries")
    if not isinstance(given, list) or not all(isinstance(query, dict) for query in given):
        raise UserError(f"{path} must be a list of queries such as {{text: mini golf}}; see conf/queries_loc.yaml")
    yield from ((f"query {number}", query) for number, query in enumerate(given, 1))


def _json_lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    given = json.loads(line)
                    if not isinstance(given, str | dict):
                        raise UserError(f'{path}, line {number}: a query is {{"text": "mini golf"}}, or "mini golf"')
                    yield f"line {number}", {"text": given} if isinstance(given, str) else given
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the queries {path}: {getattr(error, 'strerror', None) or error}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}: not valid JSON: {error.msg} at column {error.colno}") from error


def _rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with pq.ParquetFile(path) as rows:
            names = rows.schema_arrow.names
            if not {"text", "image"} & set(names):
                raise UserError(f"{path} has no column text and none named image, but {', '.join(names)}")
            given = (row for batch in rows.iter_batches() for row in batch.to_pylist())
            for number, row in enumerate(given, 1):
                yield f"row {number}", {name: value for name, value in row.items() if value is not None}
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read the queries {path}: {getattr(error, 'strerror', None) or error}") from error


def archive_of(path: str) -> str:
    """Where the archive of a configuration lies. Raises UserError."""
    return _read(path, ()).archive


def index_of(path: str) -> str | None:
    """Of which embeddings the index of a configuration is; None where it has none. Raises UserError."""
    return _read(path, ()).index.of


def load(path: str, overrides: Sequence[str] = ()) -> Settings:
    """Read a configuration, and the files of classes and queries that it names; `overrides`: `key.sub=value` in YAML.

    Raises UserError.
    """
    return _with_names(_read(path, overrides), path)


def _read(path: str, overrides: Sequence[str]) -> Settings:
    return parse(given(path, overrides), path)


def given(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What a configuration says, with the overrides, not yet validated. Raises UserError."""
    said = read_yaml(path, "configuration")
    if not isinstance(said, dict):
        raise UserError(f"{path} holds no settings; see conf/ for examples")
    for override in overrides:
        _set(said, override)
    return said


def parse(given: Mapping[str, Any], where: str = "the configuration") -> Settings:
    """Validate settings. Raises UserError naming each wrong key in one line."""
    return _consistent(validated(Settings, given, where), where)


def validated(cls: type[Kind], given: Mapping[str, Any], where: str) -> Kind:
    """Settings of a class. Raises UserError naming each wrong key in one line."""
    try:
        return pydantic.TypeAdapter(cls).validate_python(given)
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: " + "; ".join(_told(e, cls) for e in error.errors())) from error


def _with_names(settings: Settings, where: str) -> Settings:
    """Settings with the classes and queries that files hold: those who work elsewhere need no such file."""
    labels = {name: _read_in(asked, "classes", f"{where}: labels.{name}") for name, asked in settings.labels.items()}
    objects = {name: _read_in(asked, "queries", f"{where}: objects.{name}") for name, asked in settings.objects.items()}
    return replace(settings, labels=labels, objects=objects)


def _read_in(asked: T, setting: str, where: str) -> T:
    """A table's settings, with the lines of the file that this setting names, if it does."""
    path = getattr(asked, setting)
    if not isinstance(path, str):
        return asked
    try:
        lines: dict[str, Any] = {setting: tuple(read_lines(path))}
        return replace(asked, **lines)
    except UserError as error:
        raise UserError(f"{where}.{setting}: {error}") from error


def _consistent(settings: Settings, where: str) -> Settings:
    """Settings whose index is of the tables that they name; the archive may hold those of others as well.

    Raises UserError where they do not say which, and for a name that would lead out of the archive.
    """
    for table in settings.derived():
        kind, _, name = table.partition("/")
        if not TABLE.fullmatch(name):
            raise UserError(f"{where}: {kind}.{name}: a table is named with letters, digits, _, - and . alone")
    chosen: dict[str, Any] = {}
    for kind, setting in (("embeddings", "of"), *((kind, kind) for kind in SAID)):
        names, given = list(getattr(settings, kind)), getattr(settings.index, setting)
        if given is None and len(names) > 1:
            raise UserError(f"{where}: index.{setting}: choose one of the {kind}: {', '.join(names)}")
        if given is not None and given not in names and kind == "embeddings":
            raise UserError(f"{where}: index.of: {given!r} is none of the embeddings: {', '.join(names)}")
        if given is None and names:
            chosen[setting] = names[0]
    return replace(settings, index=replace(settings.index, **chosen))


def _set(given: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise UserError(f"--set takes key.sub=value, not {override!r}")
    *parents, last = key.split(".")
    place: Any = given
    try:
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
        place[int(last) if isinstance(place, list) else last] = yaml.safe_load(value)
    except (TypeError, ValueError, IndexError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"--set {override}: there is no such setting") from error


def _told(error: Any, cls: type) -> str:
    """One pydantic error in one line, with the nearest known key for an unknown one."""
    where = [str(step) for step in error["loc"]]
    if error["type"] not in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{'.'.join(where)}: {error['msg']}"
    # One of the same name belongs elsewhere.
    near = difflib.get_close_matches(where[-1], sorted(known_keys(cls) - {where[-1]}), n=1)
    return f"unknown setting {'.'.join(where)}" + (f"; did you mean {near[0]!r}?" if near else "")


def known_keys(cls: type) -> set[str]:
    """Every key that occurs in settings of this class."""
    return {item.name for inner in setting_classes(cls) for item in fields(inner)}


def setting_classes(cls: type = Settings) -> list[type]:
    """A settings class and those within it, outermost first."""
    found = [cls]
    for outer in found:
        for hint in typing.get_type_hints(outer, include_extras=True).values():
            found += [inner for inner in _dataclasses_in(hint) if inner not in found]
    return found


def _dataclasses_in(hint: Any) -> list[type]:
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    return [inner for argument in typing.get_args(hint) for inner in _dataclasses_in(argument)]
