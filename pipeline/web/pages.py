"""The page: a search and its hits, one photo, downloads. It works without a script; static/page.js makes it quicker.

The address is the search: the API's parameters, as `Params.address` writes them. What sources and users wrote is
escaped by the templates, and links lead where `page.host` lets them.
"""

import csv
import json
import tempfile
from collections.abc import Callable, Coroutine
from io import BytesIO, StringIO
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

import pyarrow.parquet as pq
from fastapi import APIRouter, File, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException

from pipeline import boxes, page
from pipeline.facts import Damaged
from pipeline.imaging import BadImage
from pipeline.photo import UserError
from pipeline.search import Answer, hits
from pipeline.upkeep.rights import cell
from pipeline.web import reranker, views
from pipeline.web.api import Route, reranker_of, service_of
from pipeline.web.params import Params
from pipeline.web.reranker import Question, Unanswered
from pipeline.web.service import Missing, Service
from pipeline.web.towers import Unready
from pipeline.web.turns import Busy, Late

TROUBLES = (UserError, Unready, Missing, Unanswered, BadImage, Busy, Late, RequestValidationError, HTTPException)
ALIKE = 8  # photos like one, below it
STYLE_S = 3600  # that browsers may keep the palette

html = Environment(
    loader=PackageLoader("pipeline.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
for name in html.list_templates(["html"]):
    html.get_template(name)  # what is read now is there later, whatever is installed meanwhile


class Page(Route):
    """A route whose troubles are told on a page, in the words and with the status that the API has for them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await answer(request)
            except TROUBLES as error:
                handlers = request.app.exception_handlers
                said = next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)(request, error)
                return trouble(request, said)

        return handle


router = APIRouter(route_class=Page, include_in_schema=False)


def shown(name: str, status: int, service: Service, **context: Any) -> HTMLResponse:
    """A page made of a template."""
    unset = {"notice": None, "found": None, "home": None, "fresh": False, "brief": False}
    context = {"archive": views.archive(service), "reranks": service.reranker is not None, **unset} | context
    return HTMLResponse(html.get_template(name).render(context), status)


def trouble(request: Request, answer: Response) -> Response:
    """What the API would answer where something went wrong, on a page; plain for the script."""
    said, service = json.loads(bytes(answer.body))["error"], service_of(request)
    if request.url.path == "/results":
        told: Response = PlainTextResponse(said, answer.status_code)
    else:
        try:
            told = shown("trouble.html", answer.status_code, service, said=said, **views.form(service, {}, Params()))
        except Damaged:  # then what the form offers cannot be read either
            told = PlainTextResponse(said, answer.status_code)
    if "Retry-After" in answer.headers:
        told.headers["Retry-After"] = answer.headers["Retry-After"]
    return told


@router.get("/base.css")
def base_css() -> Response:
    return Response(page.STYLE + boxes.STYLE, media_type="text/css", headers={"Cache-Control": f"max-age={STYLE_S}"})


@router.get("/")
def search_page(request: Request) -> Response:
    """The form, and the hits of what the address asks for."""
    service, given = service_of(request), dict(request.query_params)
    params, found, wrong = Params(), None, None
    try:
        params = views.parsed(given)
        if dict(parse_qsl(params.address())) != given:
            # Forms without the script send every field that they have: the address says what was asked, and no more.
            return RedirectResponse(views.address(params), 303)
        if params.asks:
            found = service.search(params)
        elif given:
            raise UserError("q: say what the photos should show, in words or by a picture of yours")
    except UserError as error:
        wrong = error
    context = views.form(service, given, params, wrong, found) | {"fresh": not given}
    if found:
        context["found"] = views.result(service, params, found)
        context["notice"] = context["found"]["notice"]
    elif not params.asks:
        context["home"] = views.home(service)
        context["notice"] = views.notice(context["home"]["wall"])
    return shown("search.html", 200, service, **context)


@router.get("/results")
def results(request: Request) -> Response:
    """The hits alone, for the script; or what is wrong with the form, which it is to show there."""
    service = service_of(request)
    try:
        params = views.parsed(dict(request.query_params))
        found = service.search(params)
    except UserError as error:
        return PlainTextResponse(views.wrong(error)["said"])
    return shown("results.html", 200, service, found=views.result(service, params, found))


@router.post("/")
def bring(request: Request, file: Annotated[UploadFile, File()]) -> Response:
    """A picture to search by, for browsers without the script; the filters are those of the address."""
    params = views.parsed(dict(request.query_params))
    name = service_of(request).put(file.file.read())
    return RedirectResponse(views.address(views.from_picture(params, name)), 303)


@router.get("/photo/{photo_id:path}")
def photo_page(request: Request, photo_id: str) -> Response:
    """One photo, all that is known of it, and those that are like it."""
    service = service_of(request)
    told = views.photo(service.photo(photo_id))
    alike, lonely = [], "No other photo is like it."
    try:
        asked = Params(image=photo_id, k=ALIKE)
        alike = views.cards(service.search(asked), Params())
    except UserError as error:  # it has no vector
        lonely = str(error)
    except (Busy, Late):
        lonely = "Too many search at once: look again in a moment for those that are like it."
    context = views.form(service, {}, Params()) | {"brief": True, "photo": told, "alike": alike, "lonely": lonely}
    return shown("photo.html", 200, service, **context, notice=views.notice([told, *alike]))


@router.get("/rerank")
def rerank_page(request: Request) -> Response:
    """What Unsplash finds for some words, and the same in the model's order."""
    service, asks = service_of(request), reranker_of(request)
    given = {name: request.query_params.get(name, "") for name in ("q", "text", "of")}
    both = None
    if given["q"].strip():
        asked = Question.parse(given)
        both = reranker.shown(asked, asks.rerank(asked))
    ofs = [build.card["of"] for build in service.builds]
    return shown("rerank.html", 200, service, typed=given, both=both, ofs=ofs)


@router.get("/download.{kind}")
def download(request: Request, kind: Literal["json", "csv", "parquet"]) -> Response:
    """The hits of the page with the same parameters, to be taken along."""
    params = views.parsed(dict(request.query_params))
    found = service_of(request).search(params)
    body, media_type = {
        "json": (lambda: json.dumps(found.told(), ensure_ascii=False), "application/json"),
        "csv": (lambda: as_csv(found.answer), "text/csv; charset=utf-8"),
        "parquet": (lambda: as_parquet(found.answer), "application/vnd.apache.parquet"),
    }[kind]
    headers = {"Content-Disposition": f'attachment; filename="hits.{kind}"'}
    return Response(body(), media_type=media_type, headers=headers)


def as_parquet(answer: Answer) -> bytes:
    """The hits as `tintype search --out` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hits.parquet"
        hits.write_parquet(str(path), [answer])
        return path.read_bytes()


def as_csv(answer: Answer) -> str:
    """The same rows, lists as JSON; with the mark by which spreadsheets know UTF-8, and no text that is a formula."""
    file = StringIO()
    writer = csv.writer(file)
    writer.writerow(hits.HITS.names)
    for row in pq.read_table(BytesIO(as_parquet(answer))).to_pylist():
        writer.writerow(map(_cell, (row | {"ranks": dict(row["ranks"])}).values()))
    return "\ufeff" + file.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return cell(value) if isinstance(value, str) else value
