"""What is wrong with what parts are made with and into: tables' identities, weights, and index builds."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import builds, schemas, storage
from pipeline import indexes as faiss_indexes
from pipeline.models.settings import ABOUT
from pipeline.photo import UserError
from pipeline.upkeep.inspection import KEYS, Inspection, Unreadable, count, opened, reading, row_groups

NEAR = 1e-6  # that numbers of a vector may differ from those indexed: float32 sums taken in another order do


def identity(seen: Inspection, name: str) -> dict[str, Any]:
    """What a derived table was made with; {} where it does not say, which is entered."""
    fault = "has no table.json, which says what it was made with"
    try:
        found = seen.archive.table(name).identity()
        if isinstance(found, dict) and (schemas.derived(name, None) or isinstance(found.get("dim"), int)):
            return found
        if found is not None:
            fault = "its table.json is damaged"
    except ValueError:
        fault = "its table.json is damaged"
    if seen.parts[name]:
        remedy = f"restore {name}/table.json from a backup; or delete the folder {name}, then `tintype annotate CONF`"
        seen.problem(name, None, fault, remedy)
    return {}


# --- weights ----------------------------------------------------------------------------------------------------------


def weights(seen: Inspection, identities: Mapping[str, Mapping[str, Any]]) -> None:
    """Enter weights that tables name and the archive lacks, and those that are not what their folder's name says."""
    folder = storage.join(seen.archive.url, "models")
    users: dict[str, list[str]] = {sha256: [] for sha256 in storage.names(folder)}
    for name, made in identities.items():
        if sha256 := made.get("checkpoint_sha256"):
            users.setdefault(sha256, []).append(name)
    for sha256, tables in sorted(users.items()):
        there = storage.names(storage.join(folder, sha256))
        fault = _weights_fault(storage.join(folder, sha256), sha256) if there else "missing"
        if fault:
            needed = f"; {', '.join(tables)} {'was' if len(tables) == 1 else 'were'} made with them" if tables else ""
            first = f"delete the folder models/{sha256}, then " if there else ""
            seen.problem(f"models/{sha256}", None, fault + needed, f"{first}`tintype models CONF`")


def _weights_fault(folder: str, sha256: str) -> str | None:
    try:
        files = json.loads(storage.read(storage.join(folder, ABOUT)))["files"]
        for name in files:
            if not storage.exists(storage.join(folder, name)):
                return f"{name} is missing"
            if name.endswith(".json") and not is_json(storage.read(storage.join(folder, name))):
                return f"{name} is damaged"
        with reading(), storage.open_file(storage.join(folder, files[0])) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{ABOUT} is missing"
    except (ValueError, LookupError, TypeError):
        return f"{ABOUT} is damaged"
    except Unreadable as error:
        return f"{files[0]} {error}"
    return None if found == sha256 else f"the SHA-256 of {files[0]} is {found}"


def is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


# --- indexes ----------------------------------------------------------------------------------------------------------


def indexes(seen: Inspection, identities: Mapping[str, Mapping[str, Any]]) -> None:
    """Enter what is wrong with the builds in use, and forgotten photos in any; note what is out of date."""
    for of in storage.names(storage.join(seen.archive.url, "index")):
        name = f"index/{of}"
        names = [build for build in storage.names(builds.folder(seen.archive, of)) if build != "CURRENT"]
        try:
            card = builds.current(seen.archive, of)
        except UserError:
            card = {}
        if card is None and storage.exists(storage.join(builds.folder(seen.archive, of), "CURRENT")):
            seen.problem(name, None, "CURRENT names a build that is not there, or not whole", "`tintype index CONF`")
        elif card is None:
            seen.note(name, "no build in use: `tintype index CONF`")
        elif not card.keys() >= builds.CARD:
            build = storage.read(storage.join(builds.folder(seen.archive, of), "CURRENT")).decode(errors="replace")
            seen.problem(name, None, "the card of the build in use is damaged", _build_anew(name, build))
        else:
            for made in _chain(seen, name, card):
                _build(seen, name, made)
            if _is_stale(seen, card, identities):
                seen.note(name, "older than its tables: `tintype index CONF` renews it")
        for build in names:
            _forgotten_in(seen, name, of, build, in_use=(card or {}).get("build") == build)


def _build_anew(name: str, build: str) -> str:
    return f"delete the folder {name}/{build}, then `tintype index CONF`"


def _chain(seen: Inspection, name: str, card: dict[str, Any]) -> list[dict[str, Any]]:
    """The card of the build in use, after that of the build it was grown from, if it was."""
    if not card["base"]:
        return [card]
    base = builds.whole_card(seen.archive, card["of"], card["base"])
    if base is None:
        seen.problem(
            name, None, f"{card['base']}, which the build in use grew from, is not whole", "`tintype index CONF`"
        )
        return [card]
    return [base, card]


def _build(seen: Inspection, name: str, card: dict[str, Any]) -> None:
    """A build in use: its files, their rows, and its vectors."""
    folder = builds.folder(seen.archive, card["of"], card["build"])
    remedy = _build_anew(name, card["build"])
    for file, size in card["bytes"].items():
        fs, path = storage.filesystem(storage.join(folder, file))
        there = fs.size(path) if fs.exists(path) else None
        if there != size:
            told = "missing" if there is None else f"{there:,} bytes long, its card says {size:,}"
            seen.problem(name, None, f"{file} of the build in use is {told}", remedy)
            return
    try:
        with _local(folder, card["bytes"]) as here:
            index = faiss_indexes.open_index(here, card["here"]["kind"], card["effort"])
            row_ids = faiss_indexes.all_row_ids(index)
            if len(row_ids) != card["here"]["rows"]:
                told = f"index.faiss holds {count(len(row_ids), 'vector')}, its card says {card['here']['rows']:,}"
                raise faiss_indexes.Damaged(told)
            with opened(str(here / "photos.parquet")) as photos:
                for rows in row_groups(photos):
                    _build_rows(seen, card, index, row_ids, rows.select(KEYS))
        if photos.metadata.num_rows != card["here"]["photos"]:
            told = f"photos.parquet has {photos.metadata.num_rows} rows, not {card['here']['photos']}"
            raise faiss_indexes.Damaged(told)
    except faiss_indexes.Damaged as error:
        seen.problem(name, None, str(error), remedy)
    except Unreadable as error:
        seen.problem(name, None, f"photos.parquet {error}", remedy)


@contextmanager
def _local(folder: str, names: Iterable[str]) -> Iterator[Path]:
    """A folder on this machine with these files: itself, or a copy for as long as it is needed."""
    if storage.is_local(folder):
        yield storage.local_path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="tintype-") as copy:
        for name in names:
            storage.bring(storage.join(folder, name), Path(copy) / name)
        yield Path(copy)


def _build_rows(
    seen: Inspection, card: dict[str, Any], index: faiss_indexes.Index, indexed: np.ndarray, keys: pa.Table
) -> None:
    """Rows of a build against the parts that it was made of, where those are sound. Raises Damaged."""
    row_ids = keys["row_id"].to_numpy()
    table = f"embeddings/{card['of']}"
    for part in np.unique(row_ids >> schemas.ROW_BITS).tolist():
        here = keys.filter(pa.array(row_ids >> schemas.ROW_BITS == part))
        places = here["row_id"].to_numpy() - (part << schemas.ROW_BITS)
        if part not in seen.parts.get("photos", []):
            raise faiss_indexes.Damaged(f"holds rows of part {part}, which the archive does not have")
        if ("photos", part) not in seen.sound:
            continue
        photo_ids = seen.archive.table("photos").read(part, ["photo_id"])["photo_id"]
        if places.max() >= len(photo_ids) or not photo_ids.take(pa.array(places)).equals(here["photo_id"]):
            raise faiss_indexes.Damaged(f"its row ids in part {part} are of other photos in the archive")
        # A part that was made anew has vectors of its own, and the build is stale.
        if seen.sound.get((table, part), "") == card["parts"].get(table, {}).get(str(part)):
            rows = seen.archive.table(table).read(part, ["row_id", "embedding"]).take(pa.array(places))
            _compare(rows.filter(pc.is_valid(rows["embedding"])), index, indexed)


def _compare(rows: pa.Table, index: faiss_indexes.Index, indexed: np.ndarray) -> None:
    """Rows of an embeddings table that have a vector against an index, of which these are the rows. Raises Damaged."""
    lacking = ~np.isin(rows["row_id"].to_numpy(), indexed)
    if lacking.any():
        raise faiss_indexes.Damaged(f"index.faiss lacks the vector of row {rows['row_id'].to_numpy()[lacking][0]}")
    if index.vectors is None:  # they lie in the lists, whose bytes FAISS alone can place
        return
    numbers = rows["embedding"].combine_chunks().flatten().to_numpy().astype(np.float32)
    for row_id, made in zip(rows["row_id"].to_pylist(), numbers.reshape(rows.num_rows, -1), strict=True):
        if not np.abs(faiss_indexes.vector(index, row_id) - made / np.linalg.norm(made)).max() <= NEAR:
            raise faiss_indexes.Damaged(f"the vector of row {row_id} in index.faiss is not that of its table")


def _is_stale(seen: Inspection, card: dict[str, Any], identities: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether tables have gone on since a build; of those that are not sound nothing is known."""
    made_with = {f"embeddings/{card['of']}": card["identity"]}
    made_with |= {f"{kind}/{name}": card[kind]["identity"] for kind, name in builds.tables(card).items()}
    if any(identities.get(name) and identities[name] != made for name, made in made_with.items()):
        return True
    for name, made_of in card["parts"].items():
        now = {str(part) for part in seen.parts.get(name, [])}
        sound = {str(part): write_id for (table, part), write_id in seen.sound.items() if table == name}
        if now != made_of.keys() or any(made_of[part] != write_id for part, write_id in sound.items()):
            return True
    return False


def _forgotten_in(seen: Inspection, name: str, of: str, build: str, in_use: bool) -> None:
    """Enter forgotten photos that a build holds, whether it is in use or not."""
    try:
        held = 0
        with opened(storage.join(builds.folder(seen.archive, of, build), "photos.parquet")) as photos:
            for rows in row_groups(photos, ["photo_id"]):
                held += pc.sum(pc.is_in(rows["photo_id"], value_set=seen.forgotten)).as_py() or 0
    except Unreadable as error:
        if not in_use:  # else it is a problem already
            told = f"build {build} is not in use and not whole ({error})"
            seen.note(name, f"{told}: delete its folder, unless `tintype index` is just making it")
        return
    if held:
        told = f"build {build} holds {count(held, 'photo')} that {'is' if held == 1 else 'are'} forgotten"
        seen.problem(name, None, told, "`tintype forget ARCHIVE`")
