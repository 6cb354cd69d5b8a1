"""Index builds: where they lie, what their cards say, and one of them opened.

A build is a folder that never changes: a snapshot of index, facts, rights and captions of the same live rows. Only what
is forgotten, gone from its source or corrected by a person since is read anew: that holds at once.
"""

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import indexes, schemas, storage, words
from pipeline.archive import Archive, rows_in
from pipeline.changes import Change, gone
from pipeline.facts import ANEW, Damaged, damaged, database, matching, reading
from pipeline.indexes import exact
from pipeline.indexes.segments import Segment, nearest
from pipeline.photo import UserError

FORMAT = 5  # 2: caption_by; 3: words.sqlite, bases, effort, truth; 4: labels; 5: objects
ORPHAN = timedelta(hours=6)  # a build without a card, or a scratch file, that is this old is of a run that was killed
NAME = "%Y%m%dT%H%M%S%f"  # of a build, with a few letters after it: names sort by time
NAMED = re.compile(r"\d{8}T\d{12}-[0-9a-f]{4}")
TRUTH = "truth.parquet"  # what a build was measured with: who only searches needs no copy of it
# What is read of a card.
CARD = {
    *("build", "bytes", "here", "effort", "base", "of", "identity"),
    *("captions", "labels", "objects", "parts", "settings", "rows", "kind"),
}
SAID = ("captions", "labels", "objects")  # kinds of tables that a build tells what one of them says


def folder(archive: Archive, of: str, name: str = "") -> str:
    """URL of the folder of a build, or of all builds of an embeddings table."""
    return storage.join(archive.url, "index", of, *([name] if name else []))


def tables(card: Mapping[str, Any]) -> dict[str, str]:
    """Of each kind in SAID, the name of the table that a build tells of, where there is one."""
    return {kind: card[kind]["table"] for kind in SAID if card.get(kind)}


def current(archive: Archive, of: str) -> dict[str, Any] | None:
    """The card of the build that searches of this embeddings table use; None where there is none yet.

    Raises UserError where it is damaged.
    """
    try:
        name = storage.read(storage.join(folder(archive, of), "CURRENT")).decode(errors="replace")
    except FileNotFoundError:
        return None
    return card_of(archive, of, name) if NAMED.fullmatch(name) else None


def card_of(archive: Archive, of: str, name: str) -> dict[str, Any] | None:
    """The card of a build; None where there is none, as of a build that a run was killed at.

    Raises UserError where it is damaged.
    """
    here = folder(archive, of, name)
    try:
        card = json.loads(storage.read(storage.join(here, "card.json")))
        if not isinstance(card, dict) or "format" not in card or (card["format"] == FORMAT and not card.keys() >= CARD):
            raise ValueError("not a card")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Damaged(f"the card in {here} is damaged; delete that folder and run `tintype index CONF`") from error
    return card


def whole_card(archive: Archive, of: str, name: str) -> dict[str, Any] | None:
    """The card of a build, as far as one can be read."""
    try:
        return card_of(archive, of, name)
    except UserError:
        return None


def whole(archive: Archive, card: dict[str, Any]) -> bool:
    """Whether the files of a build, and of the one that it grew from, are there as they were written."""
    chain = [card]
    if card.get("base"):
        base = whole_card(archive, card["of"], card["base"])
        if base is None:
            return False
        chain.append(base)
    for made in chain:
        for name, size in made["bytes"].items():
            fs, path = storage.filesystem(storage.join(folder(archive, made["of"], made["build"]), name))
            if not fs.exists(path) or fs.size(path) != size:
                return False
    return True


def made_at(name: str) -> datetime:
    """When a build of this name was begun."""
    return datetime.strptime(name.partition("-")[0], NAME).replace(tzinfo=UTC)


def all_of(archive: Archive, of: str) -> list[str]:
    """Names of the builds of an embeddings table, in use or not, by age."""
    return [name for name in storage.names(folder(archive, of)) if NAMED.fullmatch(name)]


def prune(archive: Archive, of: str, keep: int) -> None:
    """Delete builds older than the `keep` newest, but for what those stand on.

    So are those without a card, unless they are new: a run was killed at them.
    """
    cards = {name: whole_card(archive, of, name) for name in all_of(archive, of)}
    kept = set([name for name, card in cards.items() if card][-keep:])
    in_use = current(archive, of)
    kept |= {in_use["build"]} if in_use else set()
    kept |= {card["base"] for name, card in cards.items() if card and name in kept and card.get("base")}
    for name, card in cards.items():
        old = card is not None or made_at(name) < datetime.now(UTC) - ORPHAN
        if old and name not in kept:
            remove(archive, of, name)


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
    """An index build, opened, together with the base that it adds to, if it has one.

    `folders` hold them on this machine, the base first. `database` holds a view `photos` of their rows as they stand,
    and reaches nothing else.
    """

    archive: Archive
    card: dict[str, Any]
    folders: tuple[Path, ...]
    kinds: tuple[str, ...]  # of the indexes in them
    masked: np.ndarray  # int64[n]: rows of the base that hold no longer
    database: duckdb.DuckDBPyConnection

    @functools.cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The indexes, opened when they are first asked. Raises UserError for one that is damaged."""
        found = []
        for folder, kind in zip(self.folders, self.kinds, strict=True):
            with reading(folder):
                found.append(indexes.open_index(folder, kind, self.card["effort"]))
        return tuple(Segment(index, masked) for index, masked in zip(found, self.masks, strict=True))

    @property
    def masks(self) -> list[np.ndarray]:
        """For each folder, the row ids in it that hold no longer."""
        return [self.masked, self.masked[:0]][-len(self.folders) :]

    def nearest(
        self, queries: np.ndarray, k: int, *, among: np.ndarray | None = None, without: Iterable[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of each unit vector, float32[n, dim]: (cosines float32[n, k], row ids int64[n, k]), best first.

        `among`: row ids to search within, all where None. `without`: row ids not to answer. Where fewer than k are
        found, the row ids end in -1.
        """
        return nearest(self.segments, queries, k, among=among, without=without)

    def vector(self, row_id: int) -> np.ndarray:
        """The unit vector of a photo of this build, float32[dim]. Raises KeyError for one that has none."""
        [vector], [has] = self.vectors(np.array([row_id], np.int64))
        if not has:
            raise KeyError(row_id)
        return vector

    def vectors(self, row_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of photos of this build, int64[n], the unit vectors float32[n, dim] and whether there is one, bool[n].

        Zeros where there is none. From the index where that has them at hand, else from the embeddings table.
        """
        vectors = np.zeros((len(row_ids), self.card["dim"]), np.float32)
        has = np.zeros(len(row_ids), bool)
        listed = False  # whether a segment has its vectors in lists alone, where no row id leads to them
        for segment in self.segments:
            index = segment.index
            if index.vectors is None or index.row_ids is None:
                listed = True
            elif len(index):
                places = np.searchsorted(index.row_ids, row_ids).clip(max=len(index) - 1)
                there = index.row_ids[places] == row_ids
                vectors[there] = exact.unit(index.vectors[places[there]])
                has |= there
        if listed:
            left = np.flatnonzero(~has)
            vectors[left], has[left] = self._read_vectors(row_ids[left])
        return vectors, has

    def _read_vectors(self, row_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `vectors`, from the embeddings table, each part of it read once."""
        embeddings = self.archive.table(f"embeddings/{self.card['of']}")
        vectors = np.zeros((len(row_ids), self.card["dim"]), np.float32)
        has = np.zeros(len(row_ids), bool)
        order = np.argsort(row_ids)
        parts = np.unique(row_ids >> schemas.ROW_BITS).tolist()
        read = storage.ahead(lambda part: embeddings.take(part, rows_in(row_ids[order], part), ["embedding"]), parts)
        for part, rows in zip(parts, read, strict=True):
            places = order[row_ids[order] >> schemas.ROW_BITS == part]
            has[places] = rows["embedding"].is_valid().to_numpy()
            stored = rows["embedding"].drop_null().combine_chunks().flatten().to_numpy()
            vectors[places[has[places]]] = exact.unit(stored.reshape(-1, vectors.shape[1]))
        return vectors, has

    def words(
        self, text: str, k: int, *, among: np.ndarray | None = None, without: Iterable[int] = ()
    ) -> list[tuple[int, float]]:
        """The k photos that say most of a text: (row id, BM25), best first; see words.search. Raises UserError."""
        files = [(folder / "words.sqlite", masked) for folder, masked in zip(self.folders, self.masks, strict=True)]
        try:
            return words.search(files, text, k, among=among, without=without)
        except words.Damaged as error:
            raise damaged(error.path.parent) from error

    def facts(self, row_ids: Iterable[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Columns of photos for some rows, by row id."""
        wanted = ", ".join(str(int(row_id)) for row_id in row_ids)
        if not wanted:
            return {}
        # Written out, the ids let DuckDB pass over row groups that hold none of them.
        sql = f"SELECT row_id, {', '.join(columns)} FROM photos WHERE row_id IN ({wanted})"
        with reading(self.folders[-1]):
            rows = self.database.cursor().execute(sql).fetchall()
        return {row[0]: dict(zip(columns, row[1:], strict=True)) for row in rows}

    def photos(self, columns: Sequence[str] | None = None, among: np.ndarray | None = None) -> pa.Table:
        """Rows of photos, by row id: all, or those with these row ids, int64[n], ascending."""
        tables = []
        for place, folder in enumerate(self.folders):
            names = None if columns is None else list(dict.fromkeys(["row_id", *columns]))
            where = None
            if among is not None:
                first, last = (int(among[0]), int(among[-1])) if len(among) else (0, -1)
                where = [("row_id", ">=", first), ("row_id", "<=", last)]
            with reading(folder):
                rows = pq.read_table(folder / "photos.parquet", columns=names, filters=where)
            row_ids = rows["row_id"].to_numpy()
            here = np.ones(len(row_ids), bool) if among is None else np.isin(row_ids, among)
            if place < len(self.folders) - 1:
                here &= ~np.isin(row_ids, self.masked)
            tables.append(rows.filter(pa.array(here)))
        rows = tables[0] if len(tables) == 1 else pa.concat_tables(tables).sort_by("row_id")
        return rows if columns is None else rows.select(list(columns))

    def row_ids(self, photo_ids: Iterable[str]) -> dict[str, int]:
        """Row ids of those of the photos that this build holds."""
        sql = "SELECT photo_id, row_id FROM photos WHERE photo_id IN (SELECT unnest(?::VARCHAR[]))"
        with reading(self.folders[-1]):
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
        return matching(self.database, [where])


def indexed(url: str) -> list[str]:
    """Names of the embeddings that the archive at `url` has indexes of."""
    return storage.names(storage.join(url, "index"))


def open_build(url: str, of: str | None = None) -> Build:
    """Open the current index of the archive at `url`; `of` names its embeddings, to be given where there are several.

    A remote build is first copied into the user's cache folder. Raises UserError where there is no archive or no index.
    """
    archive = Archive.open(url)
    names = indexed(url)
    if of is None and len(names) > 1:
        raise UserError(f"{url} has indexes of {', '.join(names)}: say which one with --of")
    name = of or next(iter(names), "")
    card = current(archive, name)
    if card is None:
        raise UserError(f"{url} has no index{f' of {name}' if name else ''} yet; `tintype index CONF` builds it")
    if card["format"] != FORMAT:
        raise UserError(f"the index of {name} was built by another release; `tintype index CONF` builds it anew")
    return opened(archive, card)


def opened(archive: Archive, card: dict[str, Any]) -> Build:
    """Open the build of a card. Raises UserError where it is damaged."""
    chain = [card]
    if card["base"]:
        base = card_of(archive, card["of"], card["base"])
        if base is None:
            raise Damaged(f"build {card['base']}, on which the index of {card['of']} stands, is not there; {ANEW}")
        chain = [base, card]
    folders = tuple(local(folder(archive, made["of"], made["build"]), made) for made in chain)
    kinds = tuple(made["here"]["kind"] for made in chain)
    masked = np.empty(0, np.int64)
    if card["base"]:
        with reading(folders[-1]):
            masked = np.load(folders[-1] / "masked.npy")
    return Build(archive, card, folders, kinds, masked, database(folders, masked))


def local(url: str, card: dict[str, Any]) -> Path:
    """The folder of a build on this machine: itself where it is local, else a copy in the cache.

    Raises UserError where a file of it is missing or is not as long as it was.
    """
    sizes = {name: size for name, size in card["bytes"].items() if name != TRUTH}
    if storage.is_local(url):
        here = storage.local_path(url)
    else:
        here = local_copy(url)
        for name in sizes:
            try:
                storage.bring(storage.join(url, name), here / name)
            except FileNotFoundError as error:
                raise damaged(here) from error
    for name, size in sizes.items():
        if not (here / name).exists() or (here / name).stat().st_size != size:
            raise damaged(here)
    return here
