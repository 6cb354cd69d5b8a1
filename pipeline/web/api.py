"""The routes of programs: JSON under /api, and pictures."""

import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, File, Path, Query, Request, Response, UploadFile
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from pipeline import rerank
from pipeline.facts import Damaged
from pipeline.web import dropped
from pipeline.web.params import DATE, LONGEST, MOST_HITS, MOST_SCALE, Params
from pipeline.web.reranker import RESULTS, Question, Reranker
from pipeline.web.service import SIZES, Found, Missing, Service, credit
from pipeline.web.towers import Unready


class Route(APIRoute):
    """A route that is asked once more, of the newest build, where the one in use was deleted meanwhile."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await answer(request)
            except (Damaged, Unready):
                if request.method != "GET":  # what was sent was read
                    raise
            await run_in_threadpool(service_of(request).reload)
            return await answer(request)

        return handle


router = APIRouter(route_class=Route)
PICTURE_S = 60  # that browsers keep a picture: what is forgotten is soon to be gone from pages as well
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": said,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for status, said in {
        400: "The request is wrong; `error` says how.",
        502: "The service that was asked does not answer, or refuses; `error` says why.",
        503: "Too many search at once: try again after Retry-After seconds. Without that header the archive's index or "
        "its weights cannot be read.",
        504: "It took too long.",
    }.items()
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: ERRORS[400] | {"description": "It is not here, or no longer."}}


def _parameter(name: str, said: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": said, "schema": schema}


def _text(name: str, said: str, **more: Any) -> dict[str, Any]:
    return _parameter(name, said, type="string", maxLength=LONGEST.get(name, 100), **more)


PARAMETERS = [
    _text("q", "Words to start from."),
    _text("image", "A picture to start from: a photo's id, or the name that a dropped picture was given."),
    _text("plus", "What there should be more of: words, or a photo's id."),
    _text("minus", "What there should be less of: words, or a photo's id."),
    _parameter("scale", "How much of plus − minus is added.", type="number", minimum=0, maximum=MOST_SCALE, default=1),
    _text("after", "Taken then or later.", pattern=f"^{DATE}$"),
    _text("before", "Taken then or earlier.", pattern=f"^{DATE}$"),
    _text("license", "URL of the licence, its name where it has no URL, or none."),
    _text("tag", "One of the photo's tags."),
    _text("has", "An object in the photo, one of those that were looked for."),
    _text("where", "A DuckDB SQL expression over the photos."),
    _parameter("k", "How many hits at most.", type="integer", minimum=1, maximum=MOST_HITS, default=24),
    _parameter(
        "mode", "By pictures, by words, or both.", type="string", enum=["vector", "hybrid", "words"], default="vector"
    ),
    _text("of", "The embeddings to search with; several with commas between them are fused."),
    _parameter("collapse", "Show exact and near copies once.", type="boolean", default=False),
]


def service_of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


@router.get("/api/search", responses=ERRORS, openapi_extra={"parameters": PARAMETERS})
def search(request: Request) -> dict[str, Any]:
    """The photos that answer a query best."""
    return found_json(service_of(request).search(Params.parse(request.query_params)))


def found_json(found: Found) -> dict[str, Any]:
    """The JSON of `tintype search`, and of each hit its thumbnail and its line of credit."""
    said = found.told()
    for hit, told in zip(found.answer.hits, said["hits"], strict=True):
        told |= {"thumbnail": f"/thumbnails/{hit.row_id}.jpg", "credit": credit(hit)}
    return said | {"among": found.answer.among, "milliseconds": round(found.milliseconds, 1)}


@router.post("/api/pictures", responses=ERRORS | {413: ERRORS[400], 415: ERRORS[400]})
def put_picture(request: Request, file: Annotated[UploadFile, File(description="A picture.")]) -> dict[str, Any]:
    """Drop a picture in: its name, which `image` of a search takes, and its thumbnail."""
    name = service_of(request).put(file.file.read())
    return {"image": name, "thumbnail": f"/pictures/{dropped.digest(name)}.jpg"}


@router.get("/api/photos/{photo_id:path}", responses=ERRORS | NOT_FOUND)
def photo(request: Request, photo_id: Annotated[str, Path(max_length=500)]) -> dict[str, Any]:
    """All that is known of a photo."""
    said = service_of(request).photo(photo_id)
    return said | {"thumbnail": f"/thumbnails/{said['row_id']}.jpg"}


@router.get("/api/archive", responses=ERRORS)
def archive(request: Request) -> dict[str, Any]:
    """What is searched here."""
    asked = service_of(request)
    indexes = []
    for build in asked.builds:
        card, facets = build.card, asked.facets(build.card["of"])
        identity = card["identity"]
        indexes.append(
            {
                "of": card["of"],
                "build": card["build"],
                "created_at": card["created_at"],
                "kind": card["kind"],
                "photos": card["photos"],
                "rows": card["rows"],
                "model": identity.get("model"),
                "pretrained": identity.get("pretrained"),
                "years": facets["years"],
                "licenses": [{"url": url, "name": name, "photos": n} for url, name, n in facets["licenses"]],
                "tags": [{"tag": tag, "photos": n} for tag, n in facets["tags"]],
                "objects": [{"object": name, "photos": n} for name, n in facets["objects"]],
            }
        )
    return {"archive": asked.name, "indexes": indexes}


@router.get(
    "/api/rerank",
    responses=ERRORS | NOT_FOUND,
    openapi_extra={
        "parameters": [
            _text("q", "Words to ask Unsplash for."),
            _text("text", "What the model ranks by; q, unless given."),
            _text("of", "The embeddings whose model ranks."),
        ]
    },
)
def reranked(request: Request) -> dict[str, Any]:
    """What Unsplash finds, in the order of the model, where this server has a key for Unsplash."""
    reranker = reranker_of(request)
    asked = Question.parse(request.query_params)
    said = {"service": "unsplash", "query": asked.q, "text": asked.text, "n": RESULTS}
    return {"query": said, **rerank.told(reranker.rerank(asked))}


def reranker_of(request: Request) -> Reranker:
    """Raises Missing where this server re-ranks nothing."""
    if (found := service_of(request).reranker) is None:
        raise Missing("this server re-ranks nothing: it was started without UNSPLASH_ACCESS_KEY in its environment")
    return found


@router.get("/thumbnails/{row_id}.jpg", response_class=Response, responses=NOT_FOUND)
def thumbnail(
    request: Request,
    row_id: Annotated[int, Path(ge=0, lt=1 << 63)],
    size: Annotated[int, Query(description=f"Pixels of the long edge: one of {SIZES}.")] = SIZES[1],
) -> Response:
    """A photo of the archive, small."""
    data = service_of(request).thumbnail(row_id, size)
    return _jpeg(request, data, f'"{row_id}-{size}"')  # a row's picture never changes


@router.get("/pictures/{digest}.jpg", response_class=Response, responses=NOT_FOUND)
def dropped_picture(request: Request, digest: str) -> Response:
    """A picture that was dropped in, small."""
    if not re.fullmatch("[0-9a-f]{32}", digest):
        raise Missing("there is no such picture")
    return _jpeg(request, service_of(request).picture(digest), f'"{digest}"')


@router.get("/healthz", include_in_schema=False)
async def health() -> dict[str, bool]:
    return {"ok": True}


def _jpeg(request: Request, data: bytes, tag: str) -> Response:
    headers = {"ETag": tag, "Cache-Control": f"private, max-age={PICTURE_S}"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="image/jpeg", headers=headers)
