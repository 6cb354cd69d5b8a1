"""How long a run will take, what it will fetch and store, and what it costs: reckoned before it is paid.

Rates are those of this archive's own receipts, where it has any; what was never measured here is assumed in the open or
left unknown. A few hundred photos (`limit`) are enough to know the rest by.
"""

import math
from collections.abc import Mapping
from typing import Any

from pipeline import builds, rollup
from pipeline.archive import Archive
from pipeline.config import Settings
from pipeline.rollup import Receipt
from pipeline.sources.flickr import PER_PAGE, FlickrSource

# Where this archive has measured nothing yet: see docs/running.md.
ASSUMED = {"fetched": 100_000, "derivative": 250_000, "row": 1_000, "dim": 768}  # bytes a photo; numbers a vector

Receipts = Mapping[str, Mapping[int, Receipt]]


def plan(
    settings: Settings,
    archive: Archive | None,
    *,
    photos: int | None = None,
    devices: int = 1,
    workers: int = 1,
    price: float | None = None,
) -> dict[str, Any]:
    """What `tintype plan --json` prints; docs/tables.md explains it.

    Args:
        archive: None where there is none yet
        photos: how many the archive is to hold; None: those listed so far
        devices: GPUs, or CPU workers, that annotate
        workers: nodes that fetch
        price: of a device's hour
    """
    tables = list(settings.derived())
    names = ("photos", "images", *tables)
    seen = {name: rollup.receipts(archive, archive.table(name)) if archive else {} for name in names}
    have = {name: sum(receipt["rows"] for receipt in receipts.values()) for name, receipts in seen.items()}
    total = have["photos"] if photos is None else photos
    left = {name: max(0, total - rows) for name, rows in have.items()}
    annotating = max((left[name] for name in tables), default=0)
    fetched, device = _per_photo(seen["images"].values(), "bytes"), _device_seconds(seen, tables)
    calls = _calls(settings, left["photos"])
    seconds = {
        "list": calls / min((s.api_rate for s in settings.sources if isinstance(s, FlickrSource)), default=1.0),
        "fetch": left["images"] * _fetch_seconds(settings, seen["images"], workers),
        "annotate": annotating * device / devices if device is not None else (None if annotating else 0.0),
        "index": _index_seconds(archive, settings, total),
    }
    # Listing, fetching and annotating overlap part by part, so that the slowest of them takes all the time there is.
    beside = {stage: seconds[stage] for stage in ("list", "fetch", "annotate")}
    known = {stage: value for stage, value in beside.items() if value is not None}
    whole = len(known) == len(beside)
    wall = max(known.values()) + (seconds["index"] or 0.0)
    busy = annotating * device if device is not None else None
    return {
        "archive": settings.archive,
        "photos": {"total": total, "to_list": left["photos"], "to_fetch": left["images"], "to_annotate": annotating},
        "parts": math.ceil(total / settings.run.part_size),
        "api_calls": calls,
        "bytes": round(left["images"] * (fetched if fetched is not None else ASSUMED["fetched"])),
        "device_seconds": busy,
        "seconds": seconds,
        "wall_seconds": wall if whole else None,
        "bottleneck": max(known, key=lambda stage: known[stage]) if whole and wall else None,
        "storage_bytes": round(total * _stored(settings, archive, fetched)),
        "cost": busy / 3600 * price if busy is not None and price is not None else None,
        "measured": [name for name, value in (("bytes", fetched), ("annotate", device)) if value is not None],
    }


def _calls(settings: Settings, photos: int) -> int:
    """Of the API, to list so many photos: pages, and a question or two before them."""
    flickr = any(isinstance(source, FlickrSource) for source in settings.sources)
    return math.ceil(photos / PER_PAGE) + 2 if flickr and photos else 0


def _per_photo(receipts: Any, key: str) -> float | None:
    """The mean of something that receipts count, over the photos that they speak of."""
    found = [(receipt[key], receipt["rows"]) for receipt in receipts if key in receipt and receipt["rows"]]
    return sum(value for value, _ in found) / sum(rows for _, rows in found) if found else None


def _fetch_seconds(settings: Settings, images: Mapping[int, Receipt], workers: int) -> float:
    """A photo: as long as the host is to be left alone, or as the connections take, whichever is more."""
    polite = 0.0
    if settings.images.rate and any(isinstance(source, FlickrSource) for source in settings.sources):
        polite = 1 / settings.images.rate
    timed = [receipt for receipt in images.values() if receipt.get("seconds") and receipt["rows"]]
    if not timed:
        return polite
    busy = sum(receipt["seconds"].get(phase, 0.0) for receipt in timed for phase in ("downloading", "decoding"))
    rows = sum(receipt["rows"] for receipt in timed)
    return max(polite, busy / rows / settings.images.connections / workers)


def _device_seconds(seen: Receipts, tables: list[str]) -> float | None:
    """What a photo takes a device, for all tables; None where one of them has never been made here."""
    per_table = {name: list(seen[name].items()) for name in tables}
    if not tables or not all(per_table.values()):
        return None
    # Tables that were made together say the same seconds: they are counted once.
    spent: dict[tuple[int, float, float], int] = {}
    for receipts in per_table.values():
        for part, receipt in receipts:
            phases = receipt.get("seconds", {})
            spent[part, phases.get("embedding", 0.0), phases.get("captioning", 0.0)] = receipt["rows"]
    rows = sum({part: n for (part, _, _), n in spent.items()}.values())
    return sum(embedding + captioning for _, embedding, captioning in spent) / rows if rows else None


def _index_seconds(archive: Archive | None, settings: Settings, total: int) -> float | None:
    """In proportion to the last whole build: one that grew says what its addition took. None where there is none."""
    of = settings.index.of or next(iter(settings.embeddings), None)
    card = builds.current(archive, of) if archive and of else None
    if archive and of and card and card.get("base"):
        card = builds.card_of(archive, of, card["base"])
    return total * sum(card["seconds"].values()) / card["photos"] if card and card["photos"] else None


def _stored(settings: Settings, archive: Archive | None, fetched: float | None) -> float:
    """Bytes a photo, over all tables and the index."""
    original = [(settings.images.store or source.default_store) == "original" for source in settings.sources]
    picture = (fetched if fetched is not None else ASSUMED["fetched"]) if any(original) else ASSUMED["derivative"]
    made = [archive.table(f"embeddings/{name}").identity() if archive else None for name in settings.embeddings]
    dims = [identity["dim"] if identity else ASSUMED["dim"] for identity in made]
    indexed = 4 * dims[0] + ASSUMED["row"] if dims else 0
    told = ASSUMED["row"] * (1 + len(settings.captions) + len(settings.labels) + len(settings.objects))
    return picture + told + sum(2 * dim for dim in dims) + indexed
