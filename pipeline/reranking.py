"""The command that puts another service's results into a model's order: rerank."""

import functools
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import rerank
from pipeline.asking import model_of
from pipeline.checker import Checker
from pipeline.console import Json, file_option, index_of, out, write
from pipeline.models.settings import check_embedding, named
from pipeline.photo import UserError
from pipeline.rerank import printed, sheet
from pipeline.sources.unsplash import UnsplashSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.models.openclip import Model


class Service(StrEnum):
    unsplash = "unsplash"


def rerank_command(
    query: Annotated[str, typer.Argument(help="Words that the service is asked for.")],
    archive: Annotated[
        str | None, typer.Argument(metavar="[ARCHIVE]", help="Whose index's model ranks: a configuration, path or URL.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="What the model ranks by; the words that the service is asked for, unless given.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=rerank.MOST, help="How many results are ranked.")] = 30,
    k: Annotated[int, typer.Option("-k", min=1, help="How many of each order are shown; --json has all of them.")] = 10,
    service: Annotated[Service, typer.Option(help="Whose results.")] = Service.unsplash,
    model: Annotated[str | None, typer.Option(help="An OpenCLIP model, instead of ARCHIVE.")] = None,
    pretrained: Annotated[str | None, typer.Option(help="Its weights; none for a local-dir: or hf-hub: model.")] = None,
    of: Annotated[str | None, typer.Option(help="Which embeddings' index, where there are several.")] = None,
    as_json: Json = False,
    html: Annotated[str | None, file_option("Write a page with both orders side by side.")] = None,
    api_url: Annotated[
        str, typer.Option(help="Where the service's API is; another address for a test or a demo.")
    ] = UnsplashSource.api_url,
) -> None:
    """Fetch what another service finds for some words, and put it into the order of a model: both, side by side.

    Needs UNSPLASH_ACCESS_KEY in the environment. Nothing is kept.
    """
    load = _model(archive, of, model, pretrained)
    if not query.strip():
        raise UserError("rerank what? Give words to ask the service for")
    found = UnsplashSource(query, limit=n, api_url=api_url).offers()
    loaded = load()
    with Checker() as checker:
        looked, unseen = rerank.look(found.offers, loaded.side, checker)
    ranked = rerank.order(rerank.embed(looked, unseen, found.total, loaded), (text or "").strip() or query, loaded)
    made = loaded.identity()
    if html:
        write(html, sheet.render(ranked, query, named(made["model"], made["pretrained"]), k))
        print(f"tintype: wrote {html}", file=sys.stderr)
    if as_json:
        asked = {"service": service.value, "query": query, "text": ranked.text, "n": n}
        used = {"model": made["model"], "pretrained": made["pretrained"]}
        print(json.dumps({"query": asked, "model": used, **rerank.told(ranked)}, ensure_ascii=False))
    else:
        out.print(printed.reranked(ranked, query, k), highlight=False)
    raise typer.Exit(1 if ranked.pool.unseen and not ranked.ours else 0)


def _model(archive: str | None, of: str | None, model: str | None, pretrained: str | None) -> "Callable[[], Model]":
    """What loads the model named, else that of an archive's index. Raises UserError."""
    if (archive is None) == (model is None):
        raise UserError("which model ranks? Give an archive, or --model and --pretrained: one of them")
    if archive is not None:
        if pretrained is not None:
            raise UserError(f"--pretrained {pretrained} goes with --model: it names that model's weights")
        return functools.partial(model_of, index_of(archive, of))
    if of is not None:
        raise UserError(f"--of {of} names an index of an archive: leave it out, or --model")
    assert model is not None
    check_embedding(model, pretrained)

    def load() -> "Model":
        from pipeline.models import openclip

        return openclip.load(model, pretrained)

    return load
