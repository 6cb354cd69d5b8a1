"""A query → hits, from one index build. No cluster, and no network but for a query picture given by its URL.

A build is a snapshot: index, facts, rights and captions of the same live rows. Only what is forgotten, gone from its
source or corrected by a person since is read anew: that holds at once.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import requests
from PIL import Image

from pipeline import __version__, imaging
from pipeline.builds import Build, News
from pipeline.photo import Hit, UserError

MAX_PICTURE_BYTES = 256 << 20  # of a query picture
MAX_PICTURE_PIXELS = 200_000_000
CONNECT_S, READ_S = 5, 30
FACTS = ("photo_id", "title", "caption", "caption_model", "caption_by", "date_taken", "license_id", "license_name",
         "license_url", "owner", "page_url")  # fmt: skip


class Embedder(Protocol):
    """What a search needs of a model (models/openclip.py): texts and pictures into the space of the index."""

    side: int

    def identity(self) -> dict[str, Any]: ...

    def preprocess(self, image: Image.Image) -> np.ndarray: ...

    def embed_images(self, batch: np.ndarray) -> np.ndarray: ...

    def embed_texts(self, texts: list[str]) -> np.ndarray: ...


@dataclass(frozen=True)
class Query:
    """What is looked for: words or a picture, and arithmetic upon it, unit(start + scale × (plus − minus))."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    text: str | None = None
    """Words to start from."""
    image: str | None = None
    """A picture to start from: the id of a photo of the archive, a file, or an http(s) URL."""
    plus: str | None = None
    """What there should be more of: words, or the id of a photo of the archive."""
    minus: str | None = None
    """What there should be less of: words, or the id of a photo of the archive."""
    scale: float = 1.0
    """How much of the difference is added."""
    where: str | None = None
    """A DuckDB SQL expression over the build's photos: only those it is true of are searched."""
    k: int = 6
    """How many hits at most."""


@dataclass(frozen=True)
class Picture:
    """A picture named in a query: one of the archive (`row_id`), or one from outside (`data`: its bytes)."""

    name: str
    row_id: int | None = None
    data: bytes | None = None


@dataclass(frozen=True)
class Answer:
    """The hits of a query, best first, and the pictures that the query named."""

    query: Query
    hits: tuple[Hit, ...]
    pictures: tuple[Picture, ...]


def search(build: Build, query: Query, load: Callable[[], Embedder]) -> Answer:
    """The nearest photos to one query; see `search_many`."""
    return search_many(build, [query], load)[0]


def search_many(build: Build, queries: Sequence[Query], load: Callable[[], Embedder]) -> list[Answer]:
    """The nearest photos to each query, exactly within those that its `where` keeps.

    `load` gives the model that the index was made with; it is called once, and only if a query holds words or a picture
    from outside. A photo that a query names by its id is never a hit of it. Raises UserError.
    """
    news = build.news()
    embedder = functools.cache(lambda: _checked(build, load()))
    return [_search(build, query, embedder, news) for query in queries]


def _checked(build: Build, embedder: Embedder) -> Embedder:
    ours, theirs = embedder.identity(), build.card["identity"]
    # The licence is a label: vectors do not depend on it, and it may become known only later.
    differing = [key for key in ours if key != "weights_license" and ours[key] != theirs.get(key)]
    if differing:
        made, given = (" / ".join(filter(None, (i.get("model"), i.get("pretrained")))) for i in (theirs, ours))
        raise UserError(
            f"the index of {build.card['of']} was made with {made}, this model is {given}: they differ in "
            f"{', '.join(differing)}; search with the index's own model, or annotate and index anew"
        )
    return embedder


def _search(build: Build, query: Query, embedder: Callable[[], Embedder], news: News) -> Answer:
    if query.k < 1:
        raise UserError(f"-k {query.k}: ask for at least one hit")
    if bool(query.text and query.text.strip()) == bool(query.image):
        raise UserError("search for either words or a picture (--image)")
    among = build.matching(query.where) if query.where is not None else None
    vector, pictures = _vector(build, query, embedder, news.hidden)
    own = {picture.row_id for picture in pictures if picture.row_id is not None}
    k = min(query.k, build.card["rows"])
    scores, row_ids = build.nearest(vector[None], k, among=among, without=news.hidden | own)
    found = [(float(score), int(row_id)) for score, row_id in zip(scores[0], row_ids[0], strict=True) if row_id >= 0]
    facts = build.facts([row_id for _, row_id in found], FACTS)
    for row_id in facts.keys() & news.captions.keys():
        word = news.captions[row_id]
        facts[row_id] |= {"caption": word.value, "caption_model": None, "caption_by": word.by}
    hits = (Hit(rank, score, row_id=row_id, **facts[row_id]) for rank, (score, row_id) in enumerate(found, 1))
    return Answer(query, tuple(hits), pictures)


def _vector(
    build: Build, query: Query, embedder: Callable[[], Embedder], hidden: frozenset[int]
) -> tuple[np.ndarray, tuple[Picture, ...]]:
    """The unit vector of a query, float32[dim], and the pictures it names.

    unit(start + scale × (plus − minus)), each term a unit vector: Couairon et al., arXiv 2112.03162.
    """
    ids = build.row_ids({term for term in (query.image, query.plus, query.minus) if term})
    known = {photo_id: row_id for photo_id, row_id in ids.items() if row_id not in hidden}
    pictures = [Picture(photo_id, row_id=row_id) for photo_id, row_id in known.items()]

    def term(words: str) -> np.ndarray:
        return _stored(build, words, known[words]) if words in known else embedder().embed_texts([words])[0]

    if query.image and query.image not in known:
        outside = Picture(query.image, data=read_picture(query.image))
        pictures.append(outside)
        vector = _embedded(embedder(), outside)
    else:
        vector = term(query.image or query.text or "")
    if query.plus:
        vector = vector + query.scale * term(query.plus)
    if query.minus:
        vector = vector - query.scale * term(query.minus)
    length = float(np.linalg.norm(vector))
    if not length > 1e-6:
        raise UserError("nothing is left of this query: its terms cancel each other out")
    return (vector / length).astype(np.float32), tuple(pictures)


def _stored(build: Build, photo_id: str, row_id: int) -> np.ndarray:
    try:
        return build.vector(row_id)
    except KeyError as error:
        raise UserError(f"{photo_id} has no vector to search with: its picture could not be embedded") from error


def _embedded(embedder: Embedder, picture: Picture) -> np.ndarray:
    assert picture.data is not None
    try:
        image = imaging.decode(picture.data, max_pixels=MAX_PICTURE_PIXELS, side=embedder.side)
    except imaging.BadImage as error:
        raise UserError(f"{picture.name} is not a usable picture ({error.reason}: {error})") from error
    return embedder.embed_images(embedder.preprocess(image)[None])[0]


def read_picture(name: str) -> bytes:
    """The bytes of a picture in a file or at an http(s) URL. Raises UserError."""
    try:
        data = _download(name) if name.startswith(("http://", "https://")) else Path(name).read_bytes()
    except requests.RequestException as error:
        raise UserError(f"cannot get the picture {name}: {error}") from error
    except OSError as error:
        raise UserError(f"{name!r} is no photo of the archive, and no file: {error.strerror}") from error
    return data


def _download(url: str) -> bytes:
    headers = {"User-Agent": f"tintype/{__version__}"}
    with requests.get(url, headers=headers, timeout=(CONNECT_S, READ_S), stream=True) as answer:
        answer.raise_for_status()
        data = bytearray()
        for piece in answer.iter_content(1 << 16):
            data += piece
            if len(data) > MAX_PICTURE_BYTES:
                raise UserError(f"the picture {url} is larger than {MAX_PICTURE_BYTES >> 20} MB")
    return bytes(data)


def in_words(
    answer: Answer,
    words: Callable[[str], str] = "“{}”".format,
    picture: Callable[[Picture], str] = lambda picture: picture.name,
) -> str:
    """The query as a formula, “a red boat” + 1.5 × (“blue” − “red”), each term as `words` or `picture` shows it."""
    query, pictures = answer.query, {picture.name: picture for picture in answer.pictures}

    def term(name: str | None) -> str:
        assert name is not None
        return picture(pictures[name]) if name in pictures else words(name)

    start = term(query.image or query.text)
    times = "" if query.scale == 1 else f"{query.scale:g} × "
    if query.plus and query.minus:
        return f"{start} + {times}({term(query.plus)} − {term(query.minus)})"
    if query.plus:
        return f"{start} + {times}{term(query.plus)}"
    return f"{start} − {times}{term(query.minus)}" if query.minus else start


def hits_json(build: Build, answer: Answer) -> dict[str, Any]:
    """The documented JSON of an answer: query, index, hits."""
    card = build.card
    captions = card["captions"]
    return {
        "query": {key: value for key, value in asdict(answer.query).items() if value is not None},
        "index": {
            "archive": build.archive.url,
            "of": card["of"],
            "build": card["build"],
            "kind": card["kind"],
            "rows": card["rows"],
            "captions": captions["table"] if captions else None,
        },
        "hits": [_hit_json(hit) for hit in answer.hits],
    }


def _hit_json(hit: Hit) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "score": round(hit.score, 6),
        "photo_id": hit.photo_id,
        "row_id": hit.row_id,
        "title": hit.title,
        "caption": hit.caption,
        "caption_by": hit.caption_by,
        "date_taken": hit.date_taken,
        "license": {"id": hit.license_id, "name": hit.license_name, "url": hit.license_url},
        "owner": hit.owner,
        "page_url": hit.page_url,
    }
