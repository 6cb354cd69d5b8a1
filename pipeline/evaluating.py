"""The commands that say what a model is worth: evaluate, compare."""

import functools
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import builds, progress
from pipeline.asking import STALE, model_of
from pipeline.console import ArchiveName, Json, archive_url, err, out
from pipeline.evaluation import compare, printed, retrieval
from pipeline.evaluation.texts import Kind
from pipeline.photo import UserError
from pipeline.stages import index

SHOWN = functools.partial(progress.counted, console=err)


def evaluate_command(
    archive: ArchiveName,
    of: Annotated[list[str], typer.Option(help="Which embeddings' index; give several to see them side by side.")] = [],  # noqa: B006
    texts: Annotated[Kind, typer.Option(help="What finds photos; auto: people's captions, else titles.")] = "auto",
    where: Annotated[str | None, typer.Option(help="SQL over the photos: only those it is true of.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Only so many photos, always the same ones; fewer are easier to find.")
    ] = None,
    as_json: Json = False,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a page to read or print.")] = None,
) -> None:
    """Recall of an index's model: do texts find their pictures, and pictures their texts?"""
    url = archive_url(archive)
    asked = [builds.open_build(url, name) for name in dict.fromkeys(of)] or [builds.open_build(url)]
    for build in asked:
        if not index.is_fresh(build.archive, build.card):
            err.print(STALE, highlight=False)
    sides = [retrieval.indexed(build, model_of) for build in asked]
    said = retrieval.evaluate(asked[0], sides, SHOWN, kind=texts, where=where, limit=limit)
    if html:
        from pipeline.evaluation import sheet

        Path(html).write_text(sheet.evaluated(said), encoding="utf-8")
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
    n: Annotated[int, typer.Option("-n", min=1, help="How many photos, where none is named.")] = 6,
    limit: Annotated[
        int | None,
        typer.Option(min=2, help="Photos that recall is measured on; all, or 1,000 that must be embedded."),
    ] = None,
    png: Annotated[str | None, typer.Option(metavar="FILE", help="Draw the matrices.")] = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a page to read or print.")] = None,
    as_json: Json = False,
) -> None:
    """Two models side by side: cosines of texts with pictures, and the recall of each in an archive."""
    build = compare.archive_build(archive_url(archive), models) if archive else None
    if build is None and photos:
        raise UserError(f"--photos {photos[0]}: name the archive that it is in")
    if build is None and not picture:
        raise UserError("compare the models on what? Name an archive, or give --picture and --text")
    sides = [compare.side(name, build, model_of, SHOWN) for name in models]
    shown: list[compare.Picture] = []
    if build is not None:
        chosen = photos or ([] if picture else compare.sample(build, n))
        shown += compare.from_archive(build, chosen)
    shown += compare.from_files(picture)
    said = compare.compare(shown, compare.texts_of(shown, text), sides, _recall(build, sides, limit))
    if png or html:
        from pipeline import charts
        from pipeline.evaluation import sheet

        if png:
            Path(png).write_bytes(charts.png(sheet.matrices(said, shown)))
        if html:
            Path(html).write_text(sheet.compared(said, shown), encoding="utf-8")
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
