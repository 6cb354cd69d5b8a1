"""Queries → unit vectors: words and pictures embedded in batches, photos of the archive taken from the index."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from pipeline import __version__, imaging
from pipeline.builds import Build, News
from pipeline.photo import UserError
from pipeline.search.query import Embedder, Picture, Query

TEXTS, PICTURES = 256, 32  # embedded at a time
MAX_PICTURE_BYTES = 256 << 20  # of a query picture
MAX_PICTURE_PIXELS = 200_000_000
CONNECT_S, READ_S = 5, 30


@dataclass(frozen=True)
class Space:
    """A build that is searched, what was said since it was made, and its model, loaded when first asked for.

    `filter` gives the row ids that a `where` keeps; unless given, the build does.
    """

    build: Build
    news: News
    embedder: Callable[[], Embedder]
    filter: Callable[[str], np.ndarray] | None = None

    def matching(self, where: str) -> np.ndarray:
        """Row ids, int64[n], of the photos that an expression is true of. Raises UserError."""
        return (self.filter or self.build.matching)(where)

    def photos(self, queries: Iterable[Query]) -> dict[str, int]:
        """Row ids of those photos that queries name and this build holds, but for hidden ones."""
        names = {name for query in queries for name in query.names()}
        held = self.build.row_ids(names) if names else {}
        return {photo_id: row_id for photo_id, row_id in held.items() if row_id not in self.news.hidden}


def pictures(
    held: Sequence[Mapping[str, int]], queries: Sequence[Query], outside: Callable[[str], Picture]
) -> dict[str, Picture]:
    """The pictures that queries name: photos that one of the builds holds, and those from `outside`.

    `held`: of each build, as from `Space.photos`. Raises UserError.
    """
    found: dict[str, Picture] = {}
    for photos in reversed(held):  # the first build that holds a photo says where its picture is
        found |= {photo_id: Picture(photo_id, row_id=row_id) for photo_id, row_id in photos.items()}
    for query in queries:
        if query.image and query.image not in found:
            found[query.image] = outside(query.image)
    return found


def vectors(
    space: Space, queries: Sequence[Query], held: Mapping[str, int], named: Mapping[str, Picture]
) -> np.ndarray:
    """The unit vector of each query, float32[n, dim]; `named` as from `pictures`. Raises UserError.

    unit(start + scale × (plus − minus)), each term a unit vector: Couairon et al., arXiv 2112.03162.
    """
    photos = {name for query in queries for name in query.names() if name in named and named[name].row_id is not None}
    images = {photo_id: _stored(space, photo_id, held.get(photo_id)) for photo_id in photos}
    outside = dict.fromkeys(query.image for query in queries if query.image and query.image not in photos)
    unread = [name for name in outside if named[name].vectors is None]
    images |= {name: _given(space, named[name].vectors or {}) for name in outside if named[name].vectors is not None}
    images |= dict(zip(unread, _pictures(space, [named[name] for name in unread]), strict=True))
    texts = dict.fromkeys(text for query in queries for text in _texts(query, photos))
    words = dict(zip(texts, _embedded(space, list(texts)), strict=True))

    def term(name: str) -> np.ndarray:
        return images[name] if name in photos else words[name]

    found = []
    for query in queries:
        vector = images[query.image] if query.image else words[query.text or ""]
        if query.plus:
            vector = vector + query.scale * term(query.plus)
        if query.minus:
            vector = vector - query.scale * term(query.minus)
        length = float(np.linalg.norm(vector))
        if not length > 1e-6:
            raise UserError(f"nothing is left of {query.image or query.text!r}: its terms cancel each other out")
        found.append((vector / length).astype(np.float32))
    return np.stack(found)


def _texts(query: Query, photos: Collection[str]) -> list[str]:
    """Those of a query's terms that are words."""
    start = [query.text] if query.text and not query.image else []
    return start + [name for name in (query.plus, query.minus) if name and name not in photos]


def _stored(space: Space, photo_id: str, row_id: int | None) -> np.ndarray:
    if row_id is None:
        of = space.build.card["of"]
        raise UserError(f"the index of {of} does not hold {photo_id}; bring it up to date, or search without --of {of}")
    try:
        return space.build.vector(row_id)
    except KeyError as error:
        raise UserError(f"{photo_id} has no vector to search with: its picture could not be embedded") from error


def _given(space: Space, vectors: Mapping[str, np.ndarray]) -> np.ndarray:
    of = space.build.card["of"]
    if of not in vectors:
        raise UserError(f"this picture was not embedded for the index of {of}: give it anew")
    return vectors[of]


def _embedded(space: Space, texts: list[str]) -> list[np.ndarray]:
    starts = range(0, len(texts), TEXTS)
    return [vector for start in starts for vector in space.embedder().embed_texts(texts[start : start + TEXTS])]


def _pictures(space: Space, outside: list[Picture]) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for start in range(0, len(outside), PICTURES):
        embedder = space.embedder()
        pixels = [
            embedder.preprocess(_decoded(picture, embedder.side)) for picture in outside[start : start + PICTURES]
        ]
        found += list(embedder.embed_images(np.stack(pixels)))
    return found


def _decoded(picture: Picture, side: int) -> Image.Image:
    assert picture.data is not None
    try:
        return imaging.decode(picture.data, max_pixels=MAX_PICTURE_PIXELS, side=side)
    except imaging.BadImage as error:
        raise UserError(f"{picture.name} is not a usable picture ({error.reason}: {error})") from error


def from_anywhere(name: str) -> Picture:
    """A picture in a file or at an http(s) URL. Raises UserError."""
    return Picture(name, data=read_picture(name))


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
