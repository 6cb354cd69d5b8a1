"""Another service's results in the order of a model that is served here: what the page and the API ask.

Each search takes one of the few calls that the service allows, so that its pictures are remembered for a while, by what
the model made of them.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, Queue
from typing import Any
from urllib.parse import urlencode

from pipeline import imaging, rerank
from pipeline.checker import Checker
from pipeline.contact_sheet import UNSTATED, data_uri
from pipeline.page import host
from pipeline.photo import UserError
from pipeline.rerank import Place, Pool, Reranked, printed
from pipeline.search import Embedder
from pipeline.sources.unsplash import Offer, UnsplashSource
from pipeline.web.params import Params, check_text
from pipeline.web.turns import Busy

RESULTS = 30  # one call of the API
SHOWN = 12  # of each order, on the page
AT_ONCE = 2  # searches that ask the service
REMEMBERED, REMEMBER_S = 16, 600.0  # searches, seconds
THUMBNAIL = 320  # pixels, long edge


class Unanswered(Exception):
    """The other service does not answer, or not us: one line says why."""


@dataclass(frozen=True)
class Question:
    """What the service is asked for (`q`), what the model ranks by, and which embeddings' model that is."""

    q: str
    text: str
    of: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> "Question":
        """What an address asks for. Raises UserError."""
        params = Params.parse({name: given.get(name, "") for name in ("q", "of")})
        text = given.get("text", "").strip()
        check_text("text", text)
        if params.q is None:
            raise UserError("q: give words to ask the service for")
        return cls(params.q, text or params.q, params.of)

    def address(self) -> str:
        """Where the page says what comes of it."""
        said = {"q": self.q, "text": None if self.text == self.q else self.text, "of": self.of}
        return f"/rerank?{urlencode({name: value for name, value in said.items() if value})}"


class Reranker:
    """Threads may share it; `close` ends what it started."""

    def __init__(
        self, api_url: str, model: Callable[[str | None], Embedder], work: Callable[[Callable[[], Any]], Any]
    ) -> None:
        """`model` gives that of an embeddings table; `work` has something done where models compute."""
        self._api_url = api_url
        self._model = model
        self._work = work
        # Each search has one to itself: two event loops that wait for the children of one would wait for each other.
        self._checkers: Queue[Checker] = Queue()
        for _ in range(AT_ONCE):
            self._checkers.put(Checker(children=1))
        self._pools: OrderedDict[tuple[str, str], tuple[float, Pool]] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        while not self._checkers.empty():
            self._checkers.get().close()

    def rerank(self, asked: Question) -> Reranked:
        """Both orders. Raises UserError; Unanswered; towers.Unready; turns.Busy and turns.Late where too many ask."""
        model = self._model(asked.of)
        key = asked.q, str(model.identity())
        pool = self._remembered(key)
        if pool is None:
            try:
                checker = self._checkers.get_nowait()
            except Empty:
                raise Busy from None
            try:
                pool = self._ask(asked.q, model, checker)
                self._remember(key, pool)
            finally:
                self._checkers.put(checker)
        ranked: Reranked = self._work(partial(rerank.order, pool, asked.text, model))
        return ranked

    def _ask(self, q: str, model: Embedder, checker: Checker) -> Pool:
        side = model.side
        try:
            found = UnsplashSource(q, limit=RESULTS, api_url=self._api_url).offers()
        except UserError as error:
            raise Unanswered(str(error)) from error
        looked, unseen = rerank.look(found.offers, side, checker)
        pool: Pool = self._work(partial(rerank.embed, looked, unseen, found.total, model))
        return replace(pool, seen=tuple(replace(s, data=imaging.thumbnail(s.data, THUMBNAIL)) for s in pool.seen))

    def _remember(self, key: tuple[str, str], pool: Pool) -> None:
        with self._lock:
            self._pools[key] = time.monotonic(), pool
            self._pools.move_to_end(key)
            while len(self._pools) > REMEMBERED:
                self._pools.popitem(last=False)

    def _remembered(self, key: tuple[str, str]) -> Pool | None:
        with self._lock:
            at, pool = self._pools.get(key, (0.0, None))
        return pool if time.monotonic() - at < REMEMBER_S else None


def shown(asked: Question, found: Reranked) -> dict[str, Any]:
    """Both orders as rerank.html shows them."""
    pictures = {
        place.seen.service_rank: data_uri(place.seen.data) for place in (*found.ours[:SHOWN], *found.theirs[:SHOWN])
    }
    theirs = [_card(place, pictures, f"now {place.rank}") for place in found.theirs[:SHOWN]]
    ours = [_card(place, pictures, f"{place.cosine:.3f}") for place in found.ours[:SHOWN]]
    return {
        "q": asked.q,
        "text": asked.text if asked.text != asked.q else "",
        "said": f"{len(found.ours)} photos of Unsplash in both orders",
        "orders": [("theirs", "Unsplash’s order", theirs), ("ours", "Ours, by what they show", ours)] if ours else [],
        "agreement": printed.agreement(found),
        "unseen": [
            _named(one.offer) | {"rank": one.service_rank, "why": printed.why(one)} for one in found.pool.unseen
        ],
        "nothing": not (found.ours or found.pool.unseen),
    }


def _card(place: Place, pictures: Mapping[int, str], said: str) -> dict[str, Any]:
    return _named(place.seen.offer) | {
        "picture": pictures[place.seen.service_rank],
        "rank": place.rank,
        "service_rank": place.seen.service_rank,
        "moved": printed.moved(place),
        "said": said,
    }


def _named(offer: Offer) -> dict[str, Any]:
    photo = offer.photo
    return {
        "name": printed.title(offer),
        "href": photo.page_url,
        "owner": photo.owner or "somebody",
        "owner_url": offer.owner_url if host(offer.owner_url) else None,
        "licence": photo.rights.license_name or UNSTATED,
        "licence_link": photo.rights.license_url,
    }
