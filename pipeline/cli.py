"""The command line: parse, call, print."""

import getpass
import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipeline import __version__, builds, config, contact_sheet, duplicates, progress, search, storage, terminal
from pipeline.archive import Archive
from pipeline.duplicates import report, sheet
from pipeline.models.settings import Generation
from pipeline.photo import UserError
from pipeline.plan import plan
from pipeline.search import Query, hits
from pipeline.sources.flickr import address
from pipeline.stages import index
from pipeline.status import status
from pipeline.upkeep import correct, forget, rights
from pipeline.upkeep.inspection import count
from pipeline.upkeep.verify import verify
from pipeline.work import STEPS

if TYPE_CHECKING:
    from pipeline.models.openclip import Model

# torch and open_clip take seconds to load: the commands that compute something import them, the others do without.
app = typer.Typer(
    help="Turn a photo archive into a captioned, searchable Parquet dataset.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# Where nobody looks on, in a file or a pipe, lines are not broken at the 80 columns that Rich takes a terminal to have.
PLAIN_WIDTH = 240
STALE = "tintype: the index is older than its tables; `tintype index CONF` renews it"
LONG_S = 60  # a run that will take longer says so before it begins
out = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(width=None if sys.stderr.isatty() else PLAIN_WIDTH, stderr=True)

Conf = Annotated[str, typer.Argument(metavar="CONF", help="A YAML configuration; see conf/ and docs/config.md.")]
ArchiveName = Annotated[str, typer.Argument(metavar="ARCHIVE", help="A configuration, or an archive's path or URL.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: run.runner=local.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Ask again where a failure may have passed.")]


def archive_url(name: str) -> str:
    """The URL of what the user named: a configuration's archive, or the URL itself."""
    return config.load(name).archive if name.endswith((".yaml", ".yml")) else name


def carry_out(conf: str, overrides: list[str], steps: Sequence[str], **how: bool) -> None:
    """`how`: see `run.run`."""
    from pipeline.run import run

    settings = config.load(conf, overrides)
    archive = opened(settings)
    if archive and not {"list", "index"}.issuperset(steps):
        said = plan(settings, archive)
        if (said["wall_seconds"] or 0) > LONG_S:
            err.print(terminal.planned(said), highlight=False)
    try:
        with progress.Progress(err) as shown:
            summary = run(settings, shown, steps, **how)
    except KeyboardInterrupt:
        err.print("stopped; run the same command again to go on", highlight=False)
        raise typer.Exit(130) from None
    out.print(terminal.summary(summary, settings.archive, steps), highlight=False)
    raise typer.Exit(summary.exit_status(settings.run.max_failed))


@app.command("run")
def run_command(
    conf: Conf,
    no_list: Annotated[bool, typer.Option("--no-list", help="Do not ask the sources for new photos.")] = False,
    retry_failed: Retry = False,
    overrides: Set = [],  # noqa: B006 - typer copies it
) -> None:
    """List what is new, fetch, annotate and index: whatever is missing."""
    carry_out(conf, overrides, STEPS[1:] if no_list else STEPS, retry_failed=retry_failed)


@app.command("refresh")
def refresh_command(conf: Conf, overrides: Set = []) -> None:  # noqa: B006
    """Follow the sources: what is new, edited, replaced, gone or back there; then fetch, annotate and index."""
    carry_out(conf, overrides, STEPS, refresh=True)


@app.command("list")
def list_command(conf: Conf, overrides: Set = []) -> None:  # noqa: B006
    """Ask the sources what photos they have, and record the new ones."""
    carry_out(conf, overrides, ["list"])


@app.command("fetch")
def fetch_command(conf: Conf, retry_failed: Retry = False, overrides: Set = []) -> None:  # noqa: B006
    """Download the listed pictures that are missing, and check them."""
    carry_out(conf, overrides, ["fetch"], retry_failed=retry_failed)


@app.command("annotate")
def annotate_command(conf: Conf, overrides: Set = []) -> None:  # noqa: B006
    """Embed and caption the fetched pictures that lack it."""
    carry_out(conf, overrides, ["annotate"])


@app.command("index")
def index_command(
    conf: Conf,
    update: Annotated[
        bool, typer.Option("--update", help="Add what is new to the index in use, and mask what is gone.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what would be built, why, and what each kind would take.")
    ] = False,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Build the search index of the live photos, measure it, and switch to it."""
    if not explain:
        carry_out(conf, overrides, ["index"], update=update)
    settings = config.load(conf, overrides)
    out.print(terminal.explained(index.explain(Archive.open(settings.archive), settings.index)), highlight=False)


@app.command("plan")
def plan_command(
    conf: Conf,
    photos: Annotated[int | None, typer.Option(min=0, help="Photos in all; those listed so far unless given.")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs, or CPU workers, that annotate.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Nodes that fetch.")] = 1,
    price: Annotated[float | None, typer.Option(min=0, help="What a GPU costs an hour.")] = None,
    as_json: Json = False,
    overrides: Set = [],  # noqa: B006
) -> None:
    """Reckon how long a run will take, what it will fetch and store, and what it costs. Does nothing else."""
    settings = config.load(conf, overrides)
    said = plan(settings, opened(settings), photos=photos, devices=gpus, workers=workers, price=price)
    if as_json:
        print(json.dumps(said, ensure_ascii=False))
    else:
        out.print(terminal.planned(said), highlight=False)


def opened(settings: config.Settings) -> Archive | None:
    """The archive of a configuration, if there is one yet."""
    try:
        return Archive.open(settings.archive)
    except UserError:
        return None


@app.command("status")
def status_command(
    archive: ArchiveName,
    watch: Annotated[bool, typer.Option("--watch", help="Again every few seconds, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Live photos, parts done and pending, how fast, failures by reason, freshness of the index."""
    there = Archive.open(archive_url(archive))
    if watch:
        terminal.watch(lambda: status(there), out, as_json)
    elif as_json:
        print(json.dumps(status(there), ensure_ascii=False))
    else:
        out.print(terminal.status(status(there)), highlight=False)


@app.command("search")
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
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a contact sheet of the hits.")] = None,
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
    url = archive_url(archive)
    searched = [builds.open_build(url, name) for name in dict.fromkeys(of)] or [builds.open_build(url)]
    copies, note = report.groups(searched[0]) if collapse else (None, None)
    if note:
        print(f"tintype: {note}", file=sys.stderr)
    answers = warned(search.answers(searched, asked, model_of, copies), searched[0])
    if hits_file or as_json or html:
        answers = progress.counted(answers, len(asked), "queries", err)
    if as_json or html:
        answers = list(answers)  # they are shown together
        if html:
            Path(html).write_text(contact_sheet.render(searched, answers), encoding="utf-8")
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


@app.command("verify")
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


@app.command("rights")
def rights_command(
    archive: ArchiveName,
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write a row a photo, for spreadsheets.")
    ] = None,
    html: Annotated[str | None, typer.Option("--html", metavar="FILE", help="Write a page to read or print.")] = None,
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


@app.command("duplicates")
def duplicates_command(
    archive: ArchiveName,
    destination: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="Also write the groups, with facts and rights, as Parquet."),
    ] = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a contact sheet of the groups.")] = None,
    similar: Annotated[
        float, typer.Option(min=0, max=1, help="Least cosine of similar pictures; 1 looks for copies alone.")
    ] = 0.95,
    of: Annotated[str | None, typer.Option(help="Which embeddings' index, where there are several.")] = None,
    as_json: Json = False,
) -> None:
    """Find exact copies, near copies and similar pictures among the indexed photos."""
    from pipeline.hashing import hash_missing

    build = builds.open_build(archive_url(archive), of)
    if not index.is_fresh(build.archive, build.card):
        err.print(STALE, highlight=False)
    with progress.Progress(err) as shown:
        hash_missing(build.archive, shown.report)
        found = duplicates.find(build, similar, shown.report)
    report.keep(build, found)
    if destination:
        report.write(destination, build, found)
    if html:
        Path(html).write_text(sheet.render(build, found), encoding="utf-8")
    for path in filter(None, (destination, html)):
        print(f"tintype: wrote {path}", file=sys.stderr)
    if as_json:
        print(json.dumps(report.said(build, found), ensure_ascii=False))
    else:
        out.print(terminal.duplicates(report.said(build, found), found), highlight=False)


class ExportKind(StrEnum):
    huggingface = "huggingface"
    wide = "wide"
    clip_retrieval = "clip-retrieval"


@app.command("export")
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

    url = archive_url(archive)
    build = builds.open_build(url, of)
    if not index.is_fresh(build.archive, build.card):
        err.print(STALE, highlight=False)
    said = export(build, to, destination or storage.join(url, "exports", to), where=where, restricted=restricted)
    if as_json:
        print(json.dumps(said, ensure_ascii=False))
    else:
        out.print(terminal.exported(said), highlight=False)


def model_of(build: builds.Build) -> "Model":
    """The model that an index was made with, from the weights in its archive."""
    from pipeline.models import store

    made = build.card["identity"]
    return store.load(build.archive.url, made["model"], made["pretrained"], made["checkpoint_sha256"])


@app.command("describe")
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


@app.command("forget")
def forget_command(
    archive: ArchiveName,
    photos: Annotated[
        list[str], typer.Argument(metavar="[ID]…", help="Photos: flickr:2179931434, or their pages.")
    ] = [],  # noqa: B006
    owner: Annotated[str | None, typer.Option(help="All photos of the owner of this name or id.")] = None,
    file: Annotated[str | None, typer.Option("--from", metavar="FILE", help="A file with an id a line.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
) -> None:
    """Take photos out for good: at once from every answer, then from every byte of the archive.

    Without any it ends what a `forget` that was killed has begun.
    """
    held = Archive.open(archive_url(archive))
    ids = [address.photo_id(photo) for photo in [*photos, *(config.read_lines(file) if file else [])]]
    ids += forget.find(held, owner) if owner else []
    if ids and not reason.strip():
        raise UserError("say why with --reason: whoever keeps this archive after you will want to know")
    unknown = forget.forget(held, ids, reason) if ids else []
    out.print(terminal.forgotten(held, set(ids), unknown, forget.finish(held)), highlight=False)


@app.command("correct")
def correct_command(
    archive: ArchiveName,
    photo: Annotated[str, typer.Argument(metavar="ID", help="A photo: flickr:2179931434, or its page.")],
    caption: Annotated[str | None, typer.Option(help="What its caption is from now on.")] = None,
    hide_caption: Annotated[bool, typer.Option("--hide-caption", help="It has none from now on.")] = False,
    by: Annotated[str | None, typer.Option(help="Who says so; you, unless given.")] = None,
) -> None:
    """Put a person's caption in the place of the machine's, for good."""
    if (caption is None) == (not hide_caption):
        raise UserError("give either --caption TEXT or --hide-caption")
    photo_id, held = address.photo_id(photo), Archive.open(archive_url(archive))
    correct.correct(held, photo_id, caption, by or own_name())
    out.print(f"{photo_id}: {f'“{caption}”' if caption else 'no caption'}, in searches at once; `tintype index CONF` "
              "renews the index for --where and exports", highlight=False, markup=False)  # fmt: skip


def own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user of this number
        raise UserError("this machine does not know who you are: say who corrects it with --by") from None


@app.command("models")
def models_command(conf: Conf, overrides: Set = []) -> None:  # noqa: B006
    """Fetch the weights a configuration names, once, into its archive; show their licences."""
    from pipeline.run import find_weights, store_weights

    settings = config.load(conf, overrides)
    found = find_weights(settings)
    store_weights(Archive.create(settings.archive), found)
    out.print(terminal.models(found), highlight=False)


@app.command("demo")
def demo_command(
    folder: Annotated[str, typer.Option(metavar="FOLDER", help="Where the demo's archive is made.")] = "archives/demo",
) -> None:
    """The whole thing on the demo photostream: list, fetch, annotate, index, then three searches."""
    from pipeline.demo.show import show

    raise typer.Exit(show(folder, out, err))


@app.callback(invoke_without_command=True)
def about(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"tintype {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. A user's mistake is one line, a bug is a traceback."""
    try:
        app(args=sys.argv[1:] if arguments is None else list(arguments), prog_name="tintype")
    except SystemExit as end:
        return int(end.code or 0)
    except UserError as error:
        print(f"tintype: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        if error.errno not in storage.FULL:
            raise
        print(f"tintype: no space left on {error.filename or 'the disk'}; free some and run again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
