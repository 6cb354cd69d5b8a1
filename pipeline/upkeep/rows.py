"""What is wrong with rows of a part: each function looks at a row group, and names the faults and their photos."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas
from pipeline.checker import Checker
from pipeline.imaging import BadImage
from pipeline.photo import OUTCOMES, REASONS

Fault = tuple[str, str]  # what is wrong, in words; photo id
Identity = Mapping[str, Any]  # what the table was made with, as its table.json says

FORGOTTEN = "forgotten, and still held"
# What a row may say of a forgotten photo beside its ids: how its making ended, and the word "forgotten" anywhere.
BLANK = {"photos": (), "images": ("outcome", "fetched_at"), "changes": ()}

# That float16 may move a length off 1: half its last bit, 4.9e-4, if all numbers go the same way. Sums of float32 less.
ROUNDING = 1e-3
PIXELS = 100_000_000  # that a decoder has the memory for, however few the row says there are


def held(table: str, rows: pa.Table, forgotten: pa.Array) -> Iterator[Fault]:
    """Forgotten photos of which rows of a table still say something."""
    told = set(rows.column_names) - {"row_id", "photo_id", *BLANK.get(table, ("problem",))}
    for row in rows.filter(pc.is_in(rows["photo_id"], value_set=forgotten)).to_pylist():
        if any(row[name] not in (None, "forgotten") for name in told):
            yield FORGOTTEN, row["photo_id"]


def pictures(rows: pa.Table, checker: Checker, pool: ThreadPoolExecutor) -> Iterator[Fault]:
    """Rows of images whose outcome makes no sense, or whose picture is not what they say. Decodes every picture."""
    told = rows.to_pylist()
    for row, fault in zip(told, pool.map(partial(_picture, checker), told), strict=True):
        if fault:
            yield fault, row["photo_id"]


def _picture(checker: Checker, row: dict[str, Any]) -> str | None:
    """What is wrong with a row of images."""
    if row["outcome"] not in OUTCOMES:
        return f"outcome {row['outcome']!r}"
    if row["reason"] not in (REASONS if row["outcome"] == "failed" else [None]):
        return f"{row['outcome']}, with reason {row['reason']!r}"
    data = row["image"] and row["image"]["bytes"]
    if (data is not None) != (row["outcome"] == "fetched"):
        return f"{row['outcome']}, with{'out' if data is None else ''} a picture"
    if data is None:
        return None
    if row["store"] == "original" and hashlib.sha256(data).hexdigest() != row["source_sha256"]:
        return "the picture does not have the SHA-256 recorded for it"
    if not row["width"] or not row["height"]:
        return "no width or height"
    try:
        found = checker.check(data, max_pixels=max(PIXELS, row["width"] * row["height"]), derivative=False)
    except BadImage as bad:
        return f"the picture does not decode ({bad.reason})"
    if (found.format, found.width, found.height) != (row["format"], row["width"], row["height"]):
        return "the picture is not of the format and size recorded for it"
    return None


def vectors(rows: pa.Table, identity: Identity) -> Iterator[Fault]:
    """Rows of embeddings with neither vector nor problem, or both, or a vector that is not one of unit length."""
    yield from _either(rows, "embedding")
    made = rows.filter(pc.is_valid(rows["embedding"]))
    numbers = made["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    lengths = np.linalg.norm(numbers.reshape(made.num_rows, -1), axis=1) if made.num_rows else np.zeros(0)
    # A comparison with NaN is false, so the numbers that are none fall out first.
    finite = np.isfinite(lengths)
    yield from _where(made, ~finite, "a vector that is not finite")
    yield from _where(made, finite & ~(np.abs(lengths - 1) <= ROUNDING), "a vector that is not of unit length")


def captions(rows: pa.Table, identity: Identity) -> Iterator[Fault]:
    """Rows of captions with neither caption nor problem, or both, or a caption by another model than the table's."""
    yield from _either(rows, "caption")
    yield from _by_another(rows, "caption", identity)


def labels(rows: pa.Table, identity: Identity) -> Iterator[Fault]:
    """Rows of labels with neither labels nor problem, or both; labels by another model than the table's, of other
    classes or not as many as it has, or with probabilities that cannot be."""
    yield from _either(rows, "labels")
    yield from _by_another(rows, "labels", identity)
    classes = set(identity.get("classes", ()))
    number = min(identity.get("top", 0), len(classes))
    for row in rows.select(["photo_id", "labels"]).to_pylist():
        given = row["labels"]
        if given is None:
            continue
        if None in given or not {label["label"] for label in given} <= classes:
            yield "a label that is none of the classes in its table.json", row["photo_id"]
        elif len({label["label"] for label in given}) != number or len(given) != number:
            yield "not as many labels as its table.json says, or one of them twice", row["photo_id"]
        elif not _are_shares([label["probability"] for label in given]):
            yield "probabilities that cannot be, or that do not fall", row["photo_id"]


def objects(rows: pa.Table, identity: Identity) -> Iterator[Fault]:
    """Rows of objects with neither objects nor problem, or both; objects by another model than the table's, of other
    queries, more or of lower scores than it has, or in boxes that cannot be."""
    yield from _either(rows, "objects")
    yield from _by_another(rows, "objects", identity)
    queries, most, least = set(identity.get("queries", ())), identity.get("top", 0), identity.get("threshold", 0.0)
    for row in rows.select(["photo_id", "objects"]).to_pylist():
        given = row["objects"]
        if given is None:
            continue
        if None in given or not {found["label"] for found in given} <= queries:
            yield "an object that is none of the queries in its table.json", row["photo_id"]
        elif len(given) > most:
            yield "more objects than its table.json says", row["photo_id"]
        elif not _are_scores([found["score"] for found in given], least):
            yield "scores that cannot be, or that do not fall", row["photo_id"]
        elif not all(_is_box(found) for found in given):
            yield "a box that cannot be, or that is not in the picture", row["photo_id"]


def _are_scores(numbers: list[float | None], least: float) -> bool:
    scores = np.array(numbers, np.float64)  # None becomes NaN, of which no comparison is true
    return bool((scores >= least - ROUNDING).all() and (scores <= 1).all() and (np.diff(scores) <= 0).all())


def _is_box(found: dict[str, Any]) -> bool:
    edges = [found[name] for name in ("x0", "x1", "y0", "y1")]
    return None not in edges and 0 <= edges[0] < edges[1] <= 1 and 0 <= edges[2] < edges[3] <= 1


def _are_shares(numbers: list[float | None]) -> bool:
    """Whether numbers are shares of a whole, the largest first."""
    shares = np.array(numbers, np.float64)  # None becomes NaN, of which no comparison is true
    return bool((shares >= 0).all() and (np.diff(shares) <= 0).all() and shares.sum() <= 1 + ROUNDING)


def hashes(rows: pa.Table, identity: Identity) -> Iterator[Fault]:
    """Rows of hashes with neither hash nor problem, or both."""
    yield from _either(rows, "hash")


# Of the rows of a derived table, by the folder it is in.
OF_KIND = {"embeddings": vectors, "captions": captions, "labels": labels, "objects": objects, "hashes": hashes}


def changes(rows: pa.Table) -> Iterator[Fault]:
    """Changes of a field that there is not."""
    fields = [*schemas.PHOTOS.names, "license", "visible", "caption"]
    unknown = pc.invert(pc.is_in(rows["field"], value_set=pa.array(fields)))
    yield from _where(rows, unknown.to_numpy(), "a change of nothing that changes can be of")


def _by_another(rows: pa.Table, value: str, identity: Identity) -> Iterator[Fault]:
    """Where a machine's word is another model's than the table's."""
    said = rows.filter(pc.is_valid(rows[value]))
    other = pc.fill_null(pc.not_equal(said["model"], pa.scalar(identity.get("model"), pa.string())), True)
    what = {"caption": "a caption"}.get(value, value)
    yield from _where(said, other.to_numpy(), f"{what} by another model than its table.json names")


def _either(rows: pa.Table, value: str) -> Iterator[Fault]:
    """Where a derived row does not hold exactly one of value and problem."""
    alike = pc.equal(pc.is_null(rows[value]), pc.is_null(rows["problem"]))
    yield from _where(rows, alike.to_numpy(), f"neither {value} nor problem, or both")


def _where(rows: pa.Table, wrong: np.ndarray, what: str) -> Iterator[Fault]:
    for photo_id in rows["photo_id"].filter(pa.array(wrong)).to_pylist():
        yield what, photo_id
