"""rights: under which licences the live photos are, and a line of credit for each, as CSV and HTML.

A line of credit has title, author, source and licence, in the manner that Creative Commons recommends:
https://wiki.creativecommons.org/wiki/Recommended_practices_for_attribution
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import page
from pipeline.archive import Archive
from pipeline.photo import UserError
from pipeline.sources.licences import is_restricted

LICENCE = ("license_id", "license_name", "license_url")
FACTS = ("photo_id", "title", "owner", "date_taken", *LICENCE, "rights_observed_at", "page_url", "source_url")
COLUMNS = (*FACTS, "restricted", "credit")  # of the CSV

# What makes a spreadsheet take a text for a formula, in the widths that it knows.
FORMULA = tuple("=+-@＝＋－＠\t\r\n")
BATCH = 1000  # photos turned into text at a time

STYLE = """
body { max-width: 68rem; }
table { border-collapse: collapse; margin: 2rem 0 1rem; font: 400 .875rem/1.5 var(--sans); }
th, td { text-align: left; vertical-align: top; padding: .35rem clamp(.6rem, 2vw, 1.5rem) .35rem 0;
  border-bottom: 1px solid var(--rule); overflow-wrap: normal; }
th { font-weight: 400; color: var(--soft); }
td:nth-child(4) { overflow-wrap: anywhere; }
td:first-child, th:first-child { text-align: right; font-variant-numeric: tabular-nums; }
td:last-child { padding-right: 0; }
h2 { font-weight: 400; font-size: 1.4rem; line-height: 1.3; margin: 3rem 0 .25rem; }
.told { font: 400 .875rem/1.5 var(--sans); color: var(--soft); margin-bottom: .9rem; }
ul { list-style: none; padding: 0; }
li { padding: .3rem 0 .3rem 1.25rem; text-indent: -1.25rem; line-height: 1.4; break-inside: avoid; }
.restricted { font: 600 .6875rem/1 var(--sans); letter-spacing: .06em; text-transform: uppercase; color: var(--link);
  border: 1px solid currentColor; border-radius: 2px; padding: .15em .4em; white-space: nowrap; text-indent: 0;
  display: inline-block; vertical-align: .1em; }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; --link: #000; }
  body { font-size: 9.5pt; padding: 0; }
  li a::after { content: " (" attr(href) ")"; font: 400 .85em/1 var(--sans); color: var(--soft); }
}
"""


@dataclass(frozen=True)
class Rights:
    """The live photos under one licence, in the order of their rows: columns FACTS."""

    id: str | None
    name: str | None
    url: str | None
    photos: pa.Table

    @property
    def restricted(self) -> bool:
        return is_restricted(self.url)

    @property
    def shown(self) -> str:
        """The licence in words: its name, its URL, or that it is unknown."""
        unknown = f"licence unknown (id {self.id})" if self.id else "licence unknown"
        return self.name or self.url or unknown

    def told(self) -> dict[str, Any]:
        """As in the JSON of `summary`."""
        licence = {"id": self.id, "name": self.name, "url": self.url}
        return {**licence, "photos": self.photos.num_rows, "restricted": self.restricted, **observed([self])}


def by_licence(archive: Archive) -> list[Rights]:
    """The live photos by their licence, the most frequent first. Raises UserError where nothing was fetched yet."""
    live = archive.live().select(list(FACTS))
    rows: dict[tuple[str | None, str | None, str | None], list[int]] = {}
    ids, names, urls = (live[name].to_pylist() for name in LICENCE)
    for row, licence in enumerate(zip(ids, names, urls, strict=True)):
        rows.setdefault(licence, []).append(row)
    found = [Rights(*licence, live.take(places)) for licence, places in rows.items()]
    return sorted(found, key=lambda rights: (-rights.photos.num_rows, rights.shown))


def summary(archive: Archive, found: Iterable[Rights]) -> dict[str, Any]:
    """`{"archive", "photos", "restricted", "first_observed", "last_observed", "licenses": [{"id", "name", "url",
    "photos", "restricted", "first_observed", "last_observed"}], "notice"}`, a contract: see docs/tables.md."""
    licences = list(found)
    return {
        "archive": archive.url,
        "photos": sum(rights.photos.num_rows for rights in licences),
        "restricted": sum(rights.photos.num_rows for rights in licences if rights.restricted),
        **observed(licences),
        "licenses": [rights.told() for rights in licences],
        "notice": notice(licences),
    }


def observed(licences: Iterable[Rights]) -> dict[str, str | None]:
    """When what is said of these was first and last observed: ISO 8601, None where nobody knows."""
    moments = [moment for r in licences for moment in pc.min_max(r.photos["rights_observed_at"]).as_py().values()]
    known = sorted(moment for moment in moments if moment)
    first, last = (moment.isoformat(timespec="seconds") for moment in (known[0], known[-1])) if known else (None, None)
    return {"first_observed": first, "last_observed": last}


def notice(licences: Iterable[Rights]) -> str | None:
    """What Flickr wants to be said wherever photos of it are shown."""
    flickr = any(pc.any(pc.starts_with(rights.photos["photo_id"], "flickr:")).as_py() for rights in licences)
    return page.FLICKR_NOTICE if flickr else None


def photos(rights: Rights) -> Iterator[dict[str, Any]]:
    """The photos of a licence, as FACTS, with text on one line; `source_url` only where it leads anywhere."""
    for batch in rights.photos.to_batches(BATCH):
        for photo in batch.to_pylist():
            for name in ("title", "owner"):
                photo[name] = " ".join((photo[name] or "").split()) or None
            yield photo | {"source_url": photo["source_url"] if page.host(photo["source_url"]) else None}


def credit(photo: Mapping[str, Any], rights: Rights) -> str:
    """“Title” by Owner, licence (its URL), page: what is known of these."""
    title = f"“{photo['title']}”" if photo["title"] else "Untitled"
    by = f" by {photo['owner']}" if photo["owner"] else ""
    licence = f"{rights.shown} ({rights.url})" if rights.url and rights.shown != rights.url else rights.shown
    home = photo["page_url"] or photo["source_url"]
    return ", ".join(filter(None, (title + by, licence, home)))


def credits(licences: Iterable[Rights]) -> Iterator[str]:
    """A line of credit for each photo, restricted ones marked."""
    for rights in licences:
        mark = "[restricted] " if rights.restricted else ""
        yield from (mark + credit(photo, rights) for photo in photos(rights))


# --- files ------------------------------------------------------------------------------------------------------------


def write_csv(path: str, licences: Iterable[Rights]) -> None:
    """A row a photo, COLUMNS. UTF-8 with the mark by which spreadsheets know it. Raises UserError."""

    def lines() -> Iterator[list[str]]:
        yield list(COLUMNS)
        for rights in licences:
            for photo in photos(rights):
                moment = photo["rights_observed_at"]
                photo["rights_observed_at"] = moment and moment.isoformat(timespec="seconds")
                photo |= {"restricted": "yes" if rights.restricted else "no", "credit": credit(photo, rights)}
                yield [cell(photo[name]) for name in COLUMNS]

    try:
        with Path(path).open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows(lines())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def cell(text: str | None) -> str:
    """A text as a cell that no spreadsheet takes for a formula: one that begins like that gets an apostrophe before it,
    which spreadsheets know as the mark of a text."""
    text = text or ""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


def write_html(path: str, archive: Archive, licences: list[Rights]) -> None:
    """One page that needs nothing else: counts, then a line of credit a photo by licence. Raises UserError."""
    try:
        with Path(path).open("w", encoding="utf-8") as file:
            file.writelines(_html(summary(archive, licences), licences))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _html(said: Mapping[str, Any], licences: list[Rights]) -> Iterator[str]:
    name = said["archive"].rstrip("/").rsplit("/", 1)[-1]
    yield page.head(f"Rights: {name}", STYLE)
    when = f", rights observed {_days(said)}" if said["last_observed"] else ""
    yield f'<div class="masthead"><h1>Rights: {escape(name)}</h1><p>{said["photos"]:,} photos{when}</p></div><main>'
    yield _counts(licences)
    for number, rights in enumerate(licences, 1):
        yield f'<section id="l{number}"><h2>{_licence(rights)}</h2><p class="told">{_about(rights)}</p><ul>'
        yield from (f"<li>{_line(photo, rights)}{_mark(rights)}</li>\n" for photo in photos(rights))
        yield "</ul></section>"
    notes = [
        "A photo is marked restricted where all rights are reserved or its licence is not known: ask before you use "
        "it. Rights are those that its source stated when they were observed, and may have changed since.",
        *filter(None, [said["notice"]]),
    ]
    yield f"</main><footer>{''.join(f'<p>{escape(note)}</p>' for note in notes)}</footer></body></html>\n"


def _counts(licences: Iterable[Rights]) -> str:
    rows = [
        f'<tr><td>{rights.photos.num_rows:,}</td><td><a href="#l{number}">{escape(rights.shown)}</a>'
        f"{_mark(rights)}</td><td>{escape(rights.id or '')}</td>"
        f"<td>{page.link(rights.url, escape(rights.url or ''))}</td><td>{_days(rights.told())}</td></tr>"
        for number, rights in enumerate(licences, 1)
    ]
    heads = "".join(f'<th scope="col">{told}</th>' for told in ("Photos", "Licence", "Id", "URL", "Observed"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _about(rights: Rights) -> str:
    number = rights.photos.num_rows
    when = _days(rights.told()) or "nobody knows when"
    return f"{number:,} photo{'' if number == 1 else 's'}, observed {when}{_mark(rights)}"


def _mark(rights: Rights) -> str:
    return ' <span class="restricted">restricted</span>' if rights.restricted else ""


def _licence(rights: Rights) -> str:
    return page.link(rights.url, escape(rights.shown))


def _days(said: Mapping[str, Any]) -> str:
    """ "2026-01-02", or "2026-01-02 to 2026-03-04"."""
    first, last = ((said[key] or "")[:10] for key in ("first_observed", "last_observed"))
    return first if first == last else f"{first} to {last}"


def _line(photo: Mapping[str, Any], rights: Rights) -> str:
    """The line of credit as HTML, its title leading to the photo's page and its licence to its text."""
    title = f"“<bdi>{escape(photo['title'])}</bdi>”" if photo["title"] else "Untitled"
    by = f" by <bdi>{escape(photo['owner'])}</bdi>" if photo["owner"] else ""
    return f"{page.link(photo['page_url'] or photo['source_url'], title)}{by}, {_licence(rights)}"
