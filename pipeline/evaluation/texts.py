"""What people wrote of photos: the texts that a model is to find them by."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

Kind = Literal["auto", "captions", "titles"]

# What cameras, scanners and programs call files, numbers and all: they tell nothing of a picture.
_FILE = re.compile(
    r"(img|image|dsc|dscn|dscf|pic|pict|picture|p|mvi|scan|photo|foto|file|untitled|no title|sans titre|ohne titel)?"
    r"[\W\d_]*(\.(jpe?g|png|tiff?|gif|webp|bmp))?|\S+\.(jpe?g|png|tiff?|gif|webp|bmp)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Texts:
    """Texts of some photos, each text once, however many photos it is of.

    `pairs`: int64[p, 2], (text, photo) that belong together, each once, by text; photos by their places.
    `left_out`: titles that say nothing, by why.
    """

    kind: Literal["captions", "titles"]
    texts: list[str]
    pairs: np.ndarray
    left_out: Mapping[str, int]

    @property
    def shared(self) -> int:
        """How many texts are of several photos."""
        return int(np.count_nonzero(np.bincount(self.pairs[:, 0], minlength=len(self.texts)) > 1))

    @property
    def photos(self) -> int:
        """How many photos have a text."""
        return len(np.unique(self.pairs[:, 1]))


def gather(photos: Sequence[Mapping[str, Any]], kind: Kind = "auto") -> Texts:
    """The texts of photos, rows with photo_id, title and human_captions; there may be none.

    `auto` takes captions where any photo has one, else titles. Texts that differ in case and space alone are one.
    """
    if kind == "auto":
        kind = "captions" if any(map(captions, photos)) else "titles"
    numbers: dict[str, int] = {}
    texts: list[str] = []
    pairs: set[tuple[int, int]] = set()
    left_out: Counter[str] = Counter()
    for place, photo in enumerate(photos):
        if kind == "titles" and (why := says_nothing(photo["title"], photo["photo_id"])):
            left_out[why] += 1
            continue
        for text in captions(photo) if kind == "captions" else [photo["title"]]:
            number = numbers.setdefault(folded(text), len(texts))
            if number == len(texts):
                texts.append(" ".join(text.split()))
            pairs.add((number, place))
    return Texts(kind, texts, np.array(sorted(pairs), np.int64).reshape(-1, 2), dict(left_out))


def captions(photo: Mapping[str, Any]) -> list[str]:
    """The captions that people wrote of a photo, but for empty ones."""
    return [text for text in photo["human_captions"] or () if text.strip()]


def own_text(photo: Mapping[str, Any]) -> str | None:
    """The first caption that a person wrote of a photo, else its title; None where it says nothing."""
    written = captions(photo)
    if written:
        return written[0]
    return None if says_nothing(photo["title"], photo["photo_id"]) else str(photo["title"])


def folded(text: str) -> str:
    """A text as texts are compared: without what case and space make of it."""
    return " ".join(text.split()).casefold()


def says_nothing(title: str | None, photo_id: str) -> Literal["empty", "file name"] | None:
    """Why a title tells nothing of its photo; None where it tells something. A folder's pictures are titled by their
    files where nobody titled them."""
    title = (title or "").strip()
    if not title:
        return "empty"
    kind, _, path = photo_id.partition(":")
    named = kind == "file" and title == PurePosixPath(path).stem.replace("_", " ").strip()
    return "file name" if named or _FILE.fullmatch(title) else None
