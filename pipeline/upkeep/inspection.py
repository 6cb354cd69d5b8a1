"""A part read whole, to its last byte, and what an inspection of an archive has found so far."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schemas, storage
from pipeline.archive import RECEIPT, Archive
from pipeline.upkeep.rows import FORGOTTEN, Fault

NAMED = 3  # photos named of those that have the same fault
KEYS = [field.name for field in schemas.KEY]

Report = Callable[[str, dict[str, Any]], None]  # as progress.Progress has it


class Unreadable(Exception):
    """A file that cannot be read. `damaged`: its bytes are there and are wrong; else it is the way to them."""

    def __init__(self, told: str, damaged: bool) -> None:
        super().__init__(told)
        self.damaged = damaged


@dataclass(frozen=True)
class Part:
    """What was read of a part: its receipt, its rows' ids, and whether nothing is wrong with any row by itself."""

    receipt: dict[str, Any]
    keys: pa.Table
    sound: bool


@dataclass
class Inspection:
    """What was seen so far.

    Attributes:
        parts: table → numbers of its parts
        forgotten: string[n], ids of the forgotten photos
        sound: (table, part) → write id, of parts whose rows are as they should be
        made: table → fact of its making ("precision", "torch", …) → value → parts that have it
        counts: of the parts and rows read, and of the pictures decoded
    """

    archive: Archive
    report: Report
    parts: dict[str, list[int]] = field(default_factory=dict)
    forgotten: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    sound: dict[tuple[str, int], str] = field(default_factory=dict)
    made: dict[str, dict[str, Counter[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Counter)))
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)

    def problem(self, table: str, part: int | None, problem: str, remedy: str) -> None:
        self.problems.append({"table": table, "part": part, "problem": problem, "remedy": remedy})

    def note(self, table: str, note: str) -> None:
        self.notes.append({"table": table, "note": note})

    def derived(self) -> list[str]:
        """Names of the tables that are made of images."""
        return [name for name in self.parts if "/" in name]

    def remedy(self, name: str, part: int) -> str:
        """How a part is made good whose rows are wrong or lost."""
        file = part_name(name, part)
        tables = [table for table in self.derived() if part in self.parts[table]]
        made_of_it = [part_name(table, part) for table in tables]
        again = dict.fromkeys(["`tintype annotate CONF`", *map(maker, tables)])
        if name == "photos":
            return f"restore {file} from a backup: row ids count on it, so it cannot be made anew"
        if name == "images":
            return (
                f"delete {', '.join([file, *made_of_it])}, then `tintype fetch CONF` and {' and '.join(again)}; or "
                "restore it from a backup, if its source may show less than it did"
            )
        if name == "changes":
            return (
                f"restore {file} from a backup; without one delete it: `tintype refresh CONF` sees again what sources "
                "changed, what people corrected is lost"
            )
        if name == "forgotten":
            return f"restore {file} from a backup; without one delete it, and forget its photos again"
        return f"delete {file}, then {maker(name)}"


def maker(table: str) -> str:
    """The command that makes the missing parts of a derived table."""
    return "`tintype duplicates CONF`" if table.startswith("hashes/") else "`tintype annotate CONF`"


def part_name(table: str, part: int) -> str:
    """ "images/part-000003.parquet"."""
    return f"{table}/part-{part:06d}.parquet"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


# --- reading ----------------------------------------------------------------------------------------------------------


@contextmanager
def reading() -> Iterator[None]:
    """Have what goes wrong with a file in here raise Unreadable."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # Arrow's own word for bytes that make no sense, or not those of their checksum
            raise Unreadable(f"damaged: {_line(error)}", True) from error
        raise Unreadable(f"cannot be read: {error.strerror or _line(error)}", False) from error
    except (ValueError, pa.ArrowException) as error:  # such as names that are no UTF-8
        raise Unreadable(f"damaged: {_line(error)}", True) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def row_groups(parquet: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a file, every byte of them read and compared with its page's checksum. Raises Unreadable."""
    for group in range(parquet.num_row_groups):
        with reading():
            rows = parquet.read_row_group(group, columns=columns)
            rows.validate(full=True)
        yield rows


@contextmanager
def opened(url: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file, its footer read. Raises Unreadable."""
    with reading():
        file = storage.open_file(url)
    with file:
        with reading():
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            assert parquet.schema_arrow is not None  # reads the columns' names
        yield parquet


def read_part(
    seen: Inspection, name: str, part: int, schema: pa.Schema | None, faults: Callable[[pa.Table], Iterable[Fault]]
) -> Part | None:
    """Read a part whole, and enter what is wrong with its file, its receipt, its columns, and its rows by `faults`.

    None where it could not be read, or holds another part than its name says. `schema` None: it is not known.
    """
    keys = [pa.schema(schemas.KEY).empty_table()]
    found: dict[str, list[str]] = {}
    try:
        with opened(seen.archive.table(name).part_url(part)) as parquet:
            receipt = _receipt(parquet)
            if not _is_named(seen, name, part, receipt) or not _has_columns(seen, name, part, parquet, schema):
                return None
            for rows in row_groups(parquet):
                keys.append(rows.select(KEYS))
                for what, photo_id in faults(rows):
                    found.setdefault(what, []).append(photo_id)
    except Unreadable as error:
        way = f"see to permissions, disk and network, then verify again; if it is lost, {seen.remedy(name, part)}"
        seen.problem(name, part, str(error), seen.remedy(name, part) if error.damaged else way)
        return None
    for what, ids in found.items():
        shown = ", ".join(ids[:NAMED]) + (", …" if len(ids) > NAMED else "")
        remedy = "`tintype forget ARCHIVE`" if what == FORGOTTEN else seen.remedy(name, part)
        seen.problem(name, part, f"{count(len(ids), 'row')}: {what} ({shown})", remedy)
    read = Part(receipt, pa.concat_tables(keys), not found)
    if receipt and receipt.get("rows") != read.keys.num_rows:
        told = f"{count(read.keys.num_rows, 'row')}, its receipt says {receipt.get('rows')}"
        seen.problem(name, part, told, seen.remedy(name, part))
    _count(seen, name, read)
    return read


def _receipt(parquet: pq.ParquetFile) -> dict[str, Any]:
    """What a part's footer says of its making; {} where that is not there or not to be read."""
    try:
        receipt = json.loads((parquet.metadata.metadata or {}).get(RECEIPT, b"{}"))
    except ValueError:
        return {}
    return receipt if isinstance(receipt, dict) else {}


def _is_named(seen: Inspection, name: str, part: int, receipt: dict[str, Any]) -> bool:
    """Whether a part is the one that its name says, as far as its receipt tells; enters that it is not."""
    if not {"table", "part", "rows", "write_id"} <= receipt.keys():
        seen.problem(name, part, "no receipt in its footer, or not a whole one", seen.remedy(name, part))
        return True
    told = receipt["table"], receipt["part"]
    if told == (name, part):
        return True
    right = part_name(*told) if isinstance(told[1], int) else "that"
    remedy = f"rename it to {right}, whose place it holds"
    seen.problem(name, part, f"is part {told[1]} of {told[0]}, by its receipt", remedy)
    return False


def _has_columns(seen: Inspection, name: str, part: int, parquet: pq.ParquetFile, schema: pa.Schema | None) -> bool:
    """Whether a part has the columns of its table; enters that it does not."""
    there = {column.name: column.type for column in parquet.schema_arrow}
    wrong = [column.name for column in schema or schemas.KEY if there.get(column.name) != column.type]
    if wrong:
        told = f"column {', '.join(wrong)} missing, or not of the type in docs/tables.md"
        remedy = seen.remedy(name, part)
        if wrong == ["embedding"]:
            told = "no column of vectors with the dim that its table.json says"
            remedy = f"restore {name}/table.json from a backup, if all its parts have this problem; else {remedy}"
        seen.problem(name, part, told, remedy)
    return not wrong


def _count(seen: Inspection, name: str, read: Part) -> None:
    receipt = read.receipt
    facts = {key: receipt[key] for key in ("precision", "device") if key in receipt} | dict(receipt.get("versions", {}))
    for fact, value in facts.items():
        seen.made[name][fact][str(value)] += 1
    seen.counts.update(parts=1, rows=read.keys.num_rows)
    seen.report("verify", {"table": name, "rows": read.keys.num_rows, "outcomes": {}})
