"""An archive's live photos in the forms that other programs read. An export is of one index build, as searches are."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.builds import Build
from pipeline.export import clip_retrieval, wide
from pipeline.export.selection import Selection, choose

# An exporter writes a selection below a URL, and returns what `tintype export --json` prints.
KINDS: dict[str, Callable[[Selection, str], dict[str, Any]]] = {
    "huggingface": partial(wide.export, pictures=True),
    "wide": partial(wide.export, pictures=False),
    "clip-retrieval": clip_retrieval.export,
}


def export(build: Build, kind: str, out: str, *, where: str | None = None, restricted: bool = False) -> dict[str, Any]:
    """Write one of KINDS below `out`, or bring the one that is there up to date.

    `where` is an expression as searches take it; photos with all rights reserved or of unknown licence are left out
    unless `restricted`. Raises UserError.
    """
    return KINDS[kind](choose(build, where, restricted), out)
