"""index: live rows → a build (index.faiss, photos.parquet, words.sqlite, card.json) → measured → CURRENT switched.

A build is a folder that never changes; readers keep theirs while CURRENT moves on to the next. It is whole, or it has a
base, another build, of which some rows are masked and to which its own are added: so an archive grows at the cost of
what is new. What a build was measured with, `truth.parquet`, comes with it.
"""

import hashlib
import json
import math
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic

from pipeline import builds, facts, indexes, rollup, storage, words
from pipeline.archive import Archive, versions
from pipeline.indexes import kinds, recall
from pipeline.indexes.kinds import Choice
from pipeline.indexes.segments import Segment
from pipeline.photo import TryLater, UserError
from pipeline.stages import contents, measure
from pipeline.stages.contents import Contents
from pipeline.stages.fill import Each, Plan, check, fill, grow, in_threads, sweep

# A build of fewer rows is made anew in less time than anybody would notice, and is the simpler for it.
GROWS = 50_000
DUE = 0.2  # the share of rows added, or masked, since training, from which a rebuild is due
ASKED_AGAIN = 8  # one of so many of the base's queries: all of them would take longer than adding does
DRIFT = 0.02  # of recall@10
NOT_MADE_OF = ("of", *builds.SAID, "keep")  # settings that a build is no other for
UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _bytes(value: Any) -> Any:
    """ "4G" or "4GB" as bytes."""
    if not isinstance(value, str):
        return value
    said = re.fullmatch(r"(\d{1,15}(?:\.\d+)?) ?(?:([KMGT])B?)?", value.strip().upper(), re.ASCII)
    if not said:
        raise ValueError("give it as 4G or 600M, or as a number of bytes")
    return int(float(said[1]) * UNITS.get(said[2], 1))


class NothingToIndex(UserError):
    """There are live photos, or none, but no vector of one."""


@dataclass(frozen=True)
class IndexSettings:
    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    of: str | None = None
    """The embeddings table to index; to be named only where there are several."""
    captions: str | None = None
    """The captions table whose captions the hits show; to be named only where there are several."""
    labels: str | None = None
    """The labels table whose labels the hits show, and filters may ask; to be named only where there are several."""
    objects: str | None = None
    """The objects table whose objects the hits show, and filters may ask; to be named only where there are several."""
    kind: str = "auto"
    """`flat` compares a query with every vector: exact. `ivf_flat` with those of the likeliest lists, `ivf_pq` with
    codes of them and then with the best vectors; `hnsw` follows a graph. Any FAISS factory string will do, such as
    `OPQ16_64,IVF4096,PQ16x4fs`. `auto` is the first of the first three that `latency` and `memory` allow."""
    memory: Annotated[int, pydantic.Field(gt=0), pydantic.BeforeValidator(_bytes)] = 4 * 10**9
    """What searching, and making, the index may take of memory: `4G`, `600M`."""
    latency: Annotated[float, pydantic.Field(gt=0)] = 20.0
    """Milliseconds that `auto` lets exact search take for a query, on the machine that builds. Vectors of up to 256 MB
    are searched exactly in any case."""
    min_recall: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.99
    """The share of the ten nearest photos that a search must find, on the average: effort is raised until it does."""
    keep: Annotated[int, pydantic.Field(ge=1)] = 2
    """Builds that are kept, the one in use among them."""


def build(
    archive: Archive,
    settings: IndexSettings,
    *,
    update: bool = False,
    each: Each = in_threads,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], bool]:
    """Index the live photos and switch to that build: (its card, True). Nothing changed: (the current card, False).

    With `update` the build in use is added to, where it can be (see `_base`); without, one that was is made anew.
    `each` does a function for many items, as `fill.in_threads` does here and `cluster.each` on Ray. `say` is told how
    far it is.

    Raises UserError where there is nothing to index, or where the settings do not say which of several tables.
    """
    of = _choose(archive, "embeddings", settings.of, "index.of")
    said = {kind: _choose(archive, kind, getattr(settings, kind), f"index.{kind}") for kind in builds.SAID}
    if of is None:
        raise UserError(f"{archive.url} has no embeddings yet; `tintype annotate CONF` makes them")
    made_of = _made_of(archive, of, said, settings)
    card = builds.current(archive, of)
    if card is not None and _is_made_of(card, made_of) and (update or not card["base"]) and builds.whole(archive, card):
        return card, False
    base = _base(archive, card, made_of) if update and card is not None else None
    try:
        made = _grow(archive, base, made_of, settings, say) if base else _build(archive, made_of, settings, each, say)
    except FileNotFoundError:
        # Another run, at the same build, was quicker, and cleared away what we were still reading.
        card = builds.current(archive, of)
        if card is not None and _is_made_of(card, made_of):
            return card, False
        raise TryLater("another run cleared away what this one was building the index from; run it again") from None
    builds.prune(archive, of, settings.keep)
    return made, True


def explain(archive: Archive, settings: IndexSettings) -> dict[str, Any]:
    """What `build` would make and why, and what each kind would take, from the number of vectors so far."""
    of = _choose(archive, "embeddings", settings.of, "index.of")
    identity = archive.table(f"embeddings/{of}").identity() if of else None
    if of is None or identity is None:
        raise UserError(f"{archive.url} has no embeddings yet; `tintype annotate CONF` makes them")
    rows, speed = _vectors(archive, of, None), kinds.memory_speed()
    chosen, why = kinds.choose(settings.kind, rows, identity["dim"], settings.memory, settings.latency, speed)
    check(chosen, identity["dim"])
    others = kinds.options(rows, identity["dim"], settings.memory, speed)
    return {
        "of": of,
        "rows": rows,
        "dim": identity["dim"],
        "memory": settings.memory,
        "latency_ms": settings.latency,
        "speed": speed,
        "chosen": asdict(chosen) | {"ms": None if math.isnan(chosen.ms) else chosen.ms},
        "why": why,
        "options": [asdict(option) for option in others],
    }


def is_fresh(archive: Archive, card: dict[str, Any]) -> bool:
    """Whether building again, of the same tables, would give what the build of this card holds."""
    return _is_made_of(card, _made_of(archive, card["of"], builds.tables(card), settings_of(card)))


def settings_of(card: Mapping[str, Any]) -> IndexSettings:
    """The settings that a build was made with, to make the like of it; no other build is pruned for it."""
    known = {f.name for f in fields(IndexSettings)} - set(NOT_MADE_OF)
    settings = {name: value for name, value in card.get("settings", {}).items() if name in known}
    settings |= builds.tables(card)
    return IndexSettings(of=card["of"], keep=sys.maxsize, **settings)


def _choose(archive: Archive, kind: str, name: str | None, setting: str) -> str | None:
    """The name of the table of this kind that is asked for, else of the only one there is, else None."""
    there = [table.removeprefix(f"{kind}/") for table in archive.tables() if table.startswith(f"{kind}/")]
    if name is None and len(there) > 1:
        raise UserError(f"{archive.url} has {kind} {', '.join(there)}: choose with --set {setting}=NAME")
    if name is not None and name not in there:
        raise UserError(f"{archive.url} has no {kind} {name!r} yet; `tintype annotate CONF` makes them")
    return name or next(iter(there), None)


def _made_of(archive: Archive, of: str, said: Mapping[str, str | None], settings: IndexSettings) -> dict[str, Any]:
    """Everything that a build follows from: what is equal here builds alike. `said`: by kind, the table's name."""
    embeddings = archive.table(f"embeddings/{of}")
    telling = {kind: archive.table(f"{kind}/{name}") for kind, name in said.items() if name}
    tables = [*map(archive.table, ("images", "changes", "forgotten")), embeddings, *telling.values()]
    return {
        "format": builds.FORMAT,
        "of": of,
        "settings": {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in NOT_MADE_OF},
        "identity": embeddings.identity(),
        **{
            kind: {"table": said[kind], "identity": telling[kind].identity()} if kind in telling else None
            for kind in builds.SAID
        },
        "parts": {
            t.name: {str(p): receipt["write_id"] for p, receipt in rollup.receipts(archive, t).items()} for t in tables
        },
    }


def _is_made_of(card: dict[str, Any], made_of: dict[str, Any]) -> bool:
    return all(card.get(key) == value for key, value in made_of.items())


def _vectors(archive: Archive, of: str, row_ids: np.ndarray | None) -> int:
    """How many vectors there will be, as far as receipts tell: some rows have none."""
    receipts = rollup.receipts(archive, archive.table(f"embeddings/{of}")).values()
    annotated = sum(receipt.get("outcomes", {}).get("annotated", receipt["rows"]) for receipt in receipts)
    return annotated if row_ids is None else min(annotated, len(row_ids))


# --- a build of its own -----------------------------------------------------------------------------------------------


def _build(
    archive: Archive, made_of: dict[str, Any], settings: IndexSettings, each: Each, say: Callable[[str], None]
) -> dict[str, Any]:
    of, embeddings = made_of["of"], archive.table(f"embeddings/{made_of['of']}")
    clock = _Clock()
    rows = contents.everything(archive, _parts(made_of, embeddings.name))
    clock.lap("live")
    there, dim = _vectors(archive, of, rows.row_ids), made_of["identity"]["dim"]
    choice, why = kinds.choose(settings.kind, there, dim, settings.memory, settings.latency, kinds.memory_speed())
    check(choice, dim)
    held_out = measure.held_out(rows.row_ids)
    trained_without = held_out if len(rows.row_ids) >= measure.SPARE * len(held_out) else held_out[:0]
    digest = hashlib.sha256(json.dumps([made_of, choice.factory], sort_keys=True).encode()).hexdigest()[:16]
    making = storage.join(archive.url, "making", f"{of}-{digest}")
    plan = Plan(archive, of, rows.row_ids, trained_without, choice, settings.memory, making, say)
    with storage.scratch_folder(builds.folder(archive, of)) as folder:
        if len(rows.row_ids):
            clock.seconds |= fill(plan, folder, each)
        if not len(rows.row_ids) or not len(index := indexes.open_index(folder, choice.kind)):
            told = f"none of the {len(rows.row_ids)} live photos has a vector in {embeddings.name}: nothing to index"
            raise NothingToIndex(told)
        clock.lap()
        say("facts and words")
        _write_facts(archive, rows, made_of, folder, clock)
        texts = measure.words(archive, made_of["identity"], folder / "photos.parquet")
        known, problems = measure.truth(embeddings, rows.row_ids, held_out, texts)
        recall.write(known, folder / builds.TRUTH)
        say("measuring")
        measured = measure.measure([Segment(index)], known, embeddings, [rows.keys], settings.min_recall)
        measured["recall"] |= {"why_no_texts": texts.why_not}
        clock.lap("measure")
        counts = {"photos": len(rows.row_ids), "rows": len(index), "not_annotated": rows.not_annotated}
        card = made_of | {
            **indexes.about(index),
            "why": why,
            **counts,
            "problems": problems,
            "dim": dim,
            **measured,
            "base": None,
            "drift": None,
            "here": {"photos": len(rows.row_ids), "rows": len(index), "kind": choice.kind},
        }
        card = _commit(archive, card, folder, clock)
    sweep(archive, making)
    return card


def _parts(card: Mapping[str, Any], table: str) -> list[int]:
    return [int(part) for part in card["parts"][table]]


def _write_facts(archive: Archive, rows: Contents, made_of: Mapping[str, Any], folder: Path, clock: "_Clock") -> None:
    contents.write_photos(archive, rows, builds.tables(made_of), folder / "photos.parquet")
    clock.lap("photos")
    words.write(folder / "photos.parquet", folder / "words.sqlite")
    clock.lap("words")


# --- a build that grows another ---------------------------------------------------------------------------------------


def _base(archive: Archive, card: dict[str, Any], made_of: Mapping[str, Any]) -> dict[str, Any] | None:
    """The card of the build to grow; None where it must be made anew.

    That is where it is small, or other settings, models or parts made it; and where a photo was forgotten that it
    holds: of that no byte may be left.
    """
    base = builds.card_of(archive, card["of"], card["base"]) if card.get("base") else card
    same = ("format", "of", "settings", "identity", *builds.SAID)
    if base is None or any(base.get(key) != made_of[key] for key in same) or base["rows"] < GROWS:
        return None
    if not builds.whole(archive, base):
        return None
    for name, before in base["parts"].items():
        now = made_of["parts"][name]
        if any(now.get(part) != write_id for part, write_id in before.items()):
            return None
    if base["parts"]["forgotten"].keys() != made_of["parts"]["forgotten"].keys():
        forgotten = pa.array(sorted(archive.forgotten()), pa.string())
        if pc.any(pc.is_in(_keys(archive, base)["photo_id"], value_set=forgotten)).as_py():
            return None
    return base


def _keys(archive: Archive, card: Mapping[str, Any]) -> pa.Table:
    """row_id and photo_id of the rows of a build of its own."""
    here = builds.folder(archive, card["of"], card["build"])
    with facts.reading(here), storage.open_file(storage.join(here, "photos.parquet")) as file:
        return pq.read_table(file, columns=["row_id", "photo_id"])


def _grow(
    archive: Archive,
    base: dict[str, Any],
    made_of: dict[str, Any],
    settings: IndexSettings,
    say: Callable[[str], None],
) -> dict[str, Any]:
    of, embeddings = base["of"], archive.table(f"embeddings/{base['of']}")
    clock = _Clock()
    keys, before = _keys(archive, base), {name: _parts(base, name) for name in base["parts"]}
    rows = contents.since(archive, keys, before, _parts(made_of, embeddings.name))
    clock.lap("live")
    here = builds.folder(archive, of, base["build"])
    below = builds.local(here, base)
    with facts.reading(below):
        under = Segment(indexes.open_index(below, base["kind"], base["effort"]), rows.masked)
        truth = recall.some(recall.read(storage.brought(storage.join(here, builds.TRUTH), below)), ASKED_AGAIN)
    choice = Choice(base["kind"], "", 0, 0, math.nan)
    kind = base["kind"] if base["kind"] in (indexes.IVF_FLAT, indexes.IVF_PQ) else indexes.FLAT
    with storage.scratch_folder(builds.folder(archive, of)) as folder:
        plan = Plan(archive, of, rows.row_ids, rows.row_ids[:0], choice, settings.memory, "", say)
        clock.seconds |= grow(plan, below, folder)
        clock.lap()
        _write_facts(archive, rows, made_of, folder, clock)
        np.save(folder / "masked.npy", rows.masked)
        own = indexes.open_index(folder, kind, base["effort"])
        segments = [under, Segment(own)]
        known, problems = measure.grown(truth, rows.masked, embeddings, rows.row_ids)
        measured = measure.measure(segments, known, embeddings, [keys, rows.keys], settings.min_recall)
        clock.lap("measure")
        measured["recall"] |= {"why_no_texts": base["recall"]["why_no_texts"]}
        masked = indexes.held(segments[0].index, rows.masked)
        card = made_of | {
            **indexes.about(segments[0].index),
            "why": f"grown from {base['build']}",
            "photos": base["photos"] - len(rows.masked) + len(rows.row_ids),
            "rows": base["rows"] - masked + len(own),
            "not_annotated": rows.not_annotated,
            "problems": {p: base["problems"].get(p, 0) + problems.get(p, 0) for p in base["problems"] | problems},
            "dim": base["dim"],
            **measured,
            "base": base["build"],
            "drift": _drift(base, len(own), len(rows.masked), measured["recall"]),
            "here": {"photos": len(rows.row_ids), "rows": len(own), "kind": kind},
        }
        return _commit(archive, card, folder, clock)


def _drift(base: Mapping[str, Any], added: int, masked: int, now: Mapping[str, Any]) -> dict[str, Any]:
    """How far a build has gone from its training, and whether it is time to train again."""
    then = base["recall"]
    both = [kind for kind in (recall.ROWS, recall.TEXTS) if then[kind] and now[kind]]
    lost = {kind: round(then[kind]["recall@10"] - now[kind]["recall@10"], 4) for kind in both}
    shares = {"added": round(added / base["rows"], 4), "masked": round(masked / base["rows"], 4)}
    reasons = [f"{share:.0%} of the rows {name} since training" for name, share in shares.items() if share > DUE]
    reasons += [f"recall@10 for {kind} fell by {fall:g}" for kind, fall in lost.items() if fall > DRIFT]
    return shares | {"recall_lost": lost, "rebuild_due": bool(reasons), "why": "; ".join(reasons) or None}


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = perf_counter()

    def lap(self, phase: str | None = None) -> None:
        """What has passed since the last lap goes to a phase, or to none."""
        now = perf_counter()
        if phase:
            self.seconds[phase] = round(now - self.last, 3)
        self.last = now


# --- committing -------------------------------------------------------------------------------------------------------


def _commit(archive: Archive, card: dict[str, Any], folder: Path, clock: "_Clock") -> dict[str, Any]:
    """Commit the files of a local folder as a build, its card last, and switch to it; the card."""
    created_at = datetime.now(UTC)
    name = f"{created_at:{builds.NAME}}-{secrets.token_hex(2)}"
    here = builds.folder(archive, card["of"], name)
    sizes = {path.name: contents.commit(here, path) for path in sorted(folder.iterdir())}
    clock.lap("write")
    card |= {
        "build": name,
        "seconds": clock.seconds,
        "bytes": sizes,
        "created_at": created_at.isoformat(timespec="seconds"),
        "versions": versions(),
    }
    storage.create(storage.join(here, "card.json"), json.dumps(card, indent=2).encode())
    if not builds.whole(archive, card):
        raise TryLater("another run deleted the index that this one was adding to; run it again")
    storage.replace(storage.join(builds.folder(archive, card["of"]), "CURRENT"), name.encode())
    return card
