"""The commands that say what a model is worth: evaluate."""

import functools
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline import builds, progress
from pipeline.asking import STALE, model_of
from pipeline.console import ArchiveName, Json, archive_url, err, out
from pipeline.evaluation import printed, retrieval
from pipeline.evaluation.texts import Kind
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
    said = retrieval.evaluate(asked, model_of, SHOWN, kind=texts, where=where, limit=limit)
    if html:
        from pipeline.evaluation import sheet

        Path(html).write_text(sheet.evaluated(said), encoding="utf-8")
        print(f"tintype: wrote {html}", file=sys.stderr)
    if as_json:
        print(json.dumps(said, ensure_ascii=False))
    else:
        out.print(printed.evaluated(said), highlight=False)
