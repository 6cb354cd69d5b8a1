"""What was found among the photos of a build, kept in reports/ for searches, and written for people.

What is kept names photos by their ids alone: titles and rights are the build's, so that `forget` need not look here.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schemas, storage
from pipeline.archive import RECEIPT, Archive
from pipeline.builds import Build
from pipeline.duplicates import Found
from pipeline.duplicates.tiers import NEAR_BITS, NEAR_COSINE
from pipeline.photo import UserError

FACTS = ("title", "owner", "license_name", "license_url", "page_url", "source_sha256", "width", "height")


def url(archive: Archive, of: str) -> str:
    return storage.join(archive.url, "reports", f"duplicates-{of}.parquet")


def said(build: Build, found: Found) -> dict[str, Any]:
    """The documented JSON, and what the files say of themselves."""
    return {
        "archive": build.archive.url,
        "of": build.card["of"],
        "build": build.card["build"],
        "photos": found.photos,
        "hashed": found.hashed,
        "problems": found.problems,
        "thresholds": {"near_bits": NEAR_BITS, "near_cosine": NEAR_COSINE, "similar_cosine": found.similar},
        "tiers": found.counts,
        "report": url(build.archive, build.card["of"]),
    }


def keep(build: Build, found: Found) -> None:
    """Put the groups where searches look for them."""
    storage.replace(url(build.archive, build.card["of"]), _parquet(build, found, found.rows))


def write(path: str, build: Build, found: Found) -> None:
    """Write the groups with the facts of their photos as a Parquet file of its own, wherever `path` says."""
    storage.replace(path, _parquet(build, found, with_facts(build, found.rows)))


def with_facts(build: Build, rows: pa.Table) -> pa.Table:
    """Rows of schemas.DUPLICATES beside FACTS of their photos."""
    facts = build.facts(sorted(set(rows["row_id"].to_pylist())), FACTS)
    for name in FACTS:
        kind = schemas.IMAGES.field(name).type if name in ("width", "height") else pa.string()
        rows = rows.append_column(name, pa.array([facts[row_id][name] for row_id in rows["row_id"].to_pylist()], kind))
    return rows


def _parquet(build: Build, found: Found, rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows.replace_schema_metadata({RECEIPT: json.dumps(said(build, found))}),
        sink,
        compression="zstd",
        write_page_checksum=True,
    )
    return bytes(sink.getvalue())


def kept(archive: Archive, of: str) -> dict[str, Any] | None:
    """What was found the last time, as `said` has it; None where nobody has looked yet. Raises UserError."""
    try:
        file = pa.BufferReader(storage.read(url(archive, of)))
        return json.loads(pq.read_metadata(file).metadata[RECEIPT])
    except FileNotFoundError:
        return None
    except pa.ArrowInvalid as error:
        raise _damaged(archive, of) from error


def groups(build: Build) -> tuple[dict[int, int], str | None]:
    """(row id → row id of the photo that stands for it, of exact and near copies; a note where these are of an older
    build). Photos that are alone are not in it. Raises UserError where nobody has looked for duplicates yet."""
    of = build.card["of"]
    try:
        table = pq.read_table(pa.BufferReader(storage.read(url(build.archive, of))))
    except FileNotFoundError as error:
        command = f"`tintype duplicates {build.archive.url} --of {of}`"
        raise UserError(f"nobody has looked for duplicates in this archive yet; {command} does") from error
    except pa.ArrowInvalid as error:
        raise _damaged(build.archive, of) from error
    leaders: dict[tuple[str, str], int] = {}
    of_row: dict[int, int] = {}
    columns = [table[name].to_pylist() for name in ("tier", "group", "row_id", "representative")]
    for tier, group, row_id, representative in zip(*columns, strict=True):  # exact before near
        if tier != "similar":
            if representative:
                leaders[tier, group] = row_id
            of_row[row_id] = leaders[tier, group]
    made_of = json.loads(table.schema.metadata[RECEIPT])["build"]
    note = f"duplicates are those of an older index, {made_of}: `tintype duplicates` looks again"
    return of_row, None if made_of == build.card["build"] else note


def _damaged(archive: Archive, of: str) -> UserError:
    return UserError(f"{url(archive, of)} is damaged; delete it, and run `tintype duplicates` again")


def collapse(groups: Mapping[int, int], row_ids: Sequence[int]) -> dict[int, int]:
    """The first hit of each group, in their order, with how many later ones are copies of it. `groups`: as above."""
    first: dict[int, int] = {}
    copies: dict[int, int] = {}
    for row_id in row_ids:
        kept = first.setdefault(groups.get(row_id, row_id), row_id)
        copies[kept] = copies.get(kept, -1) + 1
    return copies
