"""Where photos come from. A source is a frozen dataclass of settings that can list its photos."""

from collections.abc import Container, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from pipeline.photo import Photo, Size


@dataclass(frozen=True, slots=True)
class Listing:
    """How a listing went. `complete`: all that was asked for was seen. `total`: what the source itself counts."""

    complete: bool
    total: int | None
    seen: int
    note: str | None = None  # a difference worth telling, in one line


class Source(Protocol):
    """What the archive asks of every kind of source."""

    @property
    def name(self) -> str:
        """The same for the same photos, however often listed: "flickr:library_of_congress", "folder:/scans"."""

    @property
    def default_store(self) -> Literal["original", "derivative"]:
        """What `images.store` means where it is not set."""

    @property
    def default_max_pixels(self) -> int:
        """What `images.max_pixels` means where it is not set."""

    def check(self) -> None:
        """Raise UserError, before anything is written, if the source cannot be listed as it is configured."""

    def photos(self, known: Container[str], newest: datetime | None = None) -> Generator[list[Photo], None, Listing]:
        """Yield pages of the photos whose ids are not in `known`, in the source's order. Raises UserError.

        `newest` is given only where the last listing was complete: when the newest known photo of this source was
        uploaded. A source that lists its newest photos first may then stop where the known ones begin.
        """

    def sizes(self, photo_id: str) -> list[Size] | None:
        """Ask again what renditions there are; None: the photo is gone."""

    def is_gone(self, photo_id: str) -> bool:
        """Whether a photo that was listed once is there no more. Raises UserError where that cannot be told."""

    def forgets(self, license_id: str | None) -> bool:
        """Whether the picture of a photo that is gone, under this licence when last seen, is to be forgotten."""
