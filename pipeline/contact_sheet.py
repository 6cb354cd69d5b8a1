"""Hits as one HTML file that needs nothing else: thumbnails inside, no request to anywhere, no script.

Whatever came from a source or a user is escaped, and links are http(s) only; the page's own policy forbids the rest.
"""

import base64
import calendar
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from pipeline import boxes, imaging, page
from pipeline.builds import Build
from pipeline.photo import Hit
from pipeline.search import Answer, Picture, hits, in_words

THUMBNAIL = 480  # pixels, long edge: shown at about 320, and sharp on finer screens
PHOTOS = """
.hits { list-style: none; padding: 0; display: grid; gap: clamp(2.25rem, 4vw, 3.25rem) clamp(1.5rem, 3vw, 2.75rem);
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 18.5rem), 1fr)); }
.mat { background: var(--mat); aspect-ratio: 5 / 4; padding: 1.15rem; display: grid; place-items: center;
  grid-template: minmax(0, 1fr) / minmax(0, 1fr); }
.mat > * { grid-area: 1 / 1; max-width: 100%; max-height: 100%; }
.mat img { display: block; min-height: 0;
  box-shadow: 0 0 0 1px rgb(0 0 0 / .06), 0 2px 8px rgb(0 0 0 / .16); }
.place { display: flex; justify-content: space-between; padding: .6rem 0 .35rem; color: var(--soft);
  font: 400 .8125rem/1.5 var(--sans); font-variant-numeric: tabular-nums; }
h3 { font-weight: 400; font-size: 1.1875rem; line-height: 1.32; text-wrap: pretty; }
.mat + h3 { margin-top: .7rem; }
.caption { margin-top: .45rem; font-style: italic; line-height: 1.45; color: var(--ink); }
.person { font-style: normal; }
.machine, .facts { font: 400 .8125rem/1.5 var(--sans); color: var(--soft); }
.machine { margin-top: .15rem; }
.facts { margin-top: .6rem; padding-top: .55rem; border-top: 1px solid var(--rule); }
"""
PHOTOS += boxes.STYLE
UNSTATED = "No licence stated: ask before you use it"
STYLE = """
nav ol { columns: 18rem; column-gap: 2.5rem; padding: 1.5rem 0 0 1.4rem; }
nav li { break-inside: avoid; padding: .1rem 0 .1rem .3rem; }
nav li::marker { font: 400 .8125rem/1.5 var(--sans); font-variant-numeric: tabular-nums; color: var(--soft); }
section { padding: clamp(2rem, 5vw, 3.5rem) 0 0; }
section + section { margin-top: 3.5rem; border-top: 1px solid var(--rule); }
section > header { padding-bottom: clamp(1.75rem, 4vw, 2.75rem); }
section h2 { font-weight: 400; font-size: clamp(1.6rem, 1.1rem + 2vw, 2.6rem); line-height: 1.25;
  letter-spacing: -.01em; text-wrap: balance; max-width: 40ch; }
section h2 img { height: 2.9em; max-width: 7em; object-fit: contain; vertical-align: middle; margin: .1em .15em .1em 0;
  border: 1px solid var(--rule); padding: 3px; }
.among { margin-top: .7rem; color: var(--soft); font: 400 .875rem/1.6 var(--sans); }
code { font: .92em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; color: var(--ink); }
.none { color: var(--soft); font-style: italic; }
@media print { .hits { grid-template-columns: repeat(3, 1fr); } li { break-inside: avoid; } }
"""


def render(builds: Sequence[Build], answers: Sequence[Answer]) -> str:
    """The contact sheet of one or more queries: a whole HTML document; `builds` are those that were searched.

    Raises BadImage for a damaged stored picture.
    """
    thumbnails = _thumbnails(builds[0], answers)
    row_ids = {hit.row_id for answer in answers for hit in answer.hits}
    granularity = {
        row_id: facts["date_granularity"]
        for build in reversed(builds)
        for row_id, facts in build.facts(row_ids, ["date_granularity"]).items()
    }
    sections = []
    for number, answer in enumerate(answers, 1):
        shown = [(hit, thumbnails[hit.row_id], granularity[hit.row_id]) for hit in answer.hits]
        items = "".join(_hit(*one, answer.score()) for one in shown)
        body = f'<ol class="hits">{items}</ol>' if items else '<p class="none">No photo answers this query.</p>'
        sections.append(
            f'<section aria-labelledby="q{number}"><header><h2 id="q{number}">{_formula(answer, thumbnails)}</h2>'
            f"{_among(answer)}</header>{body}</section>"
        )
    title = in_words(answers[0]) if len(answers) == 1 else f"{len(answers)} queries"
    return (
        f"{page.head(title, PHOTOS + STYLE)}"
        f"{_masthead(builds[0])}{_contents(answers)}<main>{''.join(sections)}</main>{_footer(builds, answers)}"
        "</body></html>\n"
    )


def _thumbnails(build: Build, answers: Sequence[Answer]) -> dict[int | str, str]:
    """data: URIs of all pictures shown, by row id, or by name for those from outside the archive."""
    pictures = [picture for answer in answers for picture in answer.pictures]
    wanted = {hit.row_id for answer in answers for hit in answer.hits} | {
        p.row_id for p in pictures if p.row_id is not None
    }
    data: dict[int | str, bytes] = {picture.name: picture.data for picture in pictures if picture.data is not None}
    if wanted:
        rows = build.archive.table("images").read_rows(sorted(wanted), ["row_id", "image"])
        data |= {row["row_id"]: row["image"]["bytes"] for row in rows.to_pylist()}
    return {key: data_uri(imaging.thumbnail(value, THUMBNAIL)) for key, value in data.items()}


def data_uri(jpeg: bytes) -> str:
    """A JPEG as an address that asks nobody for it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _masthead(build: Build) -> str:
    name = build.archive.url.rstrip("/").rsplit("/", 1)[-1]
    return (
        f'<div class="masthead"><h1>Contact sheet: {escape(name)}</h1>'
        f"<p>{build.card['photos']:,} photos, indexed {escape(dated(build.card['created_at'], 'day'))}</p></div>"
    )


def _contents(answers: Sequence[Answer]) -> str:
    if len(answers) == 1:
        return ""
    items = "".join(f'<li><a href="#q{n}">{escape(in_words(answer))}</a></li>' for n, answer in enumerate(answers, 1))
    return f'<nav aria-label="Queries"><ol>{items}</ol></nav>'


def _formula(answer: Answer, thumbnails: dict[int | str, str]) -> str:
    def picture(shown: Picture) -> str:
        source = thumbnails[shown.name if shown.row_id is None else shown.row_id]
        return f'<img src="{source}" alt="{escape(f"the picture {shown.name}")}">'

    return in_words(answer, words=lambda words: f'<span dir="auto">“{escape(words)}”</span>', picture=picture)


def _among(answer: Answer) -> str:
    if answer.query.where is None:
        return ""
    return f'<p class="among">among photos where <code>{escape(answer.query.where)}</code></p>'


def _hit(hit: Hit, thumbnail: str, granularity: str | None, score: str) -> str:
    place = f'<span>{hit.rank}</span><span>{hits.copies(hit)}</span><span title="{score}">{hits.score(hit)}</span>'
    return photo(hit, thumbnail, granularity, place)


def photo(hit: Hit, thumbnail: str, granularity: str | None, place: str = "", edge: int = THUMBNAIL) -> str:
    """A photo as an <li>: thumbnail (a data: URI, with this long edge), objects in it, `place` (HTML), title, caption
    and who wrote it, rights, link home.

    PHOTOS has its looks.
    """
    name = hit.title or hit.photo_id
    title, shown = escape(name), alt(name, hit.caption, hit.caption_by)
    caption = ""
    if hit.caption:
        model = f" ({hit.caption_model})" if hit.caption_model else ""
        writer = hit.caption_by or f"a machine{model}"
        caption = (
            f'<p class="caption{" person" if hit.caption_by else ""}" dir="auto">{escape(hit.caption)}</p>'
            f'<p class="machine">Caption written by {escape(writer)}</p>'
        )
    if hit.labels:
        caption += f'<p class="machine">{escape(hits.label(hit))}, labelled by a machine</p>'
    if hit.objects:
        caption += f'<p class="machine">{escape(hits.objects(hit))}, found by a machine</p>'
    when = dated(hit.date_taken, granularity) if hit.date_taken else None
    credit = " · ".join(escape(fact) for fact in (when, hit.owner, page.host(hit.page_url)) if fact)
    licence = hit.license_name or hit.license_url or UNSTATED
    rights = page.link(hit.license_url, escape(licence))
    return (
        f'<li><article><div class="mat"><img src="{thumbnail}" alt="{escape(shown)}">'
        f"{boxes.drawn(hit.objects, hit.width, hit.height, edge)}</div>"
        f"{f'<p class=place>{place}</p>' if place else ''}"
        f'<h3 dir="auto">{page.link(hit.page_url, title)}</h3>{caption}'
        f'<p class="facts">{credit}{"<br>" if credit else ""}{rights}</p></article></li>'
    )


def alt(name: str, caption: str | None, by: str | None) -> str:
    """What a picture shows, for those who do not see it, and who says so."""
    return f"{caption} (described by {by or 'a machine'})" if caption else name


def dated(date: str, granularity: str | None) -> str:
    """ "1910-06-03 14:00:00" → "3 June 1910"; "1910" → "about 1910" where it is circa."""
    match = re.match(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?", date)
    if match is None:
        return date
    year, month, day = match.groups()
    words = [
        str(int(day)) if day else "",
        calendar.month_name[int(month)] if month and 1 <= int(month) <= 12 else "",
        year,
    ]
    shown = " ".join(word for word in words if word)
    return f"about {shown}" if granularity == "circa" else shown


def scores(builds: Sequence[Build], answers: Sequence[Answer]) -> str:
    """What the numbers beside ranks are, and what was searched."""
    cards: list[dict[str, Any]] = [build.card for build in builds]
    models = [" / ".join(filter(None, (c["identity"].get("model"), c["identity"].get("pretrained")))) for c in cards]
    meaning = {
        "cosine with the query": f"the cosine of picture and query in the space of {models[0]}",
        "BM25": "how well its words answer those of the query (BM25)",
        "reciprocal rank fusion": "the sum of 1 / (60 + rank) over the rankings that found it: by words, or by vectors "
        f"in the space of {', '.join(models)}",
    }
    said = "; or ".join(meaning[score] for score in dict.fromkeys(answer.score() for answer in answers))
    searched = "; ".join(f"{card['rows']:,} pictures, index build {card['build']}" for card in cards)
    return (
        f"The number beside a rank is {said}: it compares the hits of one query, not those of different ones. "
        f"Searched: {searched}."
    )


def _footer(builds: Sequence[Build], answers: Sequence[Answer]) -> str:
    shown = [hit for answer in answers for hit in answer.hits]
    notes = [scores(builds, answers)]
    if any(hit.caption and not hit.caption_by for hit in shown):
        notes.append("The captions in italics were written by a machine and checked by nobody.")
    if any(hit.labels for hit in shown):
        notes.append("Labels were given by a machine and checked by nobody: each is the likeliest of some classes.")
    if any(hit.objects for hit in shown):
        notes.append("What boxes are around was found by a machine and checked by nobody; the numbers are its scores.")
    if any(hit.photo_id.startswith("flickr:") for hit in shown):
        notes.append(page.FLICKR_NOTICE)
    return f"<footer>{''.join(f'<p>{escape(note)}</p>' for note in notes)}</footer>"
