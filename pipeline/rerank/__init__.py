"""What another service finds, put into the order that a model gives its pictures. Knows no archive.

A service orders by keywords and by what its users look at; a model by what the pictures show. `look` gets the pictures,
`embed` has the model see them, `order` compares them with a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import imaging
from pipeline.photo import UserError
from pipeline.rerank.pictures import LEAST_SIDE, MAX_PIXELS, Looked, Unseen, look
from pipeline.search import Embedder
from pipeline.sources.unsplash import Offer
from pipeline.stages.fetch import choose_size

__all__ = ["BATCH", "MOST", "Place", "Pool", "Reranked", "Seen", "Unseen", "embed", "look", "order", "told"]

MOST = 300  # results that are looked at: ten calls of the API
BATCH = 32  # pictures embedded at a time
NOT_FINITE = "not_finite"


@dataclass(frozen=True)
class Seen:
    """A result as the model sees it. `vector`: float32[dim], of unit length."""

    service_rank: int  # from 1
    offer: Offer
    data: bytes
    vector: np.ndarray


@dataclass(frozen=True)
class Pool:
    """A service's results in its order, and those that the model did not see. `total`: how many it says it has."""

    seen: tuple[Seen, ...]
    unseen: tuple[Unseen, ...]
    total: int | None


@dataclass(frozen=True)
class Place:
    """Where a result comes in the model's order.

    `moved`: by how many places it is further ahead than among those of the service's results that the model saw;
    negative where it fell back.
    """

    rank: int
    moved: int
    cosine: float
    seen: Seen


@dataclass(frozen=True)
class Reranked:
    """Both orders, best first.

    `kendall` and `spearman`: how far they agree, from 1 (alike) to −1 (reversed); None of fewer than two.
    """

    text: str
    ours: tuple[Place, ...]
    pool: Pool
    kendall: float | None
    spearman: float | None

    @property
    def theirs(self) -> list[Place]:
        """The service's order, of those pictures that could be had."""
        return sorted(self.ours, key=lambda place: place.seen.service_rank)


def embed(looked: Sequence[Looked], unseen: Sequence[Unseen], total: int | None, model: Embedder) -> Pool:
    """The pictures as the model sees them, `BATCH` at a time."""
    had: list[Looked] = []
    lost = list(unseen)
    pixels: list[np.ndarray] = []
    for one in looked:
        try:
            pixels.append(model.preprocess(imaging.decode(one.data, max_pixels=MAX_PIXELS, side=model.side)))
            had.append(one)
        except imaging.BadImage as bad:
            lost.append(Unseen(one.service_rank, one.offer, bad.reason, str(bad)))
    starts = range(0, len(pixels), BATCH)
    vectors = [v for start in starts for v in model.embed_images(np.stack(pixels[start : start + BATCH]))]
    seen: list[Seen] = []
    for one, vector in zip(had, vectors, strict=True):
        if np.isfinite(vector).all():
            seen.append(Seen(one.service_rank, one.offer, one.data, vector))
        else:
            lost.append(Unseen(one.service_rank, one.offer, NOT_FINITE, "the model computed what is no number"))
    return Pool(tuple(seen), tuple(sorted(lost, key=lambda one: one.service_rank)), total)


def order(pool: Pool, text: str, model: Embedder) -> Reranked:
    """The pool by its cosines with a text; of equal ones the service's order stands.

    Raises UserError where the model has no vector of the text.
    """
    if not pool.seen:
        return Reranked(text, (), pool, None, None)
    [vector] = model.embed_texts([text])
    if not np.isfinite(vector).all():
        raise UserError(
            f"the model gives no finite vector of {text!r}: its weights are damaged, or do not work at this precision"
        )
    cosines = np.stack([one.vector for one in pool.seen]) @ vector
    best = np.argsort(-cosines, kind="stable")
    ours = tuple(
        Place(rank, int(place) + 1 - rank, float(cosines[place]), pool.seen[place])
        for rank, place in enumerate(best, 1)
    )
    return Reranked(text, ours, pool, *agreement(best))


def agreement(places: np.ndarray) -> tuple[float | None, float | None]:
    """Kendall's τ and Spearman's ρ of an order with the one that it permutes: int[n], each of 0 … n − 1 once."""
    n = len(places)
    if n < 2:
        return None, None
    ahead = np.sign(places[None, :] - places[:, None])[np.triu_indices(n, 1)]
    far = places - np.arange(n)
    return float(ahead.mean()), float(1 - 6 * (far * far).sum() / (n * (n * n - 1)))


def credit(offer: Offer) -> str:
    """In the words that Unsplash asks for: https://help.unsplash.com/en/articles/2511315"""
    return f"Photo by {offer.photo.owner or 'somebody'} on Unsplash"


def told(reranked: Reranked) -> dict[str, Any]:
    """The documented JSON of both orders, `results` in the model's."""
    pool = reranked.pool
    return {
        "total": pool.total,
        "results": [
            {
                "rank": place.rank,
                "service_rank": place.seen.service_rank,
                "moved": place.moved,
                "cosine": round(place.cosine, 6),
                **_photo(place.seen.offer),
            }
            for place in reranked.ours
        ],
        "not_seen": [
            {"service_rank": one.service_rank, "reason": one.reason, "detail": one.detail, **_photo(one.offer)}
            for one in pool.unseen
        ],
        "agreement": {
            name: None if value is None else round(value, 6)
            for name, value in (("kendall", reranked.kendall), ("spearman", reranked.spearman))
        },
    }


def _photo(offer: Offer) -> dict[str, Any]:
    photo, rights = offer.photo, offer.photo.rights
    return {
        "photo_id": photo.photo_id,
        "title": photo.title,
        "license": {"id": rights.license_id, "name": rights.license_name, "url": rights.license_url},
        "owner": photo.owner,
        "owner_url": offer.owner_url,
        "page_url": photo.page_url,
        "picture": size.url if (size := choose_size(offer.sizes, LEAST_SIDE)) else None,
        "credit": credit(offer),
    }
