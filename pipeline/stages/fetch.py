"""fetch: rows of `photos` → rows of `images`: the bytes of each picture, checked by decoding, or why there are none."""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, ClassVar, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas, storage
from pipeline.archive import Archive
from pipeline.checker import Checker
from pipeline.gate import Pacer
from pipeline.imaging import BadImage, Checked
from pipeline.photo import OUTCOMES, REASONS, Size
from pipeline.pulse import Beat, Pulse
from pipeline.sources import Source, parquet
from pipeline.stages.ahead import Fetched, Photo, batched, in_order
from pipeline.stages.download import Downloader, DownloadError, Missing, Tally

MAX_PIXELS = 100_000_000  # of a source that is no longer configured
EXTENSIONS = {"jpeg": "jpg", "tiff": "tif", "jpeg2000": "jp2"}  # the others are named as their format

Receipt = dict[str, Any]
Sizes = Callable[[str, str], list[Size] | None]  # (source, photo id) → what it offers now; None: the photo is gone


@dataclass(frozen=True)
class ImageSettings:
    """How pictures are fetched and kept."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    store: Literal["original", "derivative"] | None = None
    """What is kept: `original`, as the source served it, or `derivative`, a JPEG with a long edge of 1,024 pixels.
    Unset: what suits the source (`original` for Flickr, `derivative` for a folder of masters)."""
    min_side: int = 288
    """Pixels the short side should have, for the models' sake: the smallest size that has them is fetched."""
    max_pixels: int | None = None
    """Pictures with more pixels than this are not decoded but `failed: too_large`. Unset: what suits the source."""
    max_bytes: int = 200_000_000
    """Downloads are cut off beyond this."""
    rate: float | None = 10.0
    """Requests a second to the image host, over all workers of a run; null: as fast as it goes."""
    connections: int = 16
    """Downloads at a time in each worker."""
    attempts: int = 4
    """How often a picture is asked for before it is given up for this run."""
    backoff: float = 1.0
    """Seconds to wait before the second attempt; doubled for each one more."""
    timeout: float = 30.0
    """Seconds of silence after which an attempt has failed."""
    deadline: float = 180.0
    """Seconds one picture may take altogether, not counting the wait for its turn."""
    contact: str | None = None
    """A URL or e-mail address by which the image host can reach you, sent with every request."""

    def __post_init__(self) -> None:
        for name in ("min_side", "max_pixels", "max_bytes", "rate", "connections", "attempts", "timeout", "deadline"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0, not {value}")


class Shared(Pacer, Protocol):
    """What the workers of a run share: the gate before the image host, and the sources' answers about sizes."""

    def sizes(self, source: str, photo_id: str) -> list[Size] | None: ...

    def hear(self, beat: Beat) -> None: ...


@dataclass(frozen=True)
class Parts:
    """The stage as runners want it: called with a part, it does that and answers with its receipt.

    The children that decode serve all parts, until `close`.
    """

    archive: Archive
    settings: ImageSettings
    sources: Mapping[str, Source]
    shared: Shared
    checker: Checker = field(default_factory=Checker)

    def __call__(self, part: int) -> list[Receipt]:
        where, how = (self.archive, part), (self.settings, self.sources)
        shared: dict[str, Any] = {"gate": self.shared, "sizes": self.shared.sizes, "checker": self.checker}
        return [fetch_part(*where, *how, **shared, moved=Pulse(self.shared.hear, "fetch", part))]

    def close(self) -> None:
        self.checker.close()


def load(
    archive: Archive, settings: ImageSettings, sources: Mapping[str, Source], shared: Shared
) -> Callable[[int], list[Receipt]]:
    return Parts(archive, settings, sources, shared)


def fetch_part(
    archive: Archive,
    part: int,
    settings: ImageSettings,
    sources: Mapping[str, Source],
    *,
    gate: Pacer,
    sizes: Sizes,
    checker: Checker | None = None,
    moved: Callable[[int], None] | None = None,
) -> Receipt:
    """Commit an images part; its receipt, or that of another writer who was first. `checker`: None for one of its own.
    `moved` is told how many of its photos have ended, one by one.

    Beside what every receipt holds: outcomes and reasons with their counts, requests, bytes, seconds by phase (summed
    over the connections), the write id of the photos part, and as `exceptions` those photos that were not fetched, or
    not for the first time: [photo id, attempt, outcome, reason] each.
    """
    photos, images = archive.table("photos"), archive.table("images")
    receipt: Receipt = {"source_write_id": photos.receipt(part)["write_id"]}
    rows = photos.read(part, ["row_id", "photo_id", "source", "media", "sizes", "attempt"])
    forgotten = archive.forgotten()
    with nullcontext(checker) if checker else Checker() as checker:
        how: dict[str, Any] = {"gate": gate, "sizes": sizes, "checker": checker, "forgotten": forgotten, "moved": moved}
        batches = fetch_rows(rows, settings, sources, receipt=receipt, **how)
        first = images.write(part, batches, receipt, schemas.IMAGES)
    return receipt if first else images.receipt(part)


def fetch_rows(
    photos: pa.Table,
    settings: ImageSettings,
    sources: Mapping[str, Source],
    *,
    gate: Pacer,
    sizes: Sizes,
    checker: Checker,
    receipt: Receipt,
    forgotten: Collection[str] = (),
    moved: Callable[[int], None] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Rows of schemas.PHOTOS → rows of schemas.IMAGES in the same order, in batches of at most 50 rows or 16 MB.

    `receipt` is filled when all is drawn. Raises only what `sizes` raises.
    """
    http = {name: getattr(settings, name) for name in ("connections", "timeout", "deadline", "attempts", "backoff")}
    with Downloader(gate, max_bytes=settings.max_bytes, contact=settings.contact, **http) as downloader:
        fetcher = Fetcher(settings, sources, sizes, forgotten, downloader, checker, asyncio.Semaphore(checker.children))
        fetched = in_order(fetcher.fetch, photos.to_pylist(), settings.connections)
        batches = batched(_counted(fetched, receipt, moved))

        async def draw() -> list[dict[str, Any]] | None:
            return await anext(batches, None)

        while rows := downloader.run(draw()):
            yield pa.RecordBatch.from_pylist(rows, schemas.IMAGES)


@dataclass(frozen=True)
class Fetcher:
    """What fetching one photo needs. The tasks of a part share it."""

    settings: ImageSettings
    sources: Mapping[str, Source]
    sizes: Sizes
    forgotten: Collection[str]
    downloader: Downloader
    checker: Checker
    places: asyncio.Semaphore  # as many as the checker has children

    async def fetch(self, photo: Photo) -> Fetched:
        """One photo from start to end, whatever comes of it."""
        tally = Tally()
        row = dict.fromkeys(schemas.IMAGES.names) | {"row_id": photo["row_id"], "photo_id": photo["photo_id"]}
        try:
            if photo["photo_id"] in self.forgotten:
                raise Missing("forgotten")
            row |= await self._found(photo, tally)
        except Missing as missing:
            row |= {"outcome": "gone", "detail": str(missing)}
        except (DownloadError, BadImage) as fault:
            no_still = photo["media"] == "video" and fault.reason in ("no_size", "not_an_image")
            row |= {"outcome": "failed", "reason": "video" if no_still else fault.reason, "detail": str(fault)}
        assert row["outcome"] in OUTCOMES and (row["reason"] in REASONS) == (row["outcome"] == "failed"), row["reason"]
        return Fetched(row | {"fetched_at": datetime.now(UTC)}, tally, photo["attempt"] or 1)

    async def _found(self, photo: Photo, tally: Tally) -> dict[str, Any]:
        """The columns of a picture that was fetched. Raises Missing, DownloadError, BadImage.

        Where what was listed leads nowhere, its source is asked once more: addresses change with a photo's permissions.
        """
        missing: Missing | None = None
        listed = choose_size([Size(**size) for size in photo["sizes"] or ()], self.settings.min_side)
        if listed is not None:
            try:
                return await self._picture(photo, listed.url, tally)
            except Missing as error:
                missing = error
        offered = await asyncio.to_thread(self.sizes, photo["source"], photo["photo_id"])
        if offered is None:
            raise Missing("the source has it no more")
        fresh = choose_size(offered, self.settings.min_side)
        if fresh is not None and (listed is None or fresh.url != listed.url):
            return await self._picture(photo, fresh.url, tally)
        raise missing or DownloadError("no_size", "the source offers no size of it")

    async def _picture(self, photo: Photo, url: str, tally: Tally) -> dict[str, Any]:
        source = self.sources.get(photo["source"])
        store = self.settings.store or (source.default_store if source else "original")
        max_pixels = self.settings.max_pixels or (source.default_max_pixels if source else MAX_PIXELS)
        derived = store == "derivative"
        data = await self._bytes(url, tally)
        try:
            checked = await self._check(data, max_pixels, derived, tally)
        except BadImage as bad:
            if bad.reason != "truncated" or not _is_http(url):
                raise
            data = await self._bytes(url, tally)  # cut off by a proxy that calls it whole, more often than by its maker
            checked = await self._check(data, max_pixels, derived, tally)
        kept = checked.derivative if derived else data
        width = checked.derivative_width if derived else checked.width
        height = checked.derivative_height if derived else checked.height
        assert kept is not None and width is not None and height is not None
        kind = "jpeg" if derived else checked.format
        return {
            "outcome": "fetched",
            "image": {"bytes": kept, "path": file_name(photo["photo_id"], kind)},
            "format": kind,
            "width": width,
            "height": height,
            "small": min(width, height) < self.settings.min_side,
            "store": store,
            "source_url": url,
            "source_size": len(data),
            "source_width": checked.width,
            "source_height": checked.height,
            "source_sha256": hashlib.sha256(data).hexdigest(),
        }

    async def _bytes(self, url: str, tally: Tally) -> bytes:
        if _is_http(url):
            return await self.downloader.fetch(url, tally)
        started = monotonic()
        try:
            data = await asyncio.to_thread(parquet.read_row if url.startswith(parquet.ROW) else storage.read, url)
        except FileNotFoundError:
            raise Missing("the file is not there any more") from None
        except (OSError, pa.ArrowInvalid) as error:  # what Parquet says of a file cut short
            raise DownloadError("unreadable", getattr(error, "strerror", None) or type(error).__name__) from None
        finally:
            tally.downloading += monotonic() - started
        tally.bytes += len(data)
        return data

    async def _check(self, data: bytes, max_pixels: int, derivative: bool, tally: Tally) -> Checked:
        started = monotonic()
        try:
            async with self.places:
                return await self.checker.check_soon(data, max_pixels=max_pixels, derivative=derivative)
        finally:
            tally.decoding += monotonic() - started


def choose_size(sizes: Iterable[Size], min_side: int) -> Size | None:
    """The smallest whose short side has `min_side` pixels; else the largest there is; None where there is none.

    One of unknown size comes after those known to be large enough, and before those known to be too small.
    """

    def rank(size: Size) -> tuple[int, int]:
        if not size.width or not size.height:
            return 1, 0
        enough = min(size.width, size.height) >= min_side
        area = size.width * size.height
        return (0, area) if enough else (2, -area)

    return min(sizes, key=rank, default=None)


def file_name(photo_id: str, kind: str) -> str:
    """A file name for a picture: "flickr:2179931434", "jpeg" → "flickr_2179931434.jpg"."""
    name = re.sub(r"[^\w.-]", "_", photo_id)
    ending = "." + EXTENSIONS.get(kind, kind)
    return name if name.lower().endswith(ending) else name + ending


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


async def _counted(
    fetched: AsyncIterable[Fetched], receipt: Receipt, moved: Callable[[int], None] | None
) -> AsyncIterator[Fetched]:
    """Pass on what was fetched, and say how much; when all is through, enter into `receipt` what it came to."""
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    tallies: list[Tally] = []
    exceptions: list[list[Any]] = []
    async for one in fetched:
        outcome = one.row["outcome"]
        if outcome != "fetched" or one.attempt > 1:
            exceptions.append([one.row["photo_id"], one.attempt, outcome, one.row["reason"]])
        outcomes[outcome] += 1
        if one.row["reason"]:
            reasons[one.row["reason"]] += 1
        tallies.append(one.tally)
        if moved:
            moved(len(tallies))
        yield one
    phases = ("waiting", "downloading", "resting", "decoding")
    receipt |= {
        "outcomes": dict(outcomes),
        "reasons": dict(reasons),
        "exceptions": exceptions,
        "requests": sum(tally.requests for tally in tallies),
        "bytes": sum(tally.bytes for tally in tallies),
        "seconds": {phase: round(sum(getattr(tally, phase) for tally in tallies), 3) for phase in phases},
    }


def again(archive: Archive, part_size: int = 1000) -> int:
    """Ask for those photos again whose last outcome is a failure that may pass: append them to `photos`; how many.

    Until they have been fetched, asking once more adds nothing.
    """
    photos = archive.table("photos")

    def build(part: int) -> pa.Table | None:
        row_ids = _failed(archive)[:part_size]
        if not row_ids:
            return None
        rows = photos.read_rows(row_ids)
        changed = {
            "row_id": schemas.row_ids(part, len(row_ids)),
            "attempt": pc.add(rows["attempt"], pa.scalar(1, pa.int32())),
            "listed_at": pa.array([datetime.now(UTC)] * len(row_ids), schemas.MOMENT),
        }
        for name, values in changed.items():
            rows = rows.set_column(rows.schema.get_field_index(name), schemas.PHOTOS.field(name), values)
        return rows

    count = 0
    receipt: Receipt = {}
    while photos.append(build, receipt, schemas.PHOTOS) is not None:
        count += receipt["rows"]
    return count


def _failed(archive: Archive) -> list[int]:
    """Row ids of the photos that `again` asks for, ascending."""
    photos, images = archive.table("photos"), archive.table("images")
    asked = [photos.read(part, ["row_id", "photo_id"]) for part in photos.parts()]
    had = [images.read(part, ["row_id", "outcome", "reason"]) for part in images.parts()]
    if not had:
        return []
    withdrawn = archive.gone().keys() | archive.forgotten().keys()
    return retryable(pa.concat_tables(asked), pa.concat_tables(had), withdrawn)


def retryable(photos: pa.Table, images: pa.Table, withdrawn: Collection[str] = ()) -> list[int]:
    """Row ids, ascending, of the photos whose last row ended in a failure that may pass (photo.REASONS).

    `photos` holds row_id and photo_id, `images` row_id, outcome and reason. A photo whose last row waits to be fetched
    is not among them, nor one of the `withdrawn` ids.
    """
    passing = [reason for reason, may_pass in REASONS.items() if may_pass]
    failed = images.filter((pc.field("outcome") == "failed") & pc.field("reason").isin(passing))["row_id"]
    last = photos.group_by("photo_id").aggregate([("row_id", "max")]).rename_columns(["photo_id", "row_id"])
    hidden = pc.field("photo_id").isin(pa.array(withdrawn, pa.string()))
    return last.filter(pc.field("row_id").isin(failed.combine_chunks()) & ~hidden)["row_id"].sort().to_pylist()
