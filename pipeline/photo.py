"""The nouns: a photo as its source tells it, its rights, and a hit of a search. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

OUTCOMES = ("fetched", "gone", "failed")

# Why a picture is `failed`, and whether asking again later may help. A closed list: curators count by it.
REASONS = {
    "video": False,  # moving pictures whose still was not offered
    "no_size": False,  # the source offers no size of it at all
    "refused": False,  # 401, 403 and other permanent answers of the image host
    "not_an_image": False,  # HTML, JSON, SVG, text …
    "corrupt": False,  # begins like an image but cannot be decoded
    "too_large": False,  # more pixels than `max_pixels`; never decoded
    "decoder_crashed": False,  # killed the child process that decoded it first
    "truncated": True,  # ends too early, after retries
    "server_error": True,  # 429 and 5xx, after retries
    "unreachable": True,  # no connection, reset, timeout, after retries
    "unreadable": True,  # a file or object that could not be read: permissions, a disk gone
}


class UserError(Exception):
    """A mistake of the user or a fault of a source: shown as one line that names the remedy."""

    exit_status = 2


class TryLater(UserError):
    """A source that does not answer for now: the same command may succeed in a while."""

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Rights:
    """What may be done with a photo, as observed at a time. The URL is the key; id and name are the source's own.

    `license_url` is a Creative Commons, RightsStatements.org or Flickr Commons URL, None where the source says nothing
    that maps to one: such a photo is treated as restricted.
    """

    license_id: str | None
    license_name: str | None
    license_url: str | None
    observed_at: datetime


@dataclass(frozen=True, slots=True)
class Size:
    """One uncropped rendition on offer. Width and height are pixels, None where the source does not say."""

    url: str  # http(s)://, or any fsspec URL or absolute path
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo as its source describes it: one row of the `photos` table to be."""

    photo_id: str  # "flickr:2179931434", "file:box3/img_0042.tif"
    source: str  # which of the archive's sources it came from: "flickr:library_of_congress", "folder:/scans"
    rights: Rights
    title: str | None = None
    description: str | None = None  # as given: Flickr's holds HTML
    tags: tuple[str, ...] = ()
    machine_tags: tuple[str, ...] = ()
    human_captions: tuple[str, ...] = ()  # captions people wrote, such as Flickr8k's five
    date_taken: str | None = (
        None  # ISO 8601 cut to what is known: "1910", "1910-06", "1910-06-03", "1910-06-03 14:00:00"
    )
    date_granularity: str | None = None  # "second", "day", "month", "year" or "circa"
    uploaded_at: datetime | None = None
    updated_at: datetime | None = None
    latitude: float | None = None
    longitude: float | None = None
    owner: str | None = None  # the name to credit
    owner_id: str | None = None
    page_url: str | None = None
    media: str = "photo"  # or "video"
    sizes: tuple[Size, ...] = field(default=())
    raw: str | None = None  # the source's own JSON, so that nothing it said is lost


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer of a search.

    `score` is the cosine with the query; BM25 where words alone were searched. Where rankings were fused, it is what
    reciprocal rank fusion gives, and `ranks` says at which rank which of them found the photo.
    """

    rank: int
    score: float
    photo_id: str
    row_id: int
    title: str | None
    caption: str | None  # written by a machine, unless `caption_by` names a person
    caption_model: str | None
    caption_by: str | None
    date_taken: str | None
    license_id: str | None
    license_name: str | None
    license_url: str | None
    owner: str | None
    page_url: str | None
    ranks: Mapping[str, int] = field(default_factory=dict)
    labels: Sequence[dict[str, Any]] | None = None  # by a machine: {"label", "probability"}, best first
    objects: Sequence[dict[str, Any]] | None = None  # by a machine, as schemas.OBJECTS has them
    width: int | None = None  # pixels of the stored picture, upright
    height: int | None = None
    copies: int | None = None  # exact and near ones that this hit stands for; None where they were not collapsed
