"""A report on an archive: what it holds, what its runs cost, how its index searches. Figures, and one file of HTML."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline import __version__, builds, storage
from pipeline.archive import Archive
from pipeline.builds import Build
from pipeline.duplicates import report as duplicates
from pipeline.photo import UserError
from pipeline.report import curves, photos, spent
from pipeline.report.captions import captions
from pipeline.status import status

FOLDERS = ("models", "index", "reports")  # beside the tables


def chosen(archive: Archive, of: str | None) -> tuple[Build | None, list[str]]:
    """The build that facts are read from, the first there is unless named; why others cannot be opened.

    Raises UserError where the one that was named cannot.
    """
    if of:
        return builds.open_build(archive.url, of), []
    found, why_not = None, []
    for name in storage.names(storage.join(archive.url, "index")):
        try:
            found = found or builds.open_build(archive.url, name)
        except UserError as error:
            why_not.append(str(error))
    return found, why_not


def figures(
    archive: Archive,
    build: Build | None,
    why_not: Sequence[str] = (),
    *,
    wall: int = 48,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """What `tintype report --json` prints; docs/tables.md explains it.

    Args:
        build, why_not: as `chosen` gives them
        wall: how many photos are shown
        say: told how far it is
    """
    say("what there is")
    state = status(archive)
    tables = {name: table | {"bytes": storage.size(archive.table(name).url)} for name, table in state["tables"].items()}
    others = {name: storage.size(storage.join(archive.url, name)) for name in FOLDERS}
    say("photos by year and licence")
    known = photos.tally(archive, build)
    say("what runs did")
    last, so_far = spent.last(archive), spent.so_far(archive)
    say("measuring the index")
    unread = dict.fromkeys(why_not)  # each reason once
    indexed = {name: _indexed(archive, build, name, unread) for name in state["indexes"]}
    say("captions")
    return {
        "archive": archive.url,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tintype": __version__,
        "photos": state["photos"],
        "failures": state["failures"],
        "facts": known,
        "tables": tables,
        "bytes": {name: size for name, size in others.items() if size},
        "listings": state["listings"],
        "duplicates": {name: _duplicates(archive, name, card) for name, card in state["indexes"].items()},
        "runs": last,
        "so_far": so_far,
        "indexes": indexed,
        "captions": captions(build) if build else None,
        "wall": photos.sample(archive, build, wall),
        "missing": [*unread, *missing(state)],
    }


def _indexed(archive: Archive, build: Build | None, name: str, unread: dict[str, None]) -> dict[str, Any] | None:
    """What is said of one of the indexes; None where it has no build that this release can open.

    Why that is so, it adds to `unread`.
    """
    if build and build.card["of"] == name:
        return curves.said(archive, build)
    try:
        return curves.said(archive, builds.open_build(archive.url, name))
    except UserError as error:
        unread[str(error)] = None
        return None


def _duplicates(archive: Archive, name: str, index: Mapping[str, Any]) -> dict[str, Any] | None:
    """Counts by tier of the copies that were found; None where nobody has looked yet."""
    found = duplicates.kept(archive, name)
    keys = ("build", "photos", "tiers", "thresholds")
    return {key: found[key] for key in keys} | {"fresh": found["build"] == index["build"]} if found else None


def missing(state: Mapping[str, Any]) -> list[str]:
    """What has still to be done, with the command that does it, a line each."""
    tables, found = state["tables"], []
    if not tables.get("photos", {}).get("rows"):
        return ["no photo is listed yet: `tintype run CONF` begins"]
    for source, listing in state["listings"].items():
        if not listing["complete"]:
            why = listing["note"] or "it stopped early"
            found.append(f"the listing of {source} is incomplete ({why}): `tintype list CONF` goes on")
    images = tables.get("images", {"parts": 0, "pending": tables["photos"]["parts"]})
    if images["pending"]:
        found.append(f"{_parts(images['pending'])} of pictures to fetch: `tintype fetch CONF`")
    derived = {name: table for name, table in tables.items() if "/" in name and not name.startswith("hashes/")}
    for name, table in derived.items():
        if table["pending"]:
            found.append(f"{_parts(table['pending'])} of {name} to make: `tintype annotate CONF`")
    if not any(name.startswith("embeddings/") for name in derived):
        found.append("no picture is embedded yet, so nothing can be searched: `tintype annotate CONF`")
    for name, index in state["indexes"].items():
        if not index.get("fresh", True):
            found.append(f"the index {name} is older than its tables: `tintype index CONF` renews it")
    if not any(index["build"] for index in state["indexes"].values()):
        found.append("no index yet: `tintype index CONF` builds one; captions are counted from it, too")
    return found


def _parts(number: int) -> str:
    return f"{number:,} part{'' if number == 1 else 's'}"
