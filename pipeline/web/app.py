"""The application: routes, and what an exception of theirs is answered with."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from pipeline import __version__
from pipeline.facts import Damaged
from pipeline.imaging import BadImage
from pipeline.photo import UserError
from pipeline.web import api, pages
from pipeline.web.guard import HEADERS, Guard
from pipeline.web.reranker import Unanswered
from pipeline.web.service import Missing, Service
from pipeline.web.towers import Unready
from pipeline.web.turns import Busy, Late

STATIC = Path(__file__).parent / "static"
STATUS = {"too_large": 413, "not_an_image": 415}  # of a BadImage, by its reason; 422 for others


def create(service: Service, token: str | None = None) -> FastAPI:
    """The page and the API of a service. With a token, whoever asks must know it."""
    # No page of FastAPI's own: they load scripts from elsewhere.
    app = FastAPI(
        title="Tintype",
        version=__version__,
        description="Search an archive of photographs. Captions without `caption_by` were written by a machine.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.service = service
    app.include_router(api.router)
    app.include_router(pages.router, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    limits = service.limits
    app.add_middleware(Guard, token=token, picture_bytes=limits.picture_bytes, uploads=limits.uploads)
    for kind, answer in ANSWERS.items():
        app.add_exception_handler(kind, answer)
    return app


def _said(status: int, error: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": " ".join(error.split())}, status, headers)


def _user(_: Request, error: Exception) -> JSONResponse:
    return _said(400, str(error).replace("--where", "where"))


def _unready(request: Request, error: Exception) -> JSONResponse:
    request.app.state.service.complain(error)
    return _said(503, "the archive cannot be searched so now: whoever runs this server is told why where it runs")


def _missing(_: Request, error: Exception) -> JSONResponse:
    return _said(404, str(error))


def _bad_image(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BadImage)
    return _said(STATUS.get(error.reason, 422), f"this is no usable picture ({error.reason}: {error})")


def _unanswered(_: Request, error: Exception) -> JSONResponse:
    return _said(502, str(error))


def _busy(_: Request, error: Exception) -> JSONResponse:
    return _said(503, "too many search at once: try again in a moment", **{"Retry-After": "1"})


def _late(_: Request, error: Exception) -> JSONResponse:
    return _said(504, "this took too long and was given up: try again")


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return _said(422, said)


def _bug(_: Request, error: Exception) -> JSONResponse:
    return _said(500, "this is a fault of the program; its log has more", **HEADERS)


def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _said(error.status_code, str(error.detail), **dict(error.headers or {}))


ANSWERS: dict[Any, Any] = {
    UserError: _user,
    Damaged: _unready,
    Unready: _unready,
    Missing: _missing,
    Unanswered: _unanswered,
    BadImage: _bad_image,
    Busy: _busy,
    Late: _late,
    RequestValidationError: _invalid,
    HTTPException: _http,
    Exception: _bug,  # starlette sends this, and raises the exception anew, for the log
}
