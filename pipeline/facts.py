"""The facts of a build's photos as a database: what `--where` asks, and that it can reach nothing else."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import indexes
from pipeline.photo import UserError

ANEW = "`tintype index CONF` builds it anew"
SOUGHT = b"tintype_objects"  # key in the footer of photos.parquet: what was looked for in the pictures, as JSON
# What `--where` can ask beside SQL's own: has('bicycle'), has('bicycle', 0.5). Of a photo that nobody looked at it is
# null, so that neither this nor its opposite finds it.
HAS = """
CREATE MACRO has(name, least := 0) AS CASE WHEN list_contains({known}, name)
THEN list_contains([object.label FOR object IN objects IF object.score >= least], name) ELSE error({told} || name) END
"""


class Damaged(UserError):
    """A build whose files are not what they were, or are no longer there."""


def matching(database: duckdb.DuckDBPyConnection, wheres: Sequence[str]) -> np.ndarray:
    """Row ids, int64[n], of the photos that all of these expressions are true of. Raises UserError with the reason."""
    columns: list[str] = []
    try:
        photos = found = database.cursor().view("photos")
        columns = photos.columns
        for where in wheres:
            # SQLExpression parses an expression and nothing else: no second statement, no unbalanced bracket.
            found = found.filter(duckdb.SQLExpression(where))
        rows = found.select("row_id").fetchnumpy()["row_id"]
    except duckdb.Error as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        if not columns or isinstance(error, duckdb.IOException):  # what a `where` reaches for is refused in other ways
            raise Damaged(f"the index cannot be read: {reason}; {ANEW}") from error
        raise UserError(f"cannot use --where {where!r}: {reason} (columns: {', '.join(columns)})") from error
    return np.asarray(rows, np.int64)


@contextmanager
def reading(folder: Path | str) -> Iterator[None]:
    """Say of a build what its files' readers say each in their way. Raises UserError."""
    try:
        yield
    except (indexes.Damaged, OSError, ValueError, EOFError, pa.ArrowException, duckdb.Error) as error:
        raise damaged(folder) from error


def damaged(folder: Path | str) -> Damaged:
    return Damaged(f"the index in {folder} is damaged; delete that folder and run `tintype index CONF`")


def sought(folder: Path) -> list[str]:
    """What was looked for in the pictures of the build in this folder."""
    footer = pq.read_schema(folder / "photos.parquet").metadata or {}
    found: list[str] = json.loads(footer.get(SOUGHT, b"[]"))
    return found


def _has(known: Sequence[str]) -> str:
    """The macro `has`, which knows what was looked for: of anything else no picture tells."""
    told = f"the objects of this index are {', '.join(known)}, none is " if known else "this index has no objects, no "
    literals = ["'{}'".format(text.replace("'", "''")) for text in [*known, told]]
    return HAS.format(known=f"[{', '.join(literals[:-1])}]::VARCHAR[]", told=literals[-1])


def database(folders: Sequence[Path], masked: np.ndarray, **limits: str) -> duckdb.DuckDBPyConnection:
    """A database whose only table is the view `photos`, and which reaches no other file, no network and no variable.

    `limits`: DuckDB's settings of these names, such as memory_limit.
    """
    paths = ["'{}'".format(str(folder / "photos.parquet").replace("'", "''")) for folder in folders]
    database = duckdb.connect(":memory:", config={"python_enable_replacements": "false", **limits})
    database.execute(f"SET allowed_paths = [{', '.join(paths)}]")
    tables = [f"SELECT * FROM read_parquet({path})" for path in paths]
    if len(masked):
        database.execute("CREATE TABLE masked AS SELECT unnest(?::BIGINT[]) AS row_id", [masked.tolist()])
        tables[0] += " WHERE row_id NOT IN (SELECT row_id FROM masked)"
    with reading(folders[-1]):
        database.execute(_has(sought(folders[-1])))
        database.execute(f"CREATE VIEW photos AS {' UNION ALL '.join(tables)}")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database
