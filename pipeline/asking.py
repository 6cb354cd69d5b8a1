"""The commands that ask an archive, and change nothing in it but caches: search, verify, report, export, …"""

import functools
import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import builds, config, contact_sheet, duplicates, progress, search, storage, terminal
from pipeline.archive import Archive
from pipeline.console import ArchiveName, Json, archive_url, err, file_option, index_of, out, preferred, write
from pipeline.duplicates import report, sheet
from pipeline.models.settings import Generation
from pipeline.photo import UserError
from pipeline.search import Query, hits
from pipeline.stages import index
from pipeline.upkeep import rights
from pipeline.upkeep.inspection import count
from pipeline.upkeep.verify import verify

if TYPE_CHECKING:
    from pipeline.models.openclip import Model, Tower

STALE = "tintype: the index is older than its tables; `tintype index CONF` renews it"


def search_command(
    archive: ArchiveName,
    text: Annotated[str | None, typer.Argument(help="Words to search for.")] = None,
    image: Annotated[str | None, typer.Option(metavar="FILE|URL|PHOTO_ID", help="A picture to search for.")] = None,
    plus: Annotated[str | None, typer.Option(help="What there should be more of: words or a photo id.")] = None,
    minus: Annotated[str | None, typer.Option(help="What there should be less of: words or a photo id.")] = None,
    scale: Annotated[float, typer.Option(help="How much of plus − minus is added.")] = 1.0,
    where: Annotated[str | None, typer.Option(help="SQL over the photos: \"date_taken < '1910'\".")] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 6,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Look for the words in titles and captions too.")] = False,
    text_only: Annotated[bool, typer.Option("--text-only", help="Look for the words alone; needs no model.")] = False,
    queries: Annotated[
        str | None, typer.Option(metavar="FILE", help="Many queries, as .yaml, .jsonl or .parquet.")
    ] = None,
    of: Annotated[
        list[str], typer.Option(help="Which embeddings' index, where there are several; give more to fuse them.")
    ] = [],  # noqa: B006
    collapse: Annotated[
        bool, typer.Option("--collapse", help="Show exact and near copies once; `tintype duplicates` finds them.")
    ] = False,
    as_json: Json = False,
    html: Annotated[str | None, file_option("Write a contact sheet of the hits.")] = None,
    hits_file: Annotated[
        str | None, typer.Option("--out", metavar="FILE|URL", help="Write the hits as .parquet, and print none.")
    ] = None,
) -> None:
    """Search by words, by picture, by a photo of the archive, or by arithmetic of these."""
    if hybrid and text_only:
        raise UserError("give either --hybrid, for words and pictures, or --text-only, for words")
    if queries and (text or image or plus or minus):
        raise UserError(f"give either one query or a file of them, not both: leave out --queries {queries}")
    if hits_file and not hits_file.endswith(".parquet"):
        raise UserError(f"--out {hits_file}: hits are written as Parquet, so give it a name that ends in .parquet")
    mode: search.Mode = "hybrid" if hybrid else "words" if text_only else "vector"
    given = Query(text=text, image=image, plus=plus, minus=minus, scale=scale, where=where, k=k, mode=mode)
    asked = config.load_queries(queries, k, where, mode) if queries else [given]
    searched = [index_of(archive, name) for name in dict.fromkeys(of)] or [index_of(archive)]
    copies, note = report.groups(searched[0]) if collapse else (None, None)
    if note:
        print(f"tintype: {note}", file=sys.stderr)
    load = functools.partial(model_of, tower=None if any(query.image for query in asked) else "text")
    answers = warned(search.answers(searched, asked, load, copies), searched[0])
    if len(asked) > 1 and (hits_file or as_json or html):
        answers = progress.counted(answers, len(asked), "queries", err)
    if as_json or html:
        answers = list(answers)  # they are shown together
        if html:
            write(html, contact_sheet.render(searched, answers))
            print(f"tintype: wrote the contact sheet {html}", file=sys.stderr)
        if as_json:
            said = [search.hits_json(searched, answer) for answer in answers]
            print(json.dumps(said if queries else said[0], ensure_ascii=False))
    if hits_file:
        number = hits.write_parquet(hits_file, answers)
        print(f"tintype: wrote {number:,} hits of {len(asked):,} queries to {hits_file}", file=sys.stderr)
    elif not as_json:
        for answer in answers:
            out.print(terminal.hits(answer), highlight=False)


def warned(answers: Iterable[search.Answer], build: builds.Build) -> Iterable[search.Answer]:
    """The answers, with a line for each filter that keeps nothing: no hit is then nobody's fault but the filter's."""
    empty = set()
    for answer in answers:
        if answer.among == 0 and answer.query.where not in empty:
            empty.add(answer.query.where)
            total = count(build.card["photos"], "photo")
            print(f"tintype: --where {answer.query.where!r} keeps none of {total}", file=sys.stderr)
        yield answer


def verify_command(archive: ArchiveName, as_json: Json = False) -> None:
    """Read the whole archive, and say what is damaged and which command mends it."""
    there = Archive.open(archive_url(archive))
    with progress.Progress(err) as shown:
        said = verify(there, shown.report)
    if as_json:
        print(json.dumps(said, ensure_ascii=False))
    else:
        out.print(terminal.verified(said), highlight=False)
    raise typer.Exit(1 if said["problems"] else 0)


def rights_command(
    archive: ArchiveName,
    csv: Annotated[str | None, file_option("Write a row a photo, for spreadsheets.", "--csv")] = None,
    html: Annotated[str | None, file_option("Write a page to read or print.", "--html")] = None,
    as_json: Json = False,
) -> None:
    """Count the live photos by licence, and write a line of credit for each."""
    there = Archive.open(archive_url(archive))
    found = rights.by_licence(there)
    if csv:
        rights.write_csv(csv, found)
    if html:
        rights.write_html(html, there, found)
    for path in filter(None, (csv, html)):
        print(f"tintype: wrote the credits {path}", file=sys.stderr)
    if as_json:
        print(json.dumps(rights.summary(there, found), ensure_ascii=False))
    else:
        out.print(terminal.rights(rights.summary(there, found), rights.credits(found), archive), highlight=False)


def duplicates_command(
    archive: ArchiveName,
    destination: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="Also write the groups, with facts and rights, as Parquet."),
    ] = None,
    html: Annotated[str | None, file_option("Write a contact sheet of the groups.")] = None,
    similar: Annotated[
        float, typer.Option(min=0, max=1, help="Least cosine of similar pictures; 1 looks for copies alone.")
    ] = 0.95,
    of: Annotated[str | None, typer.Option(help="Which embeddings' index, where there are several.")] = None,
    as_json: Json = False,
) -> None:
    """Find exact copies, near copies and similar pictures among the indexed photos."""
    from pipeline.hashing import hash_missing

    build = index_of(archive, of)
    if not index.is_fresh(build.archive, build.card):
        err.print(STALE, highlight=False)
    with progress.Progress(err) as shown:
        hash_missing(build.archive, shown.report)
        found = duplicates.find(build, similar, shown.report)
    report.keep(build, found)
    if destination:
        report.write(destination, build, found)
    if html:
        write(html, sheet.render(build, found))
    for path in filter(None, (destination, html)):
        print(f"tintype: wrote {path}", file=sys.stderr)
    if as_json:
        print(json.dumps(report.said(build, found), ensure_ascii=False))
    else:
        out.print(terminal.duplicates(report.said(build, found), found), highlight=False)


def report_command(
    archive: ArchiveName,
    html: Annotated[str | None, file_option("Where to; report.html, or with --json nowhere.", "--out")] = None,
    of: Annotated[str | None, typer.Option(help="Whose index tells of photos and captions; else the first.")] = None,
    photos: Annotated[int, typer.Option(min=0, help="How many photos are shown.")] = 48,
    as_json: Json = False,
) -> None:
    """Write what an archive holds, what its runs cost and how its index searches, as one page to read or print."""
    from pipeline.report import chosen, figures
    from pipeline.report.sheet import render

    there = Archive.open(archive_url(archive))
    build, why_not = chosen(there, of or preferred(archive))
    with progress.Progress(err) as shown:
        said = figures(there, build, why_not, wall=photos, say=lambda step: shown.say(f"report: {step}"))
        path = html or (None if as_json else "report.html")
        if path:
            write(path, render(there, build, said))
    if path:
        print(f"tintype: wrote the report {path}", file=sys.stderr)
    if as_json:
        print(json.dumps(said, ensure_ascii=False))


class ExportKind(StrEnum):
    huggingface = "huggingface"
    wide = "wide"
    clip_retrieval = "clip-retrieval"


def export_command(
    archive: ArchiveName,
    to: Annotated[ExportKind, typer.Option(help="Which form: see docs/tables.md.")],
    destination: Annotated[
        str | None, typer.Option("--out", metavar="URL", help="Where to; ARCHIVE/exports/KIND unless given.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="SQL over the photos: \"license_id = '7'\".")] = None,
    restricted: Annotated[
        bool, typer.Option("--restricted", help="Also photos with all rights reserved or an unknown licence.")
    ] = False,
    of: Annotated[str | None, typer.Option(help="Which embeddings' index, where there are several.")] = None,
    as_json: Json = False,
) -> None:
    """Write the indexed photos in a form that other programs read, or bring such an export up to date."""
    from pipeline.export import export

    build = index_of(archive, of)
    if not index.is_fresh(build.archive, build.card):
        err.print(STALE, highlight=False)
    said = export(
        build, to, destination or storage.join(build.archive.url, "exports", to), where=where, restricted=restricted
    )
    if as_json:
        print(json.dumps(said, ensure_ascii=False))
    else:
        out.print(terminal.exported(said), highlight=False)


def model_of(build: builds.Build, tower: "Tower | None" = None) -> "Model":
    """The model that an index was made with, from the weights in its archive; only a tower of it where that will do."""
    from pipeline.models import store

    made = build.card["identity"]
    archive = build.archive.url
    return store.load(archive, made["model"], made["pretrained"], made["checkpoint_sha256"], tower=tower)


def describe_command(
    pictures: Annotated[list[str], typer.Argument(metavar="FILE|URL|PHOTO_ID…", help="Pictures to describe.")],
    text: Annotated[list[str], typer.Option(help="A text to compare each picture with; give several as labels.")] = [],  # noqa: B006
    model: Annotated[
        str, typer.Option(help="An OpenCLIP CoCa, or any OpenCLIP model for --text alone.")
    ] = "coca_ViT-L-14",
    pretrained: Annotated[str | None, typer.Option(help="Its weights; none for a local-dir: or hf-hub: model.")] = None,
    generation: Annotated[Generation, typer.Option(help="How captions' words are chosen.")] = "beam",
    archive: Annotated[str | None, typer.Option(metavar="ARCHIVE", help="Where photo ids are looked up.")] = None,
    as_json: Json = False,
) -> None:
    """Caption pictures, and compare them with texts: cosines, and probabilities among the texts. Needs no archive."""
    from pipeline.describe import describe

    url = archive_url(archive) if archive else None
    said = describe(pictures, text, model=model, pretrained=pretrained, generation=generation, archive=url)
    if as_json:
        print(json.dumps(said, ensure_ascii=False))
    else:
        out.print(terminal.described(said), highlight=False)
