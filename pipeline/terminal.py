"""What commands print for people: summaries, status and hits, as Rich renderables."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline import storage
from pipeline.archive import Archive
from pipeline.duplicates import Found
from pipeline.export.selection import RESERVED
from pipeline.models.settings import LICENSES, named, tag
from pipeline.photo import REASONS
from pipeline.progress import duration
from pipeline.search import Answer, in_words
from pipeline.search.hits import copies, label, objects, score
from pipeline.upkeep.forget import Removed
from pipeline.upkeep.inspection import count

if TYPE_CHECKING:  # loading it takes torch, which a search by photo id or a status has no use for
    from pipeline.run import Summary, Weights


WATCH_S = 5.0  # between looks
CREDITS = 5  # shown of many
GROUPS = 3  # of duplicates shown, of each tier
COPIES = 4  # shown of a group
SAMPLED = 1000  # rows of duplicates looked at for that


def summary(done: "Summary", archive: str, steps: Sequence[str]) -> RenderableType:
    """What a run did, what failed and why, and what to do about it."""
    progress = done.progress
    said = "" if set(steps) == {"index"} else f"{worked(done)}, "
    lines = [f"{archive}: {said}in {progress.seconds():.0f} s"]
    lines += [f"  listing of {note}" for note in progress.notes]
    for source, counts in progress.changed.items():
        lines.append(f"  {source}: " + (", ".join(f"{n:,} {what}" for what, n in counts.items()) or "nothing changed"))
    for reason, number in sorted(progress.reasons.items(), key=lambda item: -item[1]):
        hint = "may pass: run again with --retry-failed" if REASONS[reason] else "will not pass by itself"
        lines.append(f"  {count(number, 'picture')} failed: {reason} ({hint})")
    for failure in progress.failures:
        lines.append(f"  {failure.stage}: part {failure.part} was given up: {failure.error}")
    if progress.failures:
        lines.append("  the other parts are done; run the same command again to take up what was given up")
    lines += indexed(done.card, done.built) if done.card else []
    return Text("\n".join(lines))


def worked(done: "Summary") -> str:
    """ "700 photos listed, 688 pictures fetched, 5 gone, …", or that there was nothing to do."""
    rows, outcomes = done.progress.rows, done.progress.outcomes
    said = [count(rows["photos"], "photo") + " listed"] if rows["photos"] else []
    said += [f"{count(number, 'picture')} {outcome}" for outcome, number in sorted(outcomes.items())]
    said += [
        f"{name} +{number:,}" for name, number in rows.items() if name not in ("photos", "images", "changes") and number
    ]
    return ", ".join(said) or "nothing to do: no photo to list, no picture to fetch, no model work"


def indexed(card: Mapping[str, Any], built: bool) -> list[str]:
    """What became of the index, and what it is worth."""
    state = "built" if built else "is up to date"
    lines = [f"  index {card['of']} {state}: {count(card['rows'], 'photo')}, {card['kind']} ({card['why']})"]
    recall = card["recall"]
    for kind, asked in (("rows", "photos"), ("texts", "texts")):
        if shares := recall[kind]:
            told = ", ".join(f"{name} {share:.4g}" for name, share in shares.items() if name.startswith("recall"))
            lines.append(f"    {told} for {count(shares['queries'], asked.removesuffix('s'))}")
    if recall["why_no_texts"]:
        lines.append(f"    recall for texts was not measured: {recall['why_no_texts']}")
    effort = ", ".join(f"{name} {value}" for name, value in card["effort"].items())
    took = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in card["seconds"].items() if seconds >= 0.05)
    pace = ", ".join(f"{name} {ms:.3g} ms" for name, ms in card["latency_ms"].items())
    lines.append(f"    a query {pace}{f' ({effort})' if effort else ''}; {size(sum(card['bytes'].values()))}")
    lines += [f"    seconds: {took}"] if took and built else []
    if not recall["passed"]:
        told = f"recall@10 stays below index.min_recall ({recall['min_recall']:g}), whatever the effort"
        lines.append(f"    {told}: give it more index.memory, or another index.kind")
    if card["drift"] and card["drift"]["rebuild_due"]:
        lines.append(f"    a rebuild is due: {card['drift']['why']}; `tintype index CONF` does it")
    return lines


def explained(said: Mapping[str, Any]) -> RenderableType:
    """`tintype index --explain` for people."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "kind", "FAISS", "memory", "disk", "a query"):
        table.add_column(column, justify="right" if column in ("memory", "disk", "a query") else "left")
    chosen = said["chosen"]
    options = said["options"] if chosen["kind"] in [o["kind"] for o in said["options"]] else [*said["options"], chosen]
    for option in options:
        ms = "" if option["ms"] is None else f"{option['ms']:.2g} ms"
        mark = "→" if option["kind"] == chosen["kind"] else ""
        table.add_row(mark, option["kind"], option["factory"], size(option["memory"]), size(option["disk"]), ms)
    head = f"{said['of']}: {count(said['rows'], 'vector')} of {said['dim']} dimensions"
    why = f"{chosen['kind']}: {said['why']}"
    note = (
        f"Queries are reckoned from {said['speed'] / 1e9:.0f} GB/s, which this machine's memory gives; what lists take "
        "to find enough is measured on the build."
    )
    return Group(Text(head), table, Text(why), Text(note))


def planned(said: Mapping[str, Any]) -> RenderableType:
    """`tintype plan` for people."""
    photos = said["photos"]
    lines = [
        f"{said['archive']}: {count(photos['total'], 'photo')} in {count(said['parts'], 'part')}; "
        f"to list {photos['to_list']:,}, to fetch {photos['to_fetch']:,}, to annotate {photos['to_annotate']:,}"
    ]
    lines += [f"  {stage:<9}{_stage(said, stage)}" for stage in ("list", "fetch", "annotate", "index")]
    if said["wall_seconds"] is None:
        lines.append("  how long in all is not known: annotate some hundred photos first (sources.0.limit=200)")
    else:
        slowest = f", as long as {said['bottleneck']} takes" if said["bottleneck"] else ""
        lines.append(f"  in all   {duration(said['wall_seconds'])}: the stages overlap{slowest}")
    lines.append(f"  storage  {size(said['storage_bytes'])} when all is done")
    if said["cost"] is not None:
        lines.append(f"  cost     {said['cost']:,.2f} for {said['device_seconds'] / 3600:,.1f} hours of a device")
    assumed = {"bytes", "annotate"} - set(said["measured"])
    if "bytes" in assumed:
        lines.append("  bytes are a guess: this archive has fetched nothing yet")
    return Text("\n".join(lines))


def _stage(said: Mapping[str, Any], stage: str) -> str:
    seconds = said["seconds"][stage]
    more = {
        "list": f", {count(said['api_calls'], 'call')} of the API",
        "fetch": f", {size(said['bytes'])}",
    }.get(stage, "")
    return ("not measured here yet" if seconds is None else duration(seconds)) + more


def size(number: float) -> str:
    """ "340 MB", "5.1 GB"."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:,.0f} {unit}" if number >= 10 or unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError(number)


def status(said: Mapping[str, Any]) -> RenderableType:
    """`tintype status` for people."""
    photos = said["photos"]
    head = Text(said["archive"], style="bold")
    counts = Text("  ".join(f"{photos[key]:,} {key}" for key in ("live", "gone", "failed", "forgotten")))
    tables = Table(box=None, pad_edge=False)
    for column in ("table", "parts", "rows", "pending", "outcomes"):
        tables.add_column(column, justify="left" if column in ("table", "outcomes") else "right")
    for name, table in said["tables"].items():
        outcomes = ", ".join(f"{number:,} {kind}" for kind, number in table["outcomes"].items())
        numbers = (f"{table[key]:,}" for key in ("parts", "rows", "pending"))
        tables.add_row(name, *numbers, outcomes)
    lines = [f"{name}: {pace}" for name, table in said["tables"].items() if (pace := _pace(table))]
    lines += [f"failed: {reason} {number:,}" for reason, number in said["failures"].items()]
    for source, listing in said["listings"].items():
        if not listing["complete"]:
            lines.append(f"listing incomplete: {source} ({listing['note'] or 'stopped early'}); `tintype list` goes on")
    for name, index in said["indexes"].items():
        if index["build"]:
            fresh = "up to date" if index["fresh"] else "older than its tables: `tintype index` renews it"
            lines.append(f"index {name}: {index['rows']:,} photos, {fresh}")
    if not said["indexes"]:
        lines.append("no index yet: `tintype index CONF` builds one")
    return Group(head, counts, tables, *(Text(line) for line in lines))


def watch(ask: Callable[[], Mapping[str, Any]], console: Console, as_json: bool) -> None:
    """Show a status again and again, in place on a terminal, until Ctrl-C; as JSON a line each time."""
    live = Live(console=console, auto_refresh=False) if console.is_terminal and not as_json else None
    with contextlib.suppress(KeyboardInterrupt), live or contextlib.nullcontext():
        while True:
            started = time.monotonic()
            said = ask()
            if as_json:
                print(json.dumps(said, ensure_ascii=False), flush=True)
            elif live:
                live.update(status(said), refresh=True)
            else:
                console.print(status(said), highlight=False)
            # A large archive on a slow store is not to be asked without a pause.
            time.sleep(max(WATCH_S, 4 * (time.monotonic() - started)))


def _pace(table: Mapping[str, Any]) -> str:
    """ "9.8 photos/s, 12 min to go, device waiting 3%" of a table that is being made."""
    if "photos_per_s" not in table or not table["pending"]:  # nothing is expected of it
        return ""
    rate, left = table["photos_per_s"], table["pending"] * table["rows"] / table["parts"]
    said = [f"{rate:,.1f} photos/s"]
    said += [f"{duration(left / rate)} to go"]
    said += [f"device waiting {table['device_waiting']:.0%}"] if "device_waiting" in table else []
    return ", ".join(said)


def hits(answer: Answer) -> RenderableType:
    """The hits of one query as a table: rank, score, and what is known of each photo, its rights and link included."""
    head = Text(in_words(answer), style="bold")
    if not answer.hits:
        return Group(head, Text("  no photo answers this\n"))
    head.append(f"  by {answer.score()}", style="not bold dim")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    table.add_column(overflow="fold")
    for hit in answer.hits:
        known = Text(hit.title or hit.photo_id)
        if hit.copies:
            known.append(f"  {copies(hit)}", style="dim")
        if hit.caption:
            known.append(f"\n{hit.caption}", style="italic").append(
                f"  caption by {hit.caption_by or 'a machine'}", style="dim"
            )
        if hit.labels:
            known.append(f"\n{label(hit)}  labelled by a machine", style="dim")
        if hit.objects:
            known.append(f"\n{objects(hit)}  found by a machine", style="dim")
        rights = hit.license_name or (f"licence {hit.license_id}" if hit.license_id else None)
        ranks = ", ".join(f"{name} {rank}" for name, rank in hit.ranks.items())
        facts = (hit.date_taken, rights or "rights unknown: treat as restricted", hit.owner, hit.photo_id, ranks)
        known.append("\n" + " · ".join(filter(None, facts)), style="dim")
        if hit.page_url:
            known.append(f"\n{hit.page_url}", style="dim")
        table.add_row(str(hit.rank), score(hit), known)
    return Group(head, table, Text(""))


def duplicates(said: Mapping[str, Any], found: Found) -> RenderableType:
    """What `tintype duplicates` found, tier by tier, with the first groups of each."""
    hashed = f", {said['hashed']:,} with a perceptual hash" if said["hashed"] < said["photos"] else ""
    why = ", ".join(f"{number:,} {problem}" for problem, number in said["problems"].items())
    lines = [f"{said['archive']}: {count(said['photos'], 'photo')}{hashed}{f' ({why})' if why else ''}"]
    for tier, counts in said["tiers"].items():
        lines.append(
            f"  {tier:<8}{count(counts['groups'], 'group')} of {count(counts['photos'], 'photo')}, "
            f"{counts['distinct']:,} left if each counts once"
        )
        rows = found.rows.filter(pc.equal(found.rows["tier"], tier)).select(["group", "photo_id"])
        shown = itertools.groupby(rows.slice(0, SAMPLED).to_pylist(), key=lambda row: row["group"])
        for group, members in itertools.islice(shown, GROUPS):
            others = [row["photo_id"] for row in members if row["photo_id"] != group]
            more = " …" if len(others) > COPIES else ""
            lines.append(f"    {group} and {', '.join(others[:COPIES])}{more}")
        if counts["groups"] > GROUPS:
            lines.append(f"    and {counts['groups'] - GROUPS:,} more")
    lines.append(f"  all of them are in {said['report']}; --html FILE shows them")
    return Text("\n".join(lines))


def exported(said: Mapping[str, Any]) -> RenderableType:
    """What `tintype export` wrote, for people."""
    parts = said["parts"]
    lines = [
        f"{said['export']}: {count(said['photos'], 'photo')} for {said['kind']}, "
        f"{count(parts['written'], 'part')} written, {parts['kept']:,} as they were"
    ]
    lines += [f"  {count(number, 'photo')} left out: {reason}" for reason, number in said["left_out"].items()]
    if RESERVED in said["left_out"]:
        lines.append("  --restricted takes those along too, if you may")
    if said["removed"]:
        lines.append(f"  {count(said['removed'], 'photo')} of an earlier export gone from it: see removed.parquet")
    return Text("\n".join(lines))


def forgotten(archive: Archive, asked: Collection[str], unknown: Collection[str], removed: Removed) -> RenderableType:
    """What `tintype forget` did, and what it cannot reach."""
    lines = [f"{archive.url}: {count(len(asked), 'photo')} forgotten"] if asked else [f"{archive.url}:"]
    lines += [f"  {photo_id} is not in the archive, and now never will be" for photo_id in unknown]
    lines += [f"  {count(number, 'row')} of {table} blanked" for table, number in removed.rows.items()]
    lines += [f"  index {of} built anew" for of in removed.rebuilt]
    lines += [f"  {count(removed.builds, 'build')} that held them deleted"] if removed.builds else []
    if not (asked or removed.rows or removed.builds):
        return Text(f"{archive.url}: nothing left of what was forgotten")
    lines.append("  out of reach, and yours to see to:")
    exports = storage.names(storage.join(archive.url, "exports"))
    for name in exports:
        lines.append(f"    the export exports/{name}: `tintype export {archive.url} --to {name}` brings it up to date")
    lines.append("    " + ("other exports" if exports else "exports") + ", backups and copies, wherever they are")
    if not storage.is_local(archive.url):
        lines.append(
            "    older versions of the rewritten parts, where the bucket keeps versions or soft-deleted objects"
        )
        lines.append("    copies of the index that searches made on other machines, in ~/.cache/tintype")
    return Text("\n".join(lines))


def verified(said: Mapping[str, Any]) -> RenderableType:
    """What `tintype verify` found, for people."""
    read = f"{count(said['parts'], 'part')}, {count(said['rows'], 'row')}, {count(said['pictures'], 'picture')}"
    lines = [Text(f"{said['archive']}: read {read}")]
    for found in said["problems"]:
        part = "" if found["part"] is None else f" part {found['part']}"
        lines += [Text(f"{found['table']}{part}: {found['problem']}"), Text(f"  to mend it: {found['remedy']}")]
    lines += [Text(f"note: {note['table']}: {note['note']}") for note in said["notes"]]
    lines.append(Text(count(len(said["problems"]), "problem") if said["problems"] else "no problem found"))
    return Group(*lines)


def rights(said: Mapping[str, Any], credits: Iterator[str], archive: str) -> RenderableType:
    """Licences with their counts, and the first lines of credit."""
    head = Text(f"{said['archive']}: {count(said['photos'], 'live photo')}, {said['restricted']:,} restricted", "bold")
    table = Table(box=None, pad_edge=False)
    for column in ("photos", "licence", "id", "URL", "", "observed"):
        table.add_column(column, justify="right" if column == "photos" else "left", overflow="fold")
    for licence in said["licenses"]:
        shown = [licence[key] or "" for key in ("name", "id", "url")]
        shown[0] = shown[0] or ("" if licence["url"] else "licence unknown")
        mark = "restricted" if licence["restricted"] else ""
        cells = (f"{licence['photos']:,}", *shown, mark, (licence["last_observed"] or "")[:10])
        table.add_row(*map(Text, cells))
    first = list(itertools.islice(credits, CREDITS))
    lines = [Text(f"  {line}") for line in first]
    if said["photos"] > len(first):
        more = said["photos"] - len(first)
        lines.append(Text(f"  and {more:,} more: tintype rights {archive} --csv FILE --html FILE writes them all"))
    return Group(head, table, Text(""), *lines, *(Text(line) for line in [said["notice"]] if line))


def described(said: Sequence[Mapping[str, Any]]) -> RenderableType:
    """`tintype describe` for people."""
    lines = []
    for picture in said:
        lines.append(Text(picture["picture"], style="bold"))
        if picture["caption"]:
            cosine = "" if picture["cosine"] is None else f", cosine {picture['cosine']:.3f}"
            scores = f"log-probability {picture['logprob']:.2f} a token{cosine}"
            lines.append(Text(f"  {picture['caption']}  (caption by a machine: {picture['model']}, {scores})"))
        for text in picture["texts"]:
            lines.append(Text(f"  {text['probability']:6.1%}  cosine {text['cosine']:.3f}  {text['text']}"))
    return Group(*lines)


def models(found: "Weights") -> RenderableType:
    """Which weights were stored, and under what licence."""
    lines = []
    for (model, pretrained), checkpoint in found.items():
        license_name = LICENSES.get((model, tag(pretrained) or "")) or "not known here: ask their makers"
        where = f"SHA-256 {checkpoint[1][:12]}…" if checkpoint else "random weights, nothing to store"
        lines.append(f"{named(model, pretrained)}: {where}; licence {license_name}")
    return Text("\n".join(lines))
