"""The command line: parse, call, print."""

import getpass
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import __version__, asking, config, evaluating, progress, reranking, serving, storage, terminal
from pipeline.archive import Archive
from pipeline.console import ArchiveName, Conf, Json, Set, archive_url, err, out
from pipeline.photo import UserError
from pipeline.plan import plan
from pipeline.sources.flickr import address
from pipeline.stages import index
from pipeline.status import status
from pipeline.training.command import train_command
from pipeline.upkeep import correct, forget
from pipeline.work import STEPS

if TYPE_CHECKING:
    pass

# torch and open_clip take seconds to load: the commands that compute something import them, the others do without.
app = typer.Typer(
    help="Turn a photo archive into a captioned, searchable Parquet dataset.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
LONG_S = 60  # a run that will take longer says so before it begins
Retry = Annotated[bool, typer.Option("--retry-failed", help="Ask again where a failure may have passed.")]


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
    """Embed, caption and label the fetched pictures that lack it."""
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
    if explain and update:
        raise UserError("give either --explain, which builds nothing, or --update")
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


app.command("search")(asking.search_command)
app.command("verify")(asking.verify_command)
app.command("rights")(asking.rights_command)
app.command("duplicates")(asking.duplicates_command)
app.command("report")(asking.report_command)
app.command("export")(asking.export_command)
app.command("describe")(asking.describe_command)
app.command("evaluate")(evaluating.evaluate_command)
app.command("compare")(evaluating.compare_command)
app.command("rerank")(reranking.rerank_command)
app.command("serve")(serving.serve_command)
app.command("train")(train_command)


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
        print(f"tintype: {storage.no_space(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
