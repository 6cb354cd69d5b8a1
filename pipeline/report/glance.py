"""The report's first section: what an archive holds, lacks and takes of the disk."""

from collections.abc import Mapping
from html import escape
from typing import Any

from pipeline import page
from pipeline.photo import REASONS
from pipeline.report import drawn
from pipeline.report.tables import bar, figure, paragraph, prose, share, table, tiles
from pipeline.terminal import size

LICENCES = 20  # shown
SOURCES = 20
HELP = {
    "video": "nothing: there is no still to take",
    "no_size": "look at the photo’s page: its owner may offer no sizes to others",
    "refused": "if many: the image host blocks you; set images.contact, lower images.rate, ask the host",
    "not_an_image": "see <code>detail</code>: a login or error page in place of pictures means that the source changed",
    "corrupt": "the file is broken where it comes from: tell its owner",
    "too_large": "raise images.max_pixels or images.max_bytes for what is listed from then on",
    "decoder_crashed": "the file broke its decoder: keep it for whoever maintains Pillow",
    "truncated": "run with --retry-failed; if it stays, the file is cut off where it comes from",
    "server_error": "run later with --retry-failed; if many are 429, lower images.rate first",
    "unreachable": "check the network and any proxy, then run with --retry-failed",
    "unreadable": "check permissions and mounts of the folder, then run with --retry-failed",
}
TIERS = {"exact": "exact copies", "near": "near copies", "similar": "similar pictures"}


def section(said: Mapping[str, Any]) -> str:
    """All of it but its heading."""
    photos = said["photos"]
    shown = [
        (f"{photos[key]:,}", key, "" if photos[key] else "none") for key in ("live", "gone", "failed", "forgotten")
    ]
    listed = said["tables"].get("photos", {"rows": 0})["rows"]
    if listed and not any(photos.values()):
        shown = [(f"{listed:,}", "listed", ""), ("0", "fetched", "none")]
    return (
        tiles(shown)
        + _missing(said["missing"])
        + _years(said["facts"])
        + _licences(said["facts"])
        + _sources(said)
        + _failures(said["failures"])
        + _duplicates(said)
        + _tables(said)
    )


def _missing(lines: list[str]) -> str:
    if not lines:
        return ""
    return f'<div class="todo"><p>Still to do</p><ul>{"".join(f"<li>{prose(line)}</li>" for line in lines)}</ul></div>'


def _years(facts: Mapping[str, Any]) -> str:
    if not facts["photos"]:
        return ""
    about = sum(counts["circa"] for counts in facts["years"].values())
    told = [f"Of {facts['photos']:,} {facts['counted']} photos"]
    told += [f"{about:,} are dated “about” a year"] if about else []
    told += [
        f"{facts['undated']:,} {'has' if facts['undated'] == 1 else 'have'} no date"
        if facts["undated"]
        else "none lacks a date"
    ]
    said = f"{told[0]}, {' and '.join(told[1:])}."
    if not facts["years"]:
        return f"<h3>By year taken</h3>{paragraph(said)}"
    return f"<h3>By year taken</h3>{figure(drawn.years(facts), said)}"


def _licences(facts: Mapping[str, Any]) -> str:
    if not facts["photos"]:
        return ""
    rows = []
    for licence in facts["licenses"][:LICENCES]:
        unknown = f"unknown (id {licence['id']})" if licence["id"] else "unknown"
        name = page.link(licence["url"], escape(licence["name"] or licence["url"] or unknown))
        name += ' <span class="soft">(restricted)</span>' if licence["restricted"] else ""
        part = licence["photos"] / facts["photos"]
        rows.append((name, f"{licence['photos']:,}", share(licence["photos"], facts["photos"]), bar(part)))
    more = len(facts["licenses"]) - len(rows)
    body = table(("licence", "photos", "share", ""), rows, "-nnb")
    body += paragraph(f"And {more:,} more.") if more > 0 else ""
    restricted = any(licence["restricted"] for licence in facts["licenses"])
    note = "Restricted: all rights reserved, or a licence that nobody knows. Ask before you use these."
    return f"<h3>By licence</h3>{body}{paragraph(note) if restricted else ''}"


def _sources(said: Mapping[str, Any]) -> str:
    if not said["facts"]["sources"]:
        return ""
    rows = []
    for name, number in list(said["facts"]["sources"].items())[:SOURCES]:
        listing = said["listings"].get(name)
        state = "" if listing is None else "listed whole" if listing["complete"] else "listing incomplete"
        total = "–" if not listing or listing["total"] is None else f"{listing['total']:,}"
        rows.append((escape(name), f"{number:,}", total, state))
    more = len(said["facts"]["sources"]) - len(rows)
    body = table(("source", f"{said['facts']['counted']}", "it counts", ""), rows, "-nn-")
    return f"<h3>By source</h3>{body}{paragraph(f'And {more:,} more.') if more > 0 else ''}"


def _failures(failures: Mapping[str, int]) -> str:
    if not failures:
        return ""
    most = max(failures.values())
    rows = [
        (f"<code>{escape(reason)}</code>", f"{number:,}", bar(number / most), _may_pass(reason), HELP.get(reason, ""))
        for reason, number in failures.items()
    ]
    return f"<h3>Why pictures failed</h3>{table(('reason', 'photos', '', 'may pass', 'what may help'), rows, '-nb--')}"


def _may_pass(reason: str) -> str:
    return "yes" if REASONS.get(reason) else "no"


def _duplicates(said: Mapping[str, Any]) -> str:
    if not said["duplicates"]:
        return ""
    body = ""
    unknown = [name for name, found in said["duplicates"].items() if found is None]
    if unknown:
        command = f"tintype duplicates {said['archive']}{' --of NAME' if len(said['duplicates']) > 1 else ''}"
        body += paragraph(prose(f"Nobody has looked for duplicates in {', '.join(unknown)} yet: `{command}` does."))
    for name, found in said["duplicates"].items():
        if found is None:
            continue
        rows = [
            (TIERS[tier], f"{counts['groups']:,}", f"{counts['photos']:,}", f"{counts['distinct']:,}")
            for tier, counts in found["tiers"].items()
        ]
        body += table((f"in {name}", "groups", "photos in them", "left if each counts once"), rows, "-nnn")
        if not found["fresh"]:
            body += paragraph("This was found in an older index: <code>tintype duplicates</code> looks again.")
    return f"<h3>Duplicates</h3>{body}"


def _tables(said: Mapping[str, Any]) -> str:
    sizes = {name: found["bytes"] for name, found in said["tables"].items()} | said["bytes"]
    most = max(sizes.values(), default=0)
    if not most:
        return ""
    rows = []
    for name, number in sizes.items():
        found = said["tables"].get(name)
        counts = [f"{found[key]:,}" for key in ("parts", "rows", "pending")] if found else ["", "", ""]
        rows.append((f"<code>{escape(name)}</code>", *counts, size(number), bar(number / most), _problems(found)))
    body = table(("table or folder", "parts", "rows", "pending", "size", "", "rows without"), rows, "-nnnnb-")
    note = f"{size(sum(sizes.values()))} in all. Pending are the parts that a table’s source has and it lacks."
    return f"<h3>On disk</h3>{body}{paragraph(note)}"


def _problems(found: Mapping[str, Any] | None) -> str:
    """How many rows of a table have nothing to show, and why."""
    outcomes = (found or {}).get("outcomes", {})
    fine = ("fetched", "annotated", "hashed")
    return ", ".join(f"{number:,} {escape(kind)}" for kind, number in outcomes.items() if kind not in fine)
