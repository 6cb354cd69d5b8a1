"""verify: read all that an archive holds, and say what is wrong with it and what mends that. Changes nothing.

A problem keeps a part, a table or an index from being what docs/tables.md says it is. What is worth knowing and no
fault is a note.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import phash, schemas
from pipeline.archive import Archive
from pipeline.checker import Checker
from pipeline.imaging import cpus
from pipeline.stages.hash import TABLE as HASHES
from pipeline.upkeep import builds, rows
from pipeline.upkeep.inspection import Inspection, Part, Report, count, maker, part_name, read_part
from pipeline.upkeep.rows import Fault


def verify(archive: Archive, report: Report = lambda stage, receipt: None) -> dict[str, Any]:
    """Read every part of every table, the index builds in use and the weights, and decode every picture.

    `{"archive", "parts", "rows", "pictures", "problems": [{"table", "part", "problem", "remedy"}], "notes": [{"table",
    "note"}]}`, a contract: see docs/tables.md. `report` is called after each part. Holds one row group of pictures at a
    time, and of an index what a search holds of it.
    """
    seen = Inspection(archive, report)
    # What is made of others is listed before them: a run that adds parts meanwhile does not seem to lack their sources.
    order = ["changes", "forgotten", *archive.tables()]
    found = {name: archive.table(name).parts() for name in reversed(order)}
    seen.parts = {name: found[name] for name in order}
    _log(seen)
    identities = {name: _identity(seen, name) for name in seen.derived()}
    with Checker() as checker, ThreadPoolExecutor(cpus()) as pool:
        for part in _numbers(seen):
            _aligned(seen, part, identities, checker, pool)
    _pending(seen)
    _mixtures(seen)
    builds.indexes(seen, identities)
    builds.weights(seen, identities)
    counts = {key: seen.counts[key] for key in ("parts", "rows", "pictures")}
    return {"archive": archive.url, **counts, "problems": seen.problems, "notes": seen.notes}


def _identity(seen: Inspection, name: str) -> dict[str, Any]:
    """What a derived table was made with; {} where it does not say, or says what cannot be, which is entered."""
    if name != HASHES:
        return builds.identity(seen, name)
    try:
        found = seen.archive.table(name).identity()
    except ValueError:
        found = None
    if found != phash.IDENTITY and seen.parts[name]:
        told = "its table.json is missing, damaged, or of hashes that this release does not make"
        seen.problem(name, None, told, f"delete the folder {name}, then {maker(name)}")
        return {}
    return found or {}


def _log(seen: Inspection) -> None:
    """The tables that are not aligned."""
    ids: set[str] = set()
    for part in seen.parts["forgotten"]:
        if read := read_part(seen, "forgotten", part, schemas.FORGOTTEN, lambda group: ()):
            ids.update(read.keys["photo_id"].to_pylist())
            seen.sound["forgotten", part] = read.receipt.get("write_id", "")
    seen.forgotten = pa.array(sorted(ids), pa.string())

    def faults(group: pa.Table) -> Iterator[Fault]:
        yield from rows.held("changes", group, seen.forgotten)
        yield from rows.changes(group)

    for part in seen.parts["changes"]:
        if read := read_part(seen, "changes", part, schemas.CHANGES, faults):
            seen.sound["changes", part] = read.receipt.get("write_id", "")


def _numbers(seen: Inspection) -> list[int]:
    """The numbers of all aligned parts, ascending; enters those that photos lacks."""
    aligned = [name for name in seen.parts if name not in ("changes", "forgotten")]
    numbers = sorted({part for name in aligned for part in seen.parts[name]})
    for before, part in pairwise([-1, *numbers]):
        if part - before > 1:
            more = f", and the {count(part - before - 2, 'part')} after it" if part - before > 2 else ""
            seen.problem("photos", before + 1, f"missing{more}", seen.remedy("photos", before + 1))
    for part in sorted(set(numbers) - set(seen.parts.get("photos", []))):
        seen.problem("photos", part, "missing, while other tables have it", seen.remedy("photos", part))
    return numbers


def _aligned(
    seen: Inspection, part: int, identities: dict[str, dict[str, Any]], checker: Checker, pool: ThreadPoolExecutor
) -> None:
    """One part of all aligned tables."""

    def photos(group: pa.Table) -> Iterator[Fault]:
        return rows.held("photos", group, seen.forgotten)

    def images(group: pa.Table) -> Iterator[Fault]:
        seen.counts["pictures"] += pc.sum(pc.is_valid(group["image"])).as_py() or 0
        yield from rows.held("images", group, seen.forgotten)
        yield from rows.pictures(group, checker, pool)

    there = {name for name in seen.parts if part in seen.parts[name]}
    asked = read_part(seen, "photos", part, schemas.PHOTOS, photos) if "photos" in there else None
    if asked:
        _place(seen, "photos", part, asked, None, None)
    had = read_part(seen, "images", part, schemas.IMAGES, images) if "images" in there else None
    if had:
        _place(seen, "images", part, had, asked, asked)
    for name in seen.derived():
        if part in seen.parts[name]:
            _derived(seen, name, part, identities[name], asked or had, had)


def _derived(
    seen: Inspection, name: str, part: int, identity: dict[str, Any], asked: Part | None, had: Part | None
) -> None:
    """One part of a derived table, beside the rows asked for and the images that it was made of."""
    if "images" not in seen.parts or part not in seen.parts["images"]:
        told = f"there is no part {part} of images, of which it was made"
        again = f"delete {part_name(name, part)}, then `tintype fetch CONF` and {maker(name)}"
        seen.problem(name, part, told, f"restore {part_name('images', part)} from a backup; or {again}")
    kind = name.partition("/")[0]

    def faults(group: pa.Table) -> Iterator[Fault]:
        yield from rows.held(name, group, seen.forgotten)
        if identity or kind == "hashes":
            yield from rows.OF_KIND[kind](group, identity)

    read = read_part(seen, name, part, schemas.derived(name, identity.get("dim")), faults)
    if read:
        _place(seen, name, part, read, asked, had)
        fixed, used = identity.get("precision"), read.receipt.get("precision")
        if fixed and used and fixed != used:
            seen.problem(name, part, f"made in {used}, its table.json says {fixed}", seen.remedy(name, part))


def _place(seen: Inspection, name: str, part: int, read: Part, asked: Part | None, source: Part | None) -> None:
    """Enter that a part's rows are not those of its number or of `asked`, or were made of another than `source`."""
    number = read.keys.num_rows
    faults = []
    if not read.keys["row_id"].combine_chunks().equals(schemas.row_ids(part, number)):
        faults.append("its row ids are not those of this part")
    if asked and asked.keys.num_rows != number:
        faults.append(f"{count(number, 'row')}, but {count(asked.keys.num_rows, 'photo')} were asked for")
    elif asked and not read.keys["photo_id"].equals(asked.keys["photo_id"]):
        faults.append("its photo ids are not those of photos")
    if source and read.receipt and read.receipt.get("source_write_id") != source.receipt.get("write_id"):
        made_of = "photos" if name == "images" else "images"
        faults.append(f"it was made of another writing of {made_of} part {part} than is there")
    for fault in faults:
        seen.problem(name, part, fault, seen.remedy(name, part))
    if read.sound and not faults:
        seen.sound[name, part] = read.receipt.get("write_id", "")


def _pending(seen: Inspection) -> None:
    """Note what is still to be made."""
    photos = seen.parts.get("photos", [])
    images = seen.parts.get("images", [])
    todo = [("images", photos, images, "`tintype fetch CONF`")] if photos else []
    todo += [(name, images, seen.parts[name], maker(name)) for name in seen.derived()]
    for name, source, made, command in todo:
        if pending := len(set(source) - set(made)):
            seen.note(name, f"{count(pending, 'part')} still to be made: {command}")


def _mixtures(seen: Inspection) -> None:
    """Note where parts of a table were made in different precisions, on different devices or by different versions."""
    for name, facts in seen.made.items():
        mixed = []
        for fact, values in sorted(facts.items()):
            if len(values) > 1:
                shown = (f"{value} ({count(parts, 'part')})" for value, parts in sorted(values.items()))
                mixed.append(f"{fact} {', '.join(shown)}")
        if mixed:
            seen.note(name, f"parts differ in {'; '.join(mixed)}")
