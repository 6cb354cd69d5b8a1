"""One build in use by a server: its model, what was said since it was made, and what is worked out once for it."""

import functools
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import facts, storage
from pipeline.builds import Build, News
from pipeline.duplicates import report
from pipeline.photo import UserError
from pipeline.web.towers import Towers

# Of each object, in how many photos it is.
OBJECTS = """
SELECT name, count(*) FROM (SELECT unnest(list_distinct([object.label FOR object IN objects])) AS name FROM photos)
GROUP BY 1
"""
TAGS = 200  # the most frequent, of which the page is told


class Opened:
    """One build in use, its model, and what is worked out once for it."""

    def __init__(self, build: Build, news_s: float, towers: Towers | None = None) -> None:
        self.build = build
        self.towers = towers or Towers(build)
        self.look_for_copies()
        self._news_s = news_s
        self._news: tuple[Any, News] | None = None
        self._looked = 0.0
        self._looking = threading.Lock()

    def news(self) -> News:
        """As `Build.news`, as it stood `news_s` ago or later, read anew only where parts have come."""
        is_old = self._news is None or time.monotonic() - self._looked >= self._news_s
        # Stores take their time to list: one looks, and the others go on with what is known.
        if is_old and self._looking.acquire(blocking=self._news is None):
            try:
                self._look()
            finally:
                self._looking.release()
        assert self._news is not None
        return self._news[1]

    def _look(self) -> None:
        if self._news is not None and time.monotonic() - self._looked < self._news_s:
            return  # another did while this one waited
        looked, url = time.monotonic(), self.build.archive.url
        seen = tuple(tuple(storage.names(storage.join(url, name))) for name in ("changes", "forgotten"))
        if self._news is None or self._news[0] != seen:  # a part never changes
            self._news = (seen, self.build.news())
        self._looked = looked

    def look_for_copies(self) -> None:
        """Set `copies_known`: whether somebody looked for duplicates."""
        self.copies_known = storage.exists(report.url(self.build.archive, self.build.card["of"]))

    @functools.cached_property
    def facets(self) -> dict[str, Any]:
        with facts.reading(self.build.folders[-1]):
            ask = self.build.database.cursor().execute
            licences = ask(
                "SELECT license_url, license_name, count(*) AS n FROM photos GROUP BY 1, 2 ORDER BY n DESC, 1, 2"
            ).fetchall()
            tags = ask(
                "SELECT tag, count(*) AS n FROM (SELECT unnest(tags) AS tag FROM photos) GROUP BY 1 ORDER BY n DESC, 1 "
                f"LIMIT {TAGS}"
            ).fetchall()
            [years] = ask(
                "SELECT min(left(date_taken, 4)), max(left(date_taken, 4)) FROM photos WHERE date_taken IS NOT NULL"
            ).fetchall()
            in_photos = dict(ask(OBJECTS).fetchall())
        objects = [(name, in_photos.get(name, 0)) for name in facts.sought(self.build.folders[-1])]
        return {"licenses": licences, "tags": tags, "years": years, "objects": objects}

    @functools.cached_property
    def columns(self) -> list[tuple[str, str]]:
        with facts.reading(self.build.folders[-1]):
            view = self.build.database.cursor().view("photos")
            return list(zip(view.columns, map(str, view.types), strict=True))

    @functools.cached_property
    def copies(self) -> Mapping[int, int]:
        return report.groups(self.build)[0]


def check_object(name: str, opened: Sequence[Opened]) -> None:
    """Raises UserError for an object that was not looked for: of that no picture tells."""
    for one in opened:
        known = facts.sought(one.build.folders[-1])
        if name not in known:
            told = f"what was looked for is {', '.join(known)}" if known else "nothing was looked for in these photos"
            raise UserError(f"has={name[:100]}: {told}")
