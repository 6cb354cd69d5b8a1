"""The small pictures of a service's results: side by side, within bounds, and checked before they are decoded here."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.checker import Checker
from pipeline.gate import Gate
from pipeline.imaging import BadImage
from pipeline.sources.unsplash import Offer
from pipeline.stages.download import Downloader, DownloadError, Missing, Tally
from pipeline.stages.fetch import choose_size

CONNECTIONS = 16
# Somebody waits: seconds of silence of one picture, all that it may take, and what so many may take together.
SILENCE_S, PICTURE_S, ALL_S, ALL = 5.0, 12.0, 20.0, 30
ATTEMPTS = 2
MAX_BYTES = 5_000_000
MAX_PIXELS = 50_000_000
LEAST_SIDE = 240  # pixels of the short side, for those who look, whatever the model needs


@dataclass(frozen=True)
class Looked:
    """A result whose picture was had: `data` decodes."""

    service_rank: int  # from 1
    offer: Offer
    data: bytes


@dataclass(frozen=True)
class Unseen:
    """A result that the model did not see: a key of photo.REASONS, "gone" or "not_finite", and one line."""

    service_rank: int
    offer: Offer
    reason: str
    detail: str


def look(offers: Sequence[Offer], side: int, checker: Checker) -> tuple[list[Looked], list[Unseen]]:
    """The pictures of these results, in their order; the smallest size whose short side has `side` pixels.

    Nobody else is to use the checker meanwhile.
    """
    limits = {"timeout": SILENCE_S, "deadline": PICTURE_S, "attempts": ATTEMPTS, "max_bytes": MAX_BYTES}
    with Downloader(Gate(None), connections=CONNECTIONS, backoff=0.5, **limits) as downloader:  # type: ignore[arg-type]
        places = asyncio.Semaphore(checker.children)

        async def one(rank: int, offer: Offer, ends: float) -> Looked | Unseen:
            try:
                async with asyncio.timeout_at(ends):
                    picture = await _picture(offer, max(side, LEAST_SIDE), downloader, checker, places)
                return Looked(rank, offer, picture)
            except TimeoutError:
                return Unseen(rank, offer, "unreachable", "time was up before its end")
            except Missing as missing:
                return Unseen(rank, offer, "gone", str(missing))
            except (DownloadError, BadImage) as fault:
                return Unseen(rank, offer, fault.reason, str(fault))

        async def all_of_them() -> list[Looked | Unseen]:
            ends = asyncio.get_running_loop().time() + ALL_S * math.ceil(len(offers) / ALL)
            return await asyncio.gather(*(one(rank, offer, ends) for rank, offer in enumerate(offers, 1)))

        found = downloader.run(all_of_them())
    return [one for one in found if isinstance(one, Looked)], [one for one in found if isinstance(one, Unseen)]


async def _picture(
    offer: Offer, side: int, downloader: Downloader, checker: Checker, places: asyncio.Semaphore
) -> bytes:
    """Raises Missing, DownloadError, BadImage."""
    size = choose_size(offer.sizes, side)
    if size is None:
        raise DownloadError("no_size", "the service offers no size of it")
    data = await downloader.fetch(size.url, Tally())
    async with places:
        await checker.check_soon(data, max_pixels=MAX_PIXELS, derivative=False)
    return data
