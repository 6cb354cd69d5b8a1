"""The report's section on indexes: what kind, how large and old, what they find and how fast."""

from collections.abc import Mapping
from html import escape
from typing import Any

from pipeline.progress import duration
from pipeline.report import drawn
from pipeline.report.tables import day, facts, figure, paragraph, prose, tiles
from pipeline.terminal import size
from pipeline.upkeep.inspection import count


def section(said: Mapping[str, Any]) -> str:
    """All of it but its heading; empty where there is no index."""
    found = [_index(index) for index in said["indexes"].values() if index]
    unread = [name for name, index in said["indexes"].items() if index is None]
    note = paragraph(f"Not read: {escape(', '.join(unread))}, see above.") if unread and found else ""
    return "".join(found) + note


def _index(index: Mapping[str, Any]) -> str:
    recall, pace = index["recall"], index["latency_ms"]
    usual = [recall[kind]["recall@10"] for kind in ("rows", "texts") if recall[kind]]
    shown = [(f"{index['rows']:,}", "vectors", ""), (escape(index["kind"]), "kind", "")]
    shown += [(f"{min(usual):.3f}", "recall@10", "")] if usual else []
    shown += [(f"{pace['p50']:.2g} ms", "a query, median", "")] if pace else []
    shown += [(size(index["bytes"]), "on disk", "")]
    passed = "" if recall["passed"] else f", below the {recall['min_recall']:g} that index.min_recall asks for"
    asked = {
        kind: count(recall[kind]["queries"], name)
        for kind, name in (("rows", "photo"), ("texts", "text"))
        if recall[kind]
    }
    effort = ", ".join(f"{name} {value:,}" for name, value in index["effort"].items())
    told = [
        ("of", escape(f"{index['of']}: {index['dim']} dimensions, by {index['model'] or 'a model unknown'}")),
        ("why this kind", escape(index["why"])),
        ("searches take", escape(effort)),
        ("recall asked with", f"{' and '.join(asked.values())}, when it was built{passed}" if asked else ""),
        ("no texts asked", prose(recall["why_no_texts"] or "")),
        (
            "built",
            f"{day(index['created_at'], time=True)}, {duration(index['age_s'])} before this report; {_fresh(index)}",
        ),
        ("vectors missing", escape(_missing(index))),
        ("drift", escape(_drift(index))),
    ]
    head = f"<h3>{escape(index['of'])}</h3>{tiles(shown)}{facts(told)}"
    built = figure(drawn.phases("the build", [("built in", index["seconds"])])) if index["seconds"] else ""
    return f"{head}{_curves(index)}<h3>Where the seconds of the build went</h3>{built}"


def _fresh(index: Mapping[str, Any]) -> str:
    return "up to date" if index["fresh"] else "older than its tables"


def _missing(index: Mapping[str, Any]) -> str:
    found = [f"{number:,} {problem}" for problem, number in index["problems"].items()]
    found += [f"{index['not_annotated']:,} not annotated yet"] if index["not_annotated"] else []
    return ", ".join(found)


def _drift(index: Mapping[str, Any]) -> str:
    drift = index["drift"]
    if not drift:
        return ""
    due = f"; a rebuild is due: {drift['why']}" if drift["rebuild_due"] else ""
    return f"{drift['added']:.1%} of the rows added and {drift['masked']:.1%} masked since it was trained{due}"


def _curves(index: Mapping[str, Any]) -> str:
    measured = index["measured"]
    if measured is None:
        return paragraph(
            "The queries that this build was measured with are there no longer, so nothing was measured now."
        )
    where = f"Measured while this report was made, on this machine of {count(measured['cpus'], 'CPU')}"
    if not measured["curve"]:
        slow = ", ".join(
            f"{pace['p99']:.2g} ms for {count(int(k), 'hit')}" for k, pace in measured["depths"].items() if pace
        )
        told = f"Recall is the build’s own. {where}: latency; one query in 100 took over {slow or 'nothing'}."
        drawn_now = figure(drawn.recall_by_depth(index), told)
        return f"<h3>Recall and latency by the number of hits</h3>{drawn_now}"
    base = f" Of the base that this build grew from, {escape(index['base'])}." if index["base"] else ""
    told = (
        f"{where}, until nothing was left to find or time was up. The shaded line is the effort that searches take, "
        f"the dashed one the recall that index.min_recall asks for.{base}"
    )
    return f"<h3>Recall and latency by effort</h3>{figure(drawn.recall_by_effort(index), told)}"
