"""Index builds: where they lie, what their cards say, and one of them opened.

A build is a folder that never changes: a snapshot of index, facts, rights and captions of the same live rows. Only what
is forgotten, gone from its source or corrected by a person since is read anew: that holds at once.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from pipeline import indexes, storage, words
from pipeline.archive import Archive, Change, gone
from pipeline.photo import UserError

FORMAT = 3  # 2: caption_by; 3: words.sqlite
NAME = "%Y%m%dT%H%M%S%f"  # of a build, with a few letters after it: names sort by time


def folder(archive: Archive, of: str, name: str = "") -> str:
    """URL of the folder of a build, or of all builds of an embeddings table."""
    return storage.join(archive.url, "index", of, *([name] if name else []))


def current(archive: Archive, of: str) -> dict[str, Any] | None:
    """The card of the build that searches of this embeddings table use; None where there is none yet."""
    try:
        return card(archive, of, storage.read(storage.join(folder(archive, of), "CURRENT")).decode())
    except FileNotFoundError:
        return None


def card(archive: Archive, of: str, name: str) -> dict[str, Any] | None:
    """The card of a build; None where there is none, as of a build that a run was killed at."""
    try:
        return json.loads(storage.read(storage.join(folder(archive, of, name), "card.json")))
    except FileNotFoundError:
        return None


def made_at(name: str) -> datetime:
    """When a build of this name was begun."""
    return datetime.strptime(name.partition("-")[0], NAME).replace(tzinfo=UTC)


def remove(archive: Archive, of: str, name: str) -> None:
    """Delete a build, and this machine's copy of it."""
    there = folder(archive, of, name)
    for file in storage.names(there):
        storage.delete(storage.join(there, file))
    if storage.is_local(there):
        shutil.rmtree(storage.local_path(there), ignore_errors=True)
    else:
        shutil.rmtree(local_copy(there), ignore_errors=True)


def local_copy(url: str) -> Path:
    """Where this machine keeps its copy of a remote build."""
    return storage.cache(hashlib.sha256(url.encode()).hexdigest()[:16])


@dataclass(frozen=True)
class News:
    """What was said since a build was made that holds at once, by row id."""

    hidden: frozenset[int]  # forgotten, or gone from their source
    captions: dict[int, Change]  # people's


@dataclass(frozen=True)
class Build:
    """An index build, opened.

    `folder` holds it on this machine. `database` holds a view `photos` of its photos.parquet, and reaches nothing else.
    """

    archive: Archive
    card: dict[str, Any]
    folder: Path
    index: indexes.Index
    database: duckdb.DuckDBPyConnection

    def nearest(
        self, queries: np.ndarray, k: int, *, among: np.ndarray | None = None, without: Iterable[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of each unit vector, float32[n, dim]: (cosines float32[n, k], row ids int64[n, k]), best first.

        `among`: row ids to search within, all where None. `without`: row ids not to answer. Where fewer than k are
        found, the row ids end in -1.
        """
        return indexes.search(self.index, queries, k, among=among, without=without)

    def vector(self, row_id: int) -> np.ndarray:
        """The unit vector of a photo, float32[dim]. Raises KeyError for one that has none in this build."""
        return indexes.vector(self.index, row_id)

    def words(
        self, text: str, k: int, *, among: np.ndarray | None = None, without: Iterable[int] = ()
    ) -> list[tuple[int, float]]:
        """The k photos that say most of a text: (row id, BM25), best first; see words.search. Raises UserError."""
        try:
            return words.search([self.folder / "words.sqlite"], text, k, among=among, without=without)
        except words.Damaged as error:
            raise _damaged(self.folder) from error

    def facts(self, row_ids: Iterable[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Columns of photos.parquet for some rows, by row id."""
        sql = f"SELECT row_id, {', '.join(columns)} FROM photos WHERE row_id IN (SELECT unnest(?::BIGINT[]))"
        rows = self.database.cursor().execute(sql, [[int(row_id) for row_id in row_ids]]).fetchall()
        return {row[0]: dict(zip(columns, row[1:], strict=True)) for row in rows}

    def row_ids(self, photo_ids: Iterable[str]) -> dict[str, int]:
        """Row ids of those of the photos that this build holds."""
        sql = "SELECT photo_id, row_id FROM photos WHERE photo_id IN (SELECT unnest(?::VARCHAR[]))"
        return dict(self.database.cursor().execute(sql, [list(photo_ids)]).fetchall())

    def news(self) -> News:
        """What was forgotten, and what else was said since this build was made."""
        changes = self.archive.changes(without=[int(part) for part in self.card["parts"]["changes"]])
        captions = {photo_id: facts["caption"] for photo_id, facts in changes.items() if "caption" in facts}
        hidden = self.row_ids(self.archive.forgotten().keys() | gone(changes).keys())
        held = self.row_ids(captions)
        return News(frozenset(hidden.values()), {row_id: captions[photo_id] for photo_id, row_id in held.items()})

    def matching(self, where: str) -> np.ndarray:
        """Row ids, int64[n], of the photos that a DuckDB expression is true of. Raises UserError with the reason."""
        photos = self.database.cursor().view("photos")
        try:
            # SQLExpression parses an expression and nothing else: no second statement, no unbalanced bracket.
            found = photos.filter(duckdb.SQLExpression(where)).select("row_id").fetchnumpy()["row_id"]
        except duckdb.Error as error:
            reason = " ".join(str(error).split("\n\n")[0].split())
            raise UserError(f"cannot use --where {where!r}: {reason} (columns: {', '.join(photos.columns)})") from error
        return np.asarray(found, np.int64)


def open_build(url: str, of: str | None = None) -> Build:
    """Open the current index of the archive at `url`; `of` names its embeddings, to be given where there are several.

    A remote build is first copied into the user's cache folder. Raises UserError where there is no archive or no index.
    """
    archive = Archive.open(url)
    indexed = storage.names(storage.join(url, "index"))
    if of is None and len(indexed) > 1:
        raise UserError(f"{url} has indexes of {', '.join(indexed)}: say which one to search")
    name = of or next(iter(indexed), "")
    card = current(archive, name)
    if card is None:
        raise UserError(f"{url} has no index{f' of {name}' if name else ''} yet; `tintype index CONF` builds it")
    if card["format"] != FORMAT:
        raise UserError(f"the index of {name} was built by another release; `tintype index CONF` builds it anew")
    there = _local(folder(archive, name, card["build"]), card)
    try:
        index = indexes.read(there / "index.faiss")
    except indexes.Damaged as error:
        raise _damaged(there) from error
    return Build(archive, card, there, index, _database(there / "photos.parquet"))


def _local(url: str, card: dict[str, Any]) -> Path:
    """The folder of a build on this machine: itself where it is local, else a copy in the cache."""
    if storage.is_local(url):
        here = storage.local_path(url)
    else:
        here = local_copy(url)
        for name in card["bytes"]:
            storage.bring(storage.join(url, name), here / name)
    for name, size in card["bytes"].items():
        if not (here / name).exists() or (here / name).stat().st_size != size:
            raise _damaged(here)
    return here


def _damaged(folder: Path) -> UserError:
    return UserError(f"the index in {folder} is damaged; delete that folder and run `tintype index CONF`")


def _database(photos: Path) -> duckdb.DuckDBPyConnection:
    """A database whose only table is the view `photos`, and which reaches no other file, no network and no variable."""
    path = str(photos).replace("'", "''")
    database = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    database.execute(f"SET allowed_paths = ['{path}']")
    database.execute(f"CREATE VIEW photos AS SELECT * FROM read_parquet('{path}')")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database
