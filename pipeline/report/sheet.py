"""The report as one HTML file that needs nothing else: figures, charts, a wall of photos. No script, no request.

Whatever came from a source or a user is escaped, and links are http(s) only; the page's own policy forbids the rest.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

from pipeline import contact_sheet, imaging, page
from pipeline.archive import Archive
from pipeline.builds import Build
from pipeline.photo import Hit, UserError
from pipeline.report import costs, drawn, glance, photos, searching
from pipeline.report.tables import day, figure, paragraph, prose, tiles

THUMBNAIL = 280  # pixels, long edge: shown at about 200
STYLE = """
nav { padding-top: 1.1rem; font: 400 .875rem/1.8 var(--sans); display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
main > section { padding-top: clamp(1.75rem, 4vw, 2.75rem); }
main > section + section { margin-top: clamp(2.25rem, 5vw, 3.5rem); border-top: 1px solid var(--rule); }
h2 { font-weight: 400; font-size: clamp(1.6rem, 1.1rem + 2vw, 2.4rem); line-height: 1.25; letter-spacing: -.01em; }
main h3 { font: 600 .9375rem/1.4 var(--sans); margin: 2.5rem 0 .6rem; }
main .hits h3 { font: 400 1.0625rem/1.32 var(--serif); margin: 0; }
main .hits .mat + h3 { margin-top: .6rem; }
section > p, .told { max-width: 72ch; margin-top: .6rem; color: var(--soft); font: 400 .875rem/1.6 var(--sans); }
section > p code, dd code, li code { font: .92em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  color: var(--ink); }
.tiles { display: flex; flex-wrap: wrap; gap: 1.1rem clamp(1.75rem, 5vw, 4rem); padding-top: 1.4rem; }
.tiles > div { display: flex; flex-direction: column-reverse; }
.tiles dt { font: 400 .8125rem/1.5 var(--sans); color: var(--soft); }
.tiles dd { font-size: clamp(1.7rem, 1.2rem + 1.6vw, 2.5rem); line-height: 1.1; font-variant-numeric: lining-nums; }
.none dd { color: var(--soft); }
.todo { margin-top: 1.75rem; padding: .9rem 1.15rem 1rem; background: var(--mat); border-left: 3px solid var(--link);
  font: 400 .875rem/1.6 var(--sans); }
.todo ul { padding-left: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font: 400 .875rem/1.45 var(--sans); }
th, td { text-align: left; vertical-align: top; padding: .38rem 1.5rem .38rem 0; border-bottom: 1px solid var(--rule);
  overflow-wrap: normal; }
th { font-weight: 400; color: var(--soft); white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:last-child, th:last-child { padding-right: 0; }
.bar { display: block; width: clamp(5rem, 16vw, 14rem); padding-top: .38em; }
.bar i { display: block; height: .55em; min-width: 1px; background: var(--series-1); }
.soft { color: var(--soft); }
figure { padding-top: 1.25rem; }
.chart { overflow-x: auto; }
.chart svg { display: block; height: auto; min-width: 30rem; width: 65rem; max-width: 100%; font-family: var(--sans); }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 0 2rem; }
.beside .chart svg { min-width: 0; width: 24rem; }
figcaption { max-width: 72ch; margin-top: .3rem; color: var(--soft); font: 400 .8125rem/1.55 var(--sans); }
.facts-of { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1.5rem; margin-top: .9rem;
  font: 400 .875rem/1.5 var(--sans); }
.facts-of dt { color: var(--soft); }
.hits { padding-top: 1.5rem; gap: 2rem clamp(1rem, 2vw, 1.75rem);
  grid-template-columns: repeat(6, minmax(0, 1fr)); }
@media (max-width: 62rem) { .hits { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
.hits .mat { padding: .7rem; }
.hits .caption { font-size: .9375rem; }
.hits .machine, .hits .facts, .hits .place { font-size: .75rem; }
@media (max-width: 34rem) {
  .hits { grid-template-columns: repeat(2, minmax(0, 1fr)); } th, td { padding-right: 1rem; }
  .chart svg { min-width: 44rem; } .b { display: none; }
  .wide table { width: max-content; } td { max-width: 15rem; }
  .facts-of { grid-template-columns: 1fr; gap: 0; } .facts-of dd { padding-bottom: .5rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; --mat: #f2f2f2; --link: #7b3a1c;
    --series-1: #7b3a1c; --series-2: #2f5d73; --series-3: #6b7a2e; --series-4: #b0812a; --series-5: #7a4a6e; }
  body { font-size: 10pt; padding: 0; } nav { display: none; }
  .hits { grid-template-columns: repeat(4, minmax(0, 1fr)); } li, figure, tr, .todo { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .chart, .wide { overflow: visible; } .chart svg { min-width: 0; }
  .bar i { print-color-adjust: exact; }
}
"""
SECTIONS = {
    "glance": "At a glance",
    "sample": "A look inside",
    "captions": "Captions",
    "index": "The index",
    "runs": "What runs cost",
}


def render(archive: Archive, build: Build | None, said: Mapping[str, Any]) -> str:
    """The report: a whole HTML document. `said`: what `report.figures` gives of the archive and build.

    Raises UserError for a damaged stored picture.
    """
    lowest = [one for _, found in _measures(said) for one in found["lowest"]]
    row_ids = list(dict.fromkeys([*said["wall"], *(one["row_id"] for one in lowest)]))
    hits = photos.shown(archive, build, row_ids)
    wall = {row_id: _thumbnail(row_id, data) for row_id, data in photos.pictures(archive, row_ids)}
    bodies = {
        "glance": glance.section(said),
        "sample": _sample(said, hits, wall),
        "captions": _captions(said, hits, wall),
        "index": searching.section(said),
        "runs": costs.section(said),
    }
    name = archive.url.rstrip("/").rsplit("/", 1)[-1]
    links = "".join(f'<a href="#{key}">{SECTIONS[key]}</a>' for key, body in bodies.items() if body)
    sections = "".join(
        f'<section id="{key}" aria-labelledby="{key}-head"><h2 id="{key}-head">{SECTIONS[key]}</h2>{body}</section>'
        for key, body in bodies.items()
        if body
    )
    return (
        f"{page.head(f'Report on {name}', contact_sheet.PHOTOS + STYLE)}"
        f'<div class="masthead"><h1>Report: {escape(name)}</h1><p>made {day(said["made_at"], time=True)}</p></div>'
        f'<nav aria-label="Sections">{links}</nav><main>{sections}</main>{_footer(said, hits)}</body></html>\n'
    )


def _measures(said: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Of captions: (name of a measure, how it lies), where there is any and they differ."""
    found = said["captions"] or {}
    some = [(name, found[name]) for name in ("logprob", "cosine") if found.get(name)]
    return [(name, measure) for name, measure in some if measure["least"] < measure["most"]]


def _thumbnail(row_id: int, data: bytes) -> str:
    try:
        return contact_sheet.data_uri(imaging.thumbnail(data, THUMBNAIL))
    except imaging.BadImage as error:
        raise UserError(f"the picture in row {row_id} is damaged; `tintype verify` says what mends it") from error


def _sample(said: Mapping[str, Any], hits: Mapping[int, tuple[Hit, str | None]], wall: Mapping[int, str]) -> str:
    if not said["wall"]:
        return ""
    items = "".join(contact_sheet.photo(hits[row][0], wall[row], hits[row][1], edge=THUMBNAIL) for row in said["wall"])
    of = f" of {said['photos']['live']:,}" if said["photos"]["live"] > len(said["wall"]) else ""
    told = f"{len(said['wall'])}{of} live photos, drawn by a fixed rule: the same archive shows the same ones."
    return f'{paragraph(told)}<ol class="hits">{items}</ol>'


def _captions(said: Mapping[str, Any], hits: Mapping[int, tuple[Hit, str | None]], wall: Mapping[int, str]) -> str:
    found = said["captions"]
    if not found:
        return ""
    shown = [(f"{found['machine']:,}", "written by a machine", ""), (f"{found['people']:,}", "written by people", "")]
    shown += [(f"{found['none']:,}", "photos without one", "none")] if found["none"] else []
    body = tiles(shown)
    if not found["machine"]:
        return body
    models = ", ".join(map(escape, found["models"]))
    body += paragraph(f"The machine’s are by {models}; nobody has checked them. What follows is about these.")
    some = "" if found["words_one_in"] == 1 else f" Counted in one caption of {found['words_one_in']}."
    body += figure(drawn.words(found["words"]), f"Short words and the commonest of English are left out.{some}")
    charts = [figure(drawn.lengths(found["lengths"]))]
    heads = {
        "logprob": ("mean log-probability of a token", "Nearer 0, the model was surer of its words."),
        "cosine": ("cosine of caption and picture", "Lower, the caption suits its picture less in the model’s eyes."),
    }
    looks = ""
    for name, measure in _measures(said):
        label, meaning = heads[name]
        ends = "The outermost bars hold the tails; the dashed line is the median."
        charts.append(figure(drawn.spread(measure, label), f"{meaning} {ends}"))
        items = "".join(
            contact_sheet.photo(
                *_with(hits, wall, one["row_id"]),
                f"<span>{name} {one['value']:.3f}</span>".replace("-", "−"),
                edge=THUMBNAIL,
            )
            for one in measure["lowest"]
        )
        looks += f'<h3>Worth a look: the lowest {label}</h3><ol class="hits">{items}</ol>'
    command = f"tintype correct {escape(said['archive'])} ID --caption TEXT"
    looks += paragraph(f"<code>{command}</code> puts a better caption in the place of a machine’s.")
    return f'{body}<div class="beside">{"".join(charts)}</div>{looks}'


def _with(
    hits: Mapping[int, tuple[Hit, str | None]], wall: Mapping[int, str], row_id: int
) -> tuple[Hit, str, str | None]:
    hit, granularity = hits[row_id]
    return hit, wall[row_id], granularity


def _footer(said: Mapping[str, Any], hits: Mapping[int, tuple[Hit, str | None]]) -> str:
    notes = [
        f"Made by tintype {said['tintype']} from {said['archive']}. The figures are those of `tintype report --json`."
    ]
    if any(hit.caption and not hit.caption_by for hit, _ in hits.values()):
        notes.append("The captions in italics were written by a machine and checked by nobody.")
    if any(hit.objects for hit, _ in hits.values()):
        notes.append("What boxes are around was found by a machine and checked by nobody; the numbers are its scores.")
    if any(hit.photo_id.startswith("flickr:") for hit, _ in hits.values()):
        notes.append(page.FLICKR_NOTICE)
    return f"<footer>{''.join(f'<p>{prose(note)}</p>' for note in notes)}</footer>"
