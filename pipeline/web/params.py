"""What one search asks for, as it stands in an address."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from typing import Any, cast, get_args
from urllib.parse import urlencode

from pipeline.photo import UserError
from pipeline.search import Mode, Query

MOST_HITS, MOST_SCALE = 100, 5.0
LONGEST = {
    "q": 1000,
    "text": 1000,
    "plus": 1000,
    "minus": 1000,
    "tag": 500,
    "has": 500,
    "license": 500,
    "where": 4000,
    "of": 500,
    "image": 20_000,
}
NO_LICENCE = "none"  # what `license` says for photos without one
DATE = r"[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?"
_YES, _NO = ("1", "true", "on", "yes"), ("0", "false", "off", "no")


@dataclass(frozen=True)
class Params:
    """What one search asks for. What is not said is None, or the default."""

    q: str | None = None
    """Words to start from."""
    image: str | None = None
    """A picture to start from: the id of a photo of the archive, or the name that a dropped picture was given."""
    plus: str | None = None
    """What there should be more of: words, or the id of a photo of the archive."""
    minus: str | None = None
    """What there should be less of: words, or the id of a photo of the archive."""
    scale: float = 1.0
    """How much of plus − minus is added: 0 to 5."""
    after: str | None = None
    """Taken then or later: "1910", "1910-06" or "1910-06-03"."""
    before: str | None = None
    """Taken then or earlier: "1910" is all of that year."""
    license: str | None = None
    """The URL of the licence, its name where it has no URL, or "none" for photos of which nobody said one."""
    tag: str | None = None
    """One of the photo's tags."""
    has: str | None = None
    """An object that is in the photo, one of those that were looked for."""
    where: str | None = None
    """A DuckDB SQL expression over the photos."""
    k: int = 24
    """How many hits: 1 to 100."""
    mode: Mode = "vector"
    """`vector`: by what pictures show. `words`: by the words of titles, tags and captions. `hybrid`: both."""
    of: str | None = None
    """The embeddings to search with; several with commas between them are fused."""
    collapse: bool = False
    """Whether exact and near copies are shown once."""

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> "Params":
        """What an address asks for; names that are none of ours are passed over. Raises UserError."""
        names = {field.name for field in fields(cls)}
        said: dict[str, Any] = {name: value.strip() for name, value in given.items() if name in names and value.strip()}
        for name, value in said.items():
            check_text(name, value)
        for name in said.keys() & {"after", "before"}:
            if not _is_date(said[name]):
                raise UserError(f"{name}={said[name]}: write a date as 1910, 1910-06 or 1910-06-03")
        if said.get("mode", "vector") not in get_args(Mode):
            raise UserError(f"mode={said['mode']}: one of {', '.join(get_args(Mode))}")
        said |= {name: _number(name, said[name], top) for name, top in (("scale", MOST_SCALE),) if name in said}
        if "k" in said:
            said["k"] = _count(said["k"])
        if "collapse" in said:
            said["collapse"] = _flag(said["collapse"])
        return cls(**said)

    @property
    def asks(self) -> bool:
        """Whether it asks for anything at all."""
        return bool(self.q or self.image)

    def filters(self) -> list[str]:
        """SQL expressions that are all to be true of a photo, but for `where`."""
        found = []
        # Both sides are cut to what the other one knows: a photo of "1910" may be of that June.
        if self.after:
            found.append(f"left(date_taken, {len(self.after)}) >= left({_literal(self.after)}, length(date_taken))")
        if self.before:
            found.append(f"left(date_taken, {len(self.before)}) <= left({_literal(self.before)}, length(date_taken))")
        if self.license:
            is_ = "IS NULL" if self.license == NO_LICENCE else f"= {_literal(self.license)}"
            found.append(f"coalesce(license_url, license_name) {is_}")
        if self.tag:
            found.append(f"list_contains(tags, {_literal(self.tag)})")
        if self.has:
            found.append(f"has({_literal(self.has)})")
        return found

    def query(self) -> Query:
        """The query, its filters joined into one `where`. Raises UserError for one that makes no sense."""
        if bool(self.q) == bool(self.image):
            raise UserError("search for either words (q) or a picture (image)")
        if self.mode != "vector" and self.image:
            raise UserError("a picture has no words to search for: choose mode=vector, or give words")
        if self.mode == "words" and (self.plus or self.minus):
            raise UserError("plus and minus are arithmetic of vectors, which mode=words leaves out: try mode=hybrid")
        # A comment at the end of an expression ends with its line.
        wheres = [*self.filters(), *([f"({self.where}\n)" if self.filters() else self.where] if self.where else [])]
        return Query(
            text=self.q,
            image=self.image,
            plus=self.plus,
            minus=self.minus,
            scale=self.scale,
            where=" AND ".join(wheres) or None,
            k=self.k,
            mode=self.mode,
        )

    def address(self) -> str:
        """The query string that asks for the same, always written alike: what stands behind the ? of a permalink."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {f.name: said[f.name] for f in fields(self) if said[f.name] != f.default}
        return urlencode({name: _written(value) for name, value in changed.items()})


def check_text(name: str, value: str) -> None:
    """Raises UserError for one that is longer than it may be, or no text."""
    if len(value) > LONGEST.get(name, 100):
        raise UserError(f"{name} is longer than {LONGEST.get(name, 100):,} characters")
    if any((ord(c) < 32 and c not in "\t\r\n") or "\ud800" <= c <= "\udfff" for c in value):
        raise UserError(f"{name} holds characters that are no text")


def _is_date(text: str) -> bool:
    try:
        return bool(re.fullmatch(DATE, text) and date.fromisoformat(text + "-01-01"[len(text) - 4 :]))
    except ValueError:
        return False


def _number(name: str, text: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise UserError(f"{name}={text}: a number from 0 to {most:g}")
    return round(value, 3)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MOST_HITS:
        raise UserError(f"k={text}: a whole number from 1 to {MOST_HITS}")
    return int(text)


def _flag(text: str) -> bool:
    if text.lower() not in _YES + _NO:
        raise UserError(f"collapse={text}: true or false")
    return text.lower() in _YES


def _written(value: object) -> str:
    return "true" if value is True else f"{value:g}" if isinstance(value, float) else cast(str, str(value))


def _literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))
