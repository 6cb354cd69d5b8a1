"""What is looked for, and what is answered."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from PIL import Image

from pipeline.photo import Hit, UserError

Mode = Literal["vector", "hybrid", "words"]


class Embedder(Protocol):
    """What a search needs of a model (models/openclip.py): texts and pictures into the space of the index."""

    @property
    def side(self) -> int: ...

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
    mode: Mode = "vector"
    """`vector`: by what pictures show. `words`: by the words of titles, descriptions, tags and captions; no model is
    needed. `hybrid`: both, joined; the words are those of `text` alone, plus and minus count among vectors only."""
    id: str | None = None
    """A name of yours for the query, which its hits carry where they are written to a file."""

    def names(self) -> Iterator[str]:
        """Those of its terms that may be photos of the archive."""
        return filter(None, (self.image, self.plus, self.minus))


def check(query: Query) -> None:
    """Raises UserError for a query that makes no sense, whatever is searched."""
    if query.k < 1:
        raise UserError(f"-k {query.k}: ask for at least one hit")
    if bool(query.text and query.text.strip()) == bool(query.image):
        raise UserError("search for either words or a picture (--image)")
    if query.mode != "vector" and query.image:
        raise UserError(
            "--hybrid and --text-only look for words, and a picture has none: leave them out, or give words"
        )
    if query.mode == "words" and (query.plus or query.minus):
        raise UserError("--plus and --minus are arithmetic of vectors, which --text-only leaves out: try --hybrid")


@dataclass(frozen=True)
class Picture:
    """A picture named in a query: one of the archive (`row_id`), or one from outside.

    From outside come its bytes (`data`), or what models made of it: `vectors`, float32[dim] of unit length by the names
    of embeddings.
    """

    name: str
    row_id: int | None = None
    data: bytes | None = None
    vectors: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Answer:
    """The hits of a query, best first, and the pictures that the query named.

    `among`: how many photos its `where` keeps; None where it has none.
    """

    query: Query
    hits: tuple[Hit, ...]
    pictures: tuple[Picture, ...]
    among: int | None = None

    def score(self) -> str:
        """What the scores of its hits are."""
        if any(hit.ranks for hit in self.hits):
            return "reciprocal rank fusion"
        return "BM25" if self.query.mode == "words" else "cosine with the query"
