"""What a picture's surroundings tell of it, whoever tells: a captions file beside it or its own header."""

import re
from dataclasses import dataclass, fields

CIRCA = re.compile(r"\b(c|ca|circa|about|approx\w*|around|before|after|between|or)\b|[?~]|\d0'?s\b", re.I)
DATE = re.compile(r"(\d{4})(?:[-:/.](\d\d?)(?:[-:/.](\d\d?)(?:[T ](\d\d):(\d\d)(?::(\d\d))?.*)?)?)?")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is told of one picture. Empty where nothing is."""

    title: str | None = None
    description: str | None = None
    captions: tuple[str, ...] = ()
    creator: str | None = None
    date: str | None = None  # in the teller's own form: see `partial_date`
    licence: str | None = None  # a name, a URL or a copyright notice
    page_url: str | None = None
    tags: tuple[str, ...] = ()
    latitude: float | None = None
    longitude: float | None = None
    raw: str | None = None  # JSON of all that was told

    def or_else(self, other: "Facts") -> "Facts":
        """These facts, and the other's where these say nothing."""
        mine = {field.name: getattr(self, field.name) for field in fields(self)}
        return Facts(**{name: getattr(other, name) if value in (None, ()) else value for name, value in mine.items()})


def storable(text: str) -> str:
    """A text that a table can hold: escapes in JSON may stand for half a character, which becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def partial_date(text: str | None) -> tuple[str | None, str | None]:
    """`date_taken` and `date_granularity` of a `Photo` from what people and cameras write.

    "1938" → ("1938", "year"), "1910:06:03 14:00:00" → ("1910-06-03 14:00:00", "second"),
    "ca. 1900" → ("1900", "circa").
    (None, None) where no year, or more than one, can be made out.
    """
    text = (text or "").strip()
    match = DATE.fullmatch(text)
    if not match:
        years = set(re.findall(r"(?<!\d)(1[0-9]{3}|20[0-9]{2})(?!\d)", text))
        if len(years) != 1:
            return None, None
        return years.pop(), "circa" if CIRCA.search(text) else "year"
    year, month, day, hour, minute, second = (int(number) if number else 0 for number in match.groups())
    if not 1000 <= year <= 2999:  # 0000 is how much software writes that it does not know
        return None, None
    if not 1 <= month <= 12:
        return f"{year}", "year"
    if not 1 <= day <= 31:
        return f"{year}-{month:02}", "month"
    if match[4] is None:
        return f"{year}-{month:02}-{day:02}", "day"
    return f"{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}", "second"
