"""Groups of duplicates as one HTML file that needs nothing else, made like the contact sheet of a search."""

import base64
import itertools
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import imaging, page
from pipeline.builds import Build
from pipeline.duplicates import Found
from pipeline.duplicates.report import with_facts
from pipeline.duplicates.tiers import NEAR_BITS

GROUPS = 50  # of each tier
PHOTOS = 12  # of each group
THUMBNAIL = 320  # pixels, long edge: shown at up to 200
STYLE = """
nav { padding-top: 1.25rem; font: 400 .875rem/1.6 var(--sans); color: var(--soft); }
nav a + a::before { content: ""; display: inline-block; width: 1.5rem; }
main > section { padding-top: clamp(2.25rem, 5vw, 3.5rem); }
h2 { font-weight: 400; font-size: clamp(1.6rem, 1.1rem + 2vw, 2.4rem); line-height: 1.25; letter-spacing: -.01em; }
.told { max-width: 70ch; margin-top: .5rem; color: var(--soft); font: 400 .875rem/1.6 var(--sans); }
.groups { display: flex; flex-wrap: wrap; gap: 0 3rem; padding-top: .5rem; }
.group { padding: .9rem 0 1.75rem; border-top: 1px solid var(--rule); margin-top: 1.25rem; }
h3, .more { font: 400 .8125rem/1.5 var(--sans); color: var(--soft); font-variant-numeric: tabular-nums; }
ul { list-style: none; padding: .75rem 0 0; display: flex; flex-wrap: wrap; gap: 1.75rem 1.25rem; }
li { width: 13rem; }
.mat { background: var(--mat); aspect-ratio: 1; padding: .8rem; display: grid; place-items: center;
  grid-template: minmax(0, 1fr) / minmax(0, 1fr); border-bottom: 2px solid transparent; }
.best .mat { border-bottom-color: var(--link); }
.mat img { display: block; max-width: 100%; max-height: 100%; min-height: 0;
  box-shadow: 0 0 0 1px rgb(0 0 0 / .06), 0 2px 8px rgb(0 0 0 / .16); }
.measure { display: flex; justify-content: space-between; gap: 1rem; padding: .5rem 0 .25rem; color: var(--soft);
  white-space: nowrap; font: 400 .75rem/1.5 var(--sans); font-variant-numeric: tabular-nums; }
.best .measure span:last-child { color: var(--link); }
h4 { font-weight: 400; font-size: 1.0625rem; line-height: 1.3; text-wrap: pretty; }
.facts { margin-top: .35rem; font: 400 .8125rem/1.5 var(--sans); color: var(--soft); }
.none { margin-top: 1rem; color: var(--soft); font-style: italic; }
@media (max-width: 34rem) {
  ul { gap: 1.5rem 1rem; } li { width: calc(50% - .5rem); } .measure { flex-wrap: wrap; gap: 0 1rem; } }
@media print { li { width: 9rem; break-inside: avoid; } }
"""
HEADS = {"exact": "Exact copies", "near": "Near copies", "similar": "Similar pictures"}


def render(build: Build, found: Found) -> str:
    """The contact sheet: a whole HTML document. Raises BadImage for a damaged stored picture."""
    name = build.archive.url.rstrip("/").rsplit("/", 1)[-1]
    sections = "".join(_section(build, found, tier) for tier in HEADS)
    links = "".join(f'<a href="#{tier}">{head}: {found.counts[tier]["groups"]:,}</a>' for tier, head in HEADS.items())
    return (
        f"{page.head(f'Duplicates in {name}', STYLE)}"
        f'<div class="masthead"><h1>Duplicates: {escape(name)}</h1><p>{found.photos:,} photos</p></div>'
        f'<nav aria-label="Tiers">{links}</nav><main>{sections}</main>{_footer(build, found)}</body></html>\n'
    )


def _section(build: Build, found: Found, tier: str) -> str:
    counts = found.counts[tier]
    told = {
        "exact": "Files that are the same, byte for byte.",
        "near": f"Pictures that are the same but for their size, encoding, light or a narrow crop: at most {NEAR_BITS} "
        "of 64 bits of their perceptual hashes differ from the first picture’s.",
        "similar": f"Pictures that a model finds alike: vectors with a cosine of at least {found.similar:g} with the "
        "first picture’s. They may well be different photographs.",
    }[tier]
    rows = found.rows.filter(pc.equal(found.rows["tier"], tier))
    shown = "".join(_group(build, rows, group) for group in itertools.islice(_groups(rows), GROUPS))
    hidden = counts["groups"] - GROUPS
    more = f'<p class="more">And {hidden:,} more, in the Parquet file.</p>' if hidden > 0 else ""
    if not counts["groups"]:
        shown = '<p class="none">There are none.</p>'
    head = f'<h2>{HEADS[tier]}</h2><p class="told">{told}</p>'
    return f'<section id="{tier}">{head}<div class="groups">{shown}</div>{more}</section>'


def _groups(rows: pa.Table) -> Iterator[tuple[int, int]]:
    """(first row, rows) of each group."""
    first = 0
    for _, members in itertools.groupby(rows["group"].to_pylist()):
        number = sum(1 for _ in members)
        yield first, number
        first += number


def _group(build: Build, rows: pa.Table, place: tuple[int, int]) -> str:
    first, number = place
    members = with_facts(build, rows.slice(first, min(number, PHOTOS))).to_pylist()
    row_ids = [member["row_id"] for member in members]
    pictures = build.archive.table("images").read_rows(row_ids, ["row_id", "image"])["image"].to_pylist()
    shown = "".join(
        _photo(member, imaging.thumbnail(picture["bytes"], THUMBNAIL))
        for member, picture in zip(members, pictures, strict=True)
    )
    more = f'<p class="more">And {number - PHOTOS:,} more.</p>' if number > PHOTOS else ""
    return f'<div class="group"><h3>{number:,} photos</h3><ul>{shown}</ul>{more}</div>'


def _photo(photo: Mapping[str, Any], jpeg: bytes) -> str:
    title = escape(photo["title"] or photo["photo_id"])
    best = photo["representative"]
    bits = None if photo["distance"] is None else f"{photo['distance']} bit{'' if photo['distance'] == 1 else 's'}"
    cosine = None if photo["cosine"] is None else f"cosine {photo['cosine']:.3f}"
    apart = "best of these" if best else " · ".join(filter(None, (bits, cosine)))
    licence = photo["license_name"] or photo["license_url"] or "No licence stated: ask before you use it"
    credit = " · ".join(escape(fact) for fact in (photo["owner"], page.host(photo["page_url"])) if fact)
    source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    rights = page.link(photo["license_url"], escape(licence))
    return (
        f'<li{" class=best" if best else ""}><div class="mat"><img src="{source}" alt="{title}"></div>'
        f'<p class="measure"><span>{photo["width"]} × {photo["height"]}</span><span>{apart}</span></p>'
        f'<h4 dir="auto">{page.link(photo["page_url"], title)}</h4>'
        f'<p class="facts">{credit}{"<br>" if credit else ""}{rights}</p></li>'
    )


def _footer(build: Build, found: Found) -> str:
    model = " / ".join(filter(None, (build.card["identity"].get("model"), build.card["identity"].get("pretrained"))))
    notes = [
        "The first photo of a group stands for it: the largest, then one with a title, then the first of the archive. "
        "The others say how many bits of the perceptual hash differ from its, and the cosine of their vectors in the "
        f"space of {model}. Searched: {found.photos:,} photos, index build {build.card['build']}."
    ]
    if any(photo_id.startswith("flickr:") for photo_id in found.rows["photo_id"].to_pylist()):
        notes.append(page.FLICKR_NOTICE)
    return f"<footer>{''.join(f'<p>{escape(note)}</p>' for note in notes)}</footer>"
