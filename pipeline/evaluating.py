"""The commands that say what a model is worth: evaluate, compare."""

import functools
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import builds, config, progress
from pipeline.asking import STALE, model_of
from pipeline.console import Json, archive_url, err, file_option, index_of, out, write
from pipeline.evaluation import compare, printed, retrieval
from pipeline.evaluation.texts import Kind
from pipeline.models.settings import TEMPLATES
from pipeline.photo import UserError
from pipeline.stages import index

if TYPE_CHECKING:
    from pipeline.models.openclip import Model

SHOWN = functools.partial(progress.counted, console=err)


def evaluate_command(
    archive: Annotated[
        str | None, typer.Argument(metavar="[ARCHIVE]", help="A configuration, or an archive's path or URL.")
    ] = None,
    of: Annotated[
        list[str], typer.Option(help="Which embeddings' index; give several, and each is measured against the first.")
    ] = [],  # noqa: B006
    texts: Annotated[Kind, typer.Option(help="What finds photos; auto: people's captions, else titles.")] = "auto",
    where: Annotated[str | None, typer.Option(help="SQL over the photos: only those it is true of.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Only so many photos, always the same ones; fewer are easier to find.")
    ] = None,
    as_json: Json = False,
    html: Annotated[str | None, file_option("Write a page to read or print.")] = None,
    zero_shot: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|cifar10:PATH|cifar100:PATH",
            help="Instead: does the model tell what these pictures show? A folder has one for each class.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --zero-shot: an OpenCLIP model; that of ARCHIVE's index unless given.")
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="Its weights; none for a local-dir: or hf-hub: model.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="With --zero-shot: a class a line, its name or key<tab>name."),
    ] = None,
    template: Annotated[
        list[str], typer.Option(help="With --zero-shot: what a class's name is put into, at {}; several are averaged.")
    ] = [],  # noqa: B006
    png: Annotated[str | None, file_option("With --zero-shot: draw what was taken for what.")] = None,
) -> None:
    """Recall of an index's model: do texts find their pictures, and pictures their texts? Or its zero-shot accuracy."""
    about_recall = {"--texts": texts != "auto", "--where": where is not None}
    about_labels = {"--model": model, "--pretrained": pretrained, "--classes": classes, "--template": template}
    asked_for = zero_shot is not None
    wrong = [name for name, given in (about_recall if asked_for else about_labels | {"--png": png}).items() if given]
    if wrong:
        raise UserError(f"{wrong[0]} goes {'without' if asked_for else 'with'} --zero-shot")
    if zero_shot is not None:
        if not zero_shot.strip():
            raise UserError("--zero-shot names nothing: give a folder with one for each class, or cifar10:PATH")
        said = _zero_shot(zero_shot, _model(archive, of, model, pretrained), classes, template, limit)
        _tell_zero_shot(said, as_json, html, png)
        return
    if archive is None:
        raise UserError("evaluate what? Name an archive, or labelled pictures with --zero-shot FOLDER")
    asked = [index_of(archive, name) for name in dict.fromkeys(of)] or [index_of(archive)]
    for build in asked:
        if not index.is_fresh(build.archive, build.card):
            err.print(STALE, highlight=False)
    sides = [retrieval.indexed(build, functools.partial(model_of, tower="text")) for build in asked]
    said = retrieval.evaluate(asked[0], sides, SHOWN, kind=texts, where=where, limit=limit)
    if html:
        from pipeline.evaluation import sheet

        write(html, sheet.evaluated(said))
        print(f"tintype: wrote {html}", file=sys.stderr)
    if as_json:
        print(json.dumps(said, ensure_ascii=False))
    else:
        out.print(printed.evaluated(said), highlight=False)


def compare_command(
    models: Annotated[
        tuple[str, str],
        typer.Option(metavar="A B", help="Each an index of the archive, MODEL/PRETRAINED or local-dir:PATH."),
    ],
    archive: Annotated[
        str | None, typer.Argument(metavar="[ARCHIVE]", help="Where photos come from, and recall is measured.")
    ] = None,
    photos: Annotated[list[str], typer.Option(metavar="ID", help="A photo of the archive; some, unless given.")] = [],  # noqa: B006
    picture: Annotated[list[str], typer.Option(metavar="FILE|URL", help="A picture from elsewhere.")] = [],  # noqa: B006
    text: Annotated[
        list[str],
        typer.Option(help="A text for each picture, in order; what people wrote, unless given."),
    ] = [],  # noqa: B006
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, max=compare.MOST, help=f"How many photos, where none is named; {compare.SHOWN}."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=2, help="Photos that recall is measured on; all, or 1,000 that must be embedded."),
    ] = None,
    png: Annotated[str | None, file_option("Draw the matrices.")] = None,
    html: Annotated[str | None, file_option("Write a page to read or print.")] = None,
    as_json: Json = False,
) -> None:
    """Two models side by side: cosines of texts with pictures, and the recall of each in an archive."""
    build = compare.archive_build(archive_url(archive), models) if archive else None
    if build is None and photos:
        raise UserError(f"--photos {photos[0]}: name the archive that it is in")
    if build is None and not picture:
        raise UserError("compare the models on what? Name an archive, or give --picture and --text")
    if build is None and limit is not None:
        raise UserError("--limit goes with an archive: recall is measured there")
    if n is not None and (photos or picture):
        raise UserError("-n goes without --photos and --picture: it says how many photos, where none is named")
    sides = [compare.side(name, build, model_of, SHOWN) for name in models]
    shown: list[compare.Picture] = []
    if build is not None:
        chosen = photos or ([] if picture else compare.sample(build, n or compare.SHOWN))
        shown += compare.from_archive(build, chosen, sides)
    shown += compare.from_files(picture, sides)
    said = compare.compare(shown, compare.texts_of(shown, text), sides, _recall(build, sides, limit), SHOWN)
    if png or html:
        from pipeline import charts
        from pipeline.evaluation import sheet

        if png:
            write(png, charts.png(sheet.matrices(said, shown)))
        if html:
            write(html, sheet.compared(said, shown))
        for path in filter(None, (png, html)):
            print(f"tintype: wrote {path}", file=sys.stderr)
    if as_json:
        print(json.dumps(said, ensure_ascii=False))
    else:
        out.print(printed.compared(said), highlight=False)


def _recall(build: builds.Build | None, sides: list[retrieval.Side], limit: int | None) -> dict[str, Any] | None:
    """What each model finds in the archive, if there is one, and anything to find its photos by."""
    if build is None:
        return None
    if limit is None and any(side.embeds for side in sides):
        limit = compare.LIMIT
    try:
        return retrieval.evaluate(build, sides, SHOWN, limit=limit)
    except retrieval.NoTexts as error:
        print(f"tintype: no recall: {error}", file=sys.stderr)
        return None


def _model(archive: str | None, of: list[str], model: str | None, pretrained: str | None) -> Callable[[], "Model"]:
    """What loads the model named, else that of an archive's index. Raises UserError."""
    if model is not None:
        wrong = {"ARCHIVE": archive, "--of": of}
        if given := [name for name, value in wrong.items() if value]:
            raise UserError(f"{given[0]} and --model each name a model: give one of them")

        def named() -> "Model":
            from pipeline.models import openclip

            return openclip.load(model, pretrained)

        return named
    if pretrained is not None:
        raise UserError(f"--pretrained {pretrained} goes with --model: it names that model's weights")
    if archive is None:
        raise UserError("--zero-shot of which model? Name one with --model and --pretrained, or an archive")
    if len(of) > 1:
        raise UserError("--zero-shot asks one model: give --of once")
    return functools.partial(model_of, index_of(archive, *of))


def _zero_shot(
    data: str, load: Callable[[], "Model"], classes: str | None, templates: list[str], limit: int | None
) -> dict[str, Any]:
    from pipeline.evaluation import labelled, zero_shot

    found = labelled.read(data, config.read_lines(classes) if classes else (), limit)
    return zero_shot.evaluate(data, found, load, templates or TEMPLATES, SHOWN)


def _tell_zero_shot(said: dict[str, Any], as_json: bool, html: str | None, png: str | None) -> None:
    from pipeline.evaluation import confusion

    if html:
        write(html, confusion.page(said))
    if png:
        write(png, confusion.png(said))
    for path in filter(None, (html, png)):
        print(f"tintype: wrote {path}", file=sys.stderr)
    if as_json:
        print(json.dumps(said, ensure_ascii=False))
    else:
        out.print(confusion.printed(said), highlight=False)
