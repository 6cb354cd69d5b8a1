"""What the page and the API ask: searches, pictures, facts, of one archive whose indexes are open.

Nothing here takes a path or an address from whoever asks: a picture is a photo of the archive or a dropped one, a
filter is evaluated where it reaches nothing, and a thumbnail is that of a row id.
"""

import functools
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np

from pipeline import builds, imaging, search, storage
from pipeline.archive import Archive
from pipeline.builds import Build
from pipeline.checker import Checker
from pipeline.facts import Damaged
from pipeline.photo import Hit, UserError
from pipeline.search import Answer, Query, Space
from pipeline.upkeep import rights
from pipeline.web import dropped
from pipeline.web.filters import Filters
from pipeline.web.opened import Opened, check_object
from pipeline.web.params import Params
from pipeline.web.reranker import Reranker
from pipeline.web.towers import Towers, Unready
from pipeline.web.turns import Turns

SIZES = (240, 480, 960)  # pixels, long edge of thumbnails
PHOTO_ID = re.compile(r"[a-z][a-z0-9_-]*:\S+")  # what stands in a search's terms and looks like one is no word
Task = Callable[[], Any]  # of the model's thread
NO_ROWS = rights.Rights(None, None, None, None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Limits:
    """What one server takes upon itself."""

    picture_bytes: int = 20_000_000
    picture_pixels: int = 100_000_000
    decode_s: float = 10  # of CPU, for one picture
    filter_s: float = 5
    uploads: int = 4  # taken in at a time: each holds a thread until decoder and model are done with it
    filters: int = 6  # that are evaluated or wait for it
    waiting: int = 32  # searches and pictures that wait for the model
    patience_s: float = 30  # that one of them waits at most
    cache_bytes: int = 64 << 20  # of thumbnails
    reload_s: float = 3  # between looks whether there is a newer build
    news_s: float = 1  # between looks at what was forgotten or corrected


class Missing(LookupError):
    """There is no such thing here, or there is no longer."""


@dataclass(frozen=True)
class Found:
    """What a search found, in which builds, and how long it took. `vector_name`: what hits' `ranks` call the ranking by
    vectors of the first build."""

    answer: Answer
    builds: tuple[Build, ...]
    milliseconds: float
    vector_name: str

    def told(self) -> dict[str, Any]:
        """The JSON of `tintype search`, but that of the archive's address only the last part is said."""
        said = search.hits_json(self.builds, self.answer)
        for index in (said["index"], *said.get("indexes", ())):
            index["archive"] = named(index["archive"])
        return said


@dataclass(frozen=True)
class _Asked:
    """A search, as it waits for the model, and the builds that it began with: those in use may be newer by then."""

    query: Query
    opened: tuple[Opened, ...]
    collapse: bool
    kept: Mapping[tuple[str, str], np.ndarray]  # row ids, by embeddings and `where`


class Lately:
    """What was asked for lately, up to so many bytes of it. Threads may share it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Any, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> bytes | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Any, value: bytes) -> None:
        with self._lock:
            self._held[key] = value
            while sum(map(len, self._held.values())) > self._most:
                self._held.popitem(last=False)


class Service:
    """An archive, open to be searched. Threads may share it; `close` ends what it started."""

    def __init__(
        self, url: str, of: Sequence[str] = (), limits: Limits | None = None, unsplash: str | None = None
    ) -> None:
        """`of`: the embeddings to search with, all that have an index unless given. `unsplash`: where the API is whose
        results are re-ranked; None: none are. Raises UserError."""
        self.limits = limits or Limits()
        self.archive = Archive.open(url)
        names = tuple(dict.fromkeys(of)) or tuple(storage.names(storage.join(url, "index")))
        opened = [builds.open_build(url, name) for name in names] or [builds.open_build(url)]
        self.name = named(url)
        self._opened = {build.card["of"]: Opened(build, self.limits.news_s) for build in opened}
        for one in self._opened.values():
            assert one.build.segments  # a damaged index is to be said now
        self._looked = time.monotonic()
        self._looking = threading.Lock()
        self._complained: set[str] = set()
        self._thumbnails = Lately(self.limits.cache_bytes)
        self._pictures = Lately(self.limits.cache_bytes)
        self._filters = Filters(self.limits.filter_s, self.limits.filters)
        self._checker = Checker(children=1, deadline=self.limits.decode_s)
        self._turns: Turns[_Asked | Task, Any] = Turns(self._work, self.limits.waiting, self.limits.patience_s)
        self.reranker = Reranker(unsplash, self._model, self._turns.ask) if unsplash else None

    def close(self) -> None:
        self._turns.close()
        self._filters.close()
        self._checker.close()
        if self.reranker:
            self.reranker.close()

    def warm(self) -> None:
        """Load what words need, in a thread, so that the first search need not wait for it long."""

        def load() -> None:
            for one in self._opened.values():
                try:
                    one.towers.warm()
                except Unready as error:
                    self.complain(error)

        threading.Thread(target=load, name="warm", daemon=True).start()

    @property
    def builds(self) -> tuple[Build, ...]:
        """Those in use, in the order in which they were asked for."""
        return tuple(one.build for one in self._opened.values())

    def complain(self, error: Exception) -> None:
        """Tell whoever runs the server what is wrong here, once: whoever asks it can do nothing about that."""
        said = str(error)
        if said not in self._complained:
            self._complained.add(said)
            print(f"tintype: {said}", file=sys.stderr, flush=True)

    # --- searching ----------------------------------------------------------------------------------------------------

    def search(self, params: Params) -> Found:
        """The hits of a search. Raises UserError; Unready; turns.Busy and turns.Late where too many search."""
        try:
            return self._search(params)
        except Damaged as error:
            raise Unready(str(error)) from error
        except UserError as error:
            raise UserError(str(error).replace(self.archive.url, self.name)) from error

    def _search(self, params: Params) -> Found:
        started = time.perf_counter()
        self._look()
        query = params.query()
        opened = tuple(self._chosen(params.of))
        if params.has is not None:
            check_object(params.has, opened)
        for name in ("plus", "minus"):
            self._check_term(name, getattr(params, name), opened)
        kept = {}
        if query.where is not None:
            # The user's own expression also stands alone: no bracket of it closes one of ours.
            wheres = [*params.filters(), *([params.where] if params.where else [])]
            for one in opened:
                kept[one.build.card["of"], query.where] = self._filters.matching(one.build, wheres)
        answer: Answer = self._turns.ask(_Asked(query, opened, params.collapse, kept))
        took = 1000 * (time.perf_counter() - started)
        return Found(answer, tuple(one.build for one in opened), took, search.ranking_name(opened[0].build))

    def _chosen(self, of: str | None) -> list[Opened]:
        names = list(dict.fromkeys(name.strip() for name in of.split(","))) if of else [next(iter(self._opened))]
        for name in names:
            if name not in self._opened:
                raise UserError(f"of={name[:100]}: these are searched here: {', '.join(self._opened)}")
        return [self._opened[name] for name in names]

    def _model(self, of: str | None) -> Towers:
        """That of one of the embeddings. Raises UserError."""
        [*others, one] = self._chosen(of)
        if others:
            raise UserError("of: one model ranks, so name one of the embeddings")
        return one.towers

    def _check_term(self, name: str, term: str | None, opened: Sequence[Opened]) -> None:
        """Raises UserError for the id of a photo that none of the builds holds: it would be taken for words."""
        if term is None or not PHOTO_ID.fullmatch(term):
            return
        if not any(set(one.build.row_ids([term]).values()) - one.news().hidden for one in opened):
            raise UserError(f"{name}: {term[:100]} is no photo of this archive, or no longer")

    def _work(self, asked: Sequence[_Asked | Task]) -> list[Any]:
        """The model's thread: searches that wait together are answered together, other tasks one by one."""
        done: dict[int, Any] = {}
        alike: dict[tuple[tuple[Opened, ...], bool], list[int]] = {}
        for place, one in enumerate(asked):
            if isinstance(one, _Asked):
                alike.setdefault((one.opened, one.collapse), []).append(place)
            else:
                done[place] = _outcome(one)
        for (opened, collapse), places in alike.items():
            some = [one for one in (asked[place] for place in places) if isinstance(one, _Asked)]
            together = _outcome(functools.partial(_answers, some, opened, collapse))
            if isinstance(together, Exception):  # one of them is to blame
                together = [_outcome(functools.partial(_answer, one)) for one in some]
            done |= zip(places, together, strict=True)
        return [done[place] for place in range(len(asked))]

    # --- pictures -----------------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> str:
        """The name of a picture that is dropped in; see `dropped`. Raises BadImage; turns.Busy and turns.Late."""
        checked = self._checker.check(data, max_pixels=self.limits.picture_pixels, derivative=True)
        assert checked.derivative
        name: str = self._turns.ask(functools.partial(self._embed, checked.derivative))
        self._pictures.put(dropped.digest(name), imaging.thumbnail(checked.derivative, SIZES[1]))
        return name

    def _embed(self, jpeg: bytes) -> str:
        vectors = {}
        for of, one in self._opened.items():
            towers = one.towers
            image = imaging.decode(jpeg, max_pixels=self.limits.picture_pixels, side=towers.side)
            [vectors[of]] = towers.embed_images(np.stack([towers.preprocess(image)]))
        return dropped.name(vectors, {of: one.build for of, one in self._opened.items()})

    def picture(self, digest: str) -> bytes:
        """The thumbnail, JPEG, of a dropped picture that is still remembered. Raises Missing."""
        if (found := self._pictures.get(digest)) is None:
            raise Missing("this picture was dropped in too long ago; its searches go on without it")
        return found

    def thumbnail(self, row_id: int, size: int = SIZES[1]) -> bytes:
        """A JPEG of a photo, long edge at most `size`, one of SIZES. Raises Missing for one that is not there."""
        if size not in SIZES:
            raise UserError(f"size={size}: one of {', '.join(map(str, SIZES))}")
        one = self._holder(row_id)
        if row_id in one.news().hidden:
            raise Missing("this photo is no longer here")
        key = (row_id, size)
        if found := self._thumbnails.get(key):
            return found
        [row] = self.archive.table("images").read_rows([row_id], ["row_id", "image"]).to_pylist()
        if not row["image"]:
            raise Missing("this photo is no longer here")
        made = imaging.thumbnail(row["image"]["bytes"], size)
        self._thumbnails.put(key, made)
        return made

    def _holder(self, row_id: int) -> Opened:
        for one in self._opened.values():
            if one.build.facts([row_id], ["photo_id"]):
                return one
        raise Missing("there is no such photo in this archive")

    # --- facts --------------------------------------------------------------------------------------------------------

    def photo(self, photo_id: str) -> dict[str, Any]:
        """All that the build in use says of a photo, and how to credit it. Raises Missing."""
        self._look()
        for one in self._opened.values():
            rows = one.build.row_ids([photo_id])
            news = one.news()
            for row_id in rows.values():
                if row_id in news.hidden:
                    raise Missing("this photo is no longer here")
                [facts] = one.build.photos(among=np.array([row_id])).to_pylist()
                if row_id in news.captions:
                    word = news.captions[row_id]
                    facts |= {"caption": word.value, "caption_model": None, "caption_by": word.by}
                said = {name: _plain(value) for name, value in facts.items() if name not in ("raw", "sizes")}
                return said | {"credit": credit(facts)}
        raise Missing("there is no such photo in this archive")

    def facets(self, of: str | None = None) -> dict[str, Any]:
        """What filters may ask for: licences (URL, name, photos), the most frequent tags (tag, photos), the first and
        the last year, objects that were looked for (name, photos)."""
        return self._chosen(of)[0].facets

    def columns(self) -> list[tuple[str, str]]:
        """What `where` may ask for: names and types."""
        return self._chosen(None)[0].columns

    def hidden(self) -> frozenset[int]:
        """Row ids of photos that are no longer here."""
        return self._chosen(None)[0].news().hidden

    def copies_known(self) -> bool:
        """Whether somebody looked for duplicates."""
        return self._chosen(None)[0].copies_known

    # --- newer builds -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Have a thread look for newer builds, unless one did lately."""
        if time.monotonic() - self._looked >= self.limits.reload_s and not self._looking.locked():
            self._looked = time.monotonic()
            threading.Thread(target=self.reload, name="reload", daemon=True).start()

    def reload(self) -> None:
        """Take up newer builds. One that cannot be read is told of, and the older one stays in use."""
        with self._looking:
            for of, one in list(self._opened.items()):
                try:
                    self._opened = self._opened | {of: self._newest(of, one)}
                except UserError as error:
                    self.complain(error)

    def _newest(self, of: str, one: Opened) -> Opened:
        card = builds.current(self.archive, of)
        if card is None or card["build"] == one.build.card["build"]:
            one.look_for_copies()
            return one
        if card["format"] != builds.FORMAT:
            raise UserError(f"the index of {of} was built anew by another release: start `tintype serve` of that one")
        build = builds.opened(self.archive, card)
        assert build.segments
        same = build.card["identity"] == one.build.card["identity"]
        return Opened(build, self.limits.news_s, one.towers if same else None)


def _answers(asked: Sequence[_Asked], opened: Sequence[Opened], collapse: bool) -> list[Answer]:
    kept = {key: rows for one in asked for key, rows in one.kept.items()}
    spaces = [_space(one, kept) for one in opened]
    outside = functools.partial(dropped.picture, builds={one.build.card["of"]: one.build for one in opened})
    return list(search.within(spaces, [one.query for one in asked], opened[0].copies if collapse else None, outside))


def _space(one: Opened, kept: Mapping[tuple[str, str], np.ndarray]) -> Space:
    return Space(one.build, one.news(), lambda: one.towers, lambda where: kept[one.build.card["of"], where])


def _answer(asked: _Asked) -> Answer:
    return _answers([asked], asked.opened, asked.collapse)[0]


def named(url: str) -> str:
    """What an archive is called: the last part of its address. Where it lies is nobody's business."""
    return url.rstrip("/").rsplit("/", 1)[-1]


def credit(facts: Mapping[str, Any] | Hit) -> str:
    """A line of credit: “Title” by Owner, licence, page."""
    get = facts.get if isinstance(facts, Mapping) else lambda name: getattr(facts, name, None)
    licence = rights.Rights(get("license_id"), get("license_name"), get("license_url"), NO_ROWS.photos)
    told = {name: " ".join((get(name) or "").split()) or None for name in ("title", "owner")}
    return rights.credit(told | {"page_url": get("page_url"), "source_url": get("source_url")}, licence)


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (UserError, Unready, imaging.BadImage) as error:
        return error


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return value.isoformat() if isinstance(value, date | datetime) else value
