"""The report's section on runs: what each did, how fast, and where its seconds went."""

from collections.abc import Mapping
from html import escape
from typing import Any

from pipeline.progress import duration
from pipeline.report import drawn
from pipeline.report.tables import day, figure, paragraph, table, tiles
from pipeline.terminal import size
from pipeline.upkeep.inspection import count

CHARTED = 8  # runs with a bar
VERBS = {"list": "listed", "fetch": "fetched", "annotate": "annotated", "hash": "hashed"}
NOTE = (
    "Photos a second are those of a run’s whole time, since stages overlap. Seconds are summed over all that worked "
    "side by side, so that they may be more than the clock’s. The device is busy while it embeds or captions, and "
    "waits while no picture is decoded yet."
)


def section(said: Mapping[str, Any]) -> str:
    """All of it but its heading; empty where nothing was ever done."""
    far = said["so_far"]
    if not any(far["rows"].values()):
        return ""
    shown = [
        (f"{far['rows'].get(name, 0):,}", f"rows {verb}", "") for name, verb in VERBS.items() if far["rows"].get(name)
    ]
    shown += [(size(far["bytes"]), "downloaded", "")] if far["bytes"] else []
    shown += [(f"{far['photos_per_device_s']:,.0f}/s", "photos per device", "")] if far["photos_per_device_s"] else []
    shown += [(f"{far['device_busy']:.0%}", "device busy", "")] if far["device_busy"] is not None else []
    devices = ", ".join(f"{escape(name)} ({count(parts, 'part')})" for name, parts in far["devices"].items())
    told = "All runs so far, by the receipts of the parts that are there."
    body = tiles(shown) + paragraph(f"{told} {f'Models ran on {devices}.' if devices else ''}")
    return f"{body}{_table(said['runs'])}{_charts(said)}{paragraph(NOTE)}"


def _table(runs: list[Mapping[str, Any]]) -> str:
    if not runs:
        note = (
            "No run has left a record here, as those of earlier releases did not. What follows is of all runs together."
        )
        return paragraph(note)
    rows = []
    for run in runs:
        pace = "<br>".join(
            f"{VERBS.get(name, name)} {run['rows'][name]:,}, {rate:,.1f}/s"
            for name, rate in run["photos_per_s"].items()
        )
        fetched = f"{size(run['bytes'])}<br>{run['bytes_per_s'] / 1e6:.2g} MB/s" if run["bytes"] else ""
        busy = "" if run["device_busy"] is None else f"{run['device_busy']:.0%}"
        took = "" if run["seconds"] is None else duration(run["seconds"])
        began = day(run["started_at"], time=True) if run["started_at"] else ""
        rows.append((began, escape(_command(run)), took, pace or "nothing to do", busy, fetched, _ended(run)))
    head = ("began", "command", "took", "photos", "device busy", "downloaded", "ended")
    return (
        f"<h3>The last {count(len(runs), 'run')}</h3>{table(head, rows, '--n-nn-')}"
        if len(runs) > 1
        else (f"<h3>The only run</h3>{table(head, rows, '--n-nn-')}")
    )


def _command(run: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (run["command"], f"({run['runner']})" if run["runner"] else "")))


def _ended(run: Mapping[str, Any]) -> str:
    failed = run["failed_parts"]
    parts = f"; {count(len(failed), 'part')} given up" if failed else ""
    return escape(f"{run['ended'] or ''}{parts}")


def _charts(said: Mapping[str, Any]) -> str:
    """Where the seconds went, by stage: a bar for each of the last runs, or one for all."""
    charts = ""
    for stage in drawn.PHASES:
        rows = [(_short(run), run["phases"][stage]) for run in said["runs"] if stage in run["phases"]][:CHARTED]
        if not rows and stage in said["so_far"]["phases"]:
            rows = [("all runs so far", said["so_far"]["phases"][stage])]
        if rows:
            charts += f"<h3>Where the seconds of {stage} went</h3>{figure(drawn.phases(stage, rows))}"
    return charts


def _short(run: Mapping[str, Any]) -> str:
    """ "22 Nov 01:35": as an axis has room for."""
    began = run["started_at"] or ""
    return " ".join((*day(began).split(" ")[:1], day(began).split(" ")[1][:3], began[11:16])) if began else "?"
