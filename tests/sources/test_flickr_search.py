"""Settings of searches, and windows over results that a function makes up."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

import pydantic
import pytest

from pipeline.sources import Listing
from pipeline.sources.flickr.parse import Page
from pipeline.sources.flickr.search import DEPTH, Search, Windows

PER_PAGE, CAP = 5, 20
NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Flickr:
    """A search whose results are uploads at these seconds, with ids of their own, as Flickr answers it."""

    def __init__(self, uploads: list[int], total: Callable[[int], int] = lambda total: total) -> None:
        self.photos = list(enumerate(sorted(uploads)))
        self.total = total
        self.calls: list[tuple[int, int, int]] = []

    def __call__(self, number: int, *, min_upload_date: int, max_upload_date: int) -> Page:
        self.calls.append((number, min_upload_date, max_upload_date))
        within = [(i, second) for i, second in self.photos if min_upload_date <= second <= max_upload_date]
        shown = within[:CAP]
        total = self.total(len(within))
        start = (min(number, CAP // PER_PAGE) if len(within) > CAP else number) - 1
        rows = [{"id": str(i), "dateupload": str(s)} for i, s in shown[start * PER_PAGE : (start + 1) * PER_PAGE]]
        return Page(rows, number, -(-total // PER_PAGE), total, None, None)


def walked(
    flickr: Flickr, oldest: int = 1, newest: int = 1 << 20, limit: int | None = None
) -> tuple[list[int], Listing]:
    windows = Windows(flickr, oldest, newest, limit, cap=CAP)
    ids = [int(row["id"]) for page in windows for row in page.rows]
    return ids, windows.listing()


def test_a_search_that_fits_is_not_divided() -> None:
    flickr = Flickr(list(range(100, 112)))
    ids, listing = walked(flickr)
    assert ids == list(range(12))
    assert listing == Listing(complete=True, total=12, seen=12, note=None)
    assert flickr.calls == [(page, 1, 1 << 20) for page in (1, 2, 3)]


def test_a_search_that_finds_nothing_is_complete() -> None:
    assert walked(Flickr([])) == ([], Listing(complete=True, total=0, seen=0, note=None))


def test_too_many_are_found_in_windows_each_photo_once() -> None:
    flickr = Flickr([100 + 7 * i for i in range(1000)])
    ids, listing = walked(flickr)
    assert ids == list(range(1000))
    assert listing == Listing(complete=True, total=1000, seen=1000, note=None)
    assert flickr.calls[0] == (1, 1, 1 << 20)
    assert len(flickr.calls) < 500
    whole = sorted({(first, last) for number, first, last in flickr.calls if number > 1})
    assert all(last < first for (_, last), (first, _) in pairwise(whole))


def test_photos_at_both_ends_of_a_window_belong_to_it() -> None:
    ends = [1, (1 + 64) // 2, (1 + 64) // 2 + 1, 64]
    ids, listing = walked(Flickr(ends * 10), 1, 64)
    assert (sorted(ids), listing.complete, listing.note) == (list(range(40)), True, None)


def test_a_second_that_holds_too_many_is_told_and_not_divided() -> None:
    flickr = Flickr([500] * 50 + [900] * 3)
    ids, listing = walked(flickr)
    assert len(ids) == 23
    assert not listing.complete
    assert "more than 20 photos uploaded at 1970-01-01T00:08:20Z" in (listing.note or "")
    assert f"{len(ids)} photos where Flickr counts 53" in (listing.note or "")
    assert {50, 51, 52} <= set(ids)


def test_a_count_too_low_is_found_out_by_meeting_the_cap() -> None:
    flickr = Flickr([100 + 7 * i for i in range(90)], total=lambda total: min(total, CAP))
    ids, listing = walked(flickr)
    assert sorted(ids) == list(range(90))
    assert listing == Listing(complete=True, total=20, seen=90, note="90 photos where Flickr counts 20")


def test_counts_that_are_the_same_for_every_window_are_not_followed_for_ever() -> None:
    flickr = Flickr([100, 200], total=lambda total: 100)
    _, listing = walked(flickr, newest=1 << 31)
    assert not listing.complete
    assert "contradict" in (listing.note or "")
    assert len(flickr.calls) < 4 * DEPTH * (1 + 100 // CAP)


def test_fewer_than_counted_is_told_and_not_searched_for() -> None:
    flickr = Flickr(list(range(100, 112)), total=lambda total: total and total + 2)
    ids, listing = walked(flickr)
    assert (len(ids), len(flickr.calls)) == (12, 3)
    assert listing == Listing(complete=True, total=14, seen=12, note="12 photos where Flickr counts 14")


def test_pages_that_repeat_below_the_cap_are_told() -> None:
    page = Page([{"id": "1"}, {"id": "2"}], 1, 9, 18, None, None)
    windows = Windows(lambda number, **_: page if number == 1 else Page(page.rows, number, 9, 18, None, None), 1, 99)
    assert [len(found.rows) for found in windows] == [2]
    assert not windows.listing().complete
    assert "page 2 of 9 brought nothing new, uploaded from 1970-01-01" in (windows.listing().note or "")


def test_the_limit_holds_over_all_windows() -> None:
    flickr = Flickr([100 + 7 * i for i in range(1000)])
    ids, listing = walked(flickr, limit=33)
    assert ids == list(range(33))
    assert listing == Listing(complete=True, total=1000, seen=33, note="stopped at the limit of 33", limited=True)


# ---- settings


def parsed(**given: Any) -> Search:
    return pydantic.TypeAdapter(Search).validate_python(given)


def test_what_is_asked() -> None:
    search = parsed(
        text="train",
        tags=["steam", "rail"],
        tag_mode="all",
        user="library_of_congress",
        licenses=[9, 7],
        is_commons=True,
        min_upload_date=date(2020, 1, 1),
        max_upload_date="2020-01-31",
        min_taken_date="1910-01-01",
        max_taken_date=datetime(1919, 12, 31, 12),
    )
    assert search.parameters() == {
        "text": "train",
        "tags": "rail,steam",
        "tag_mode": "all",
        "user_id": "library_of_congress",
        "license": "7,9",
        "is_commons": "1",
        "min_upload_date": "1577836800",
        "max_upload_date": "1580515199",
        "min_taken_date": "1910-01-01 00:00:00",
        "max_taken_date": "1919-12-31 12:00:00",
    }
    assert search.window(NOW) == (1577836800, 1580515199)
    again = replace(search, tags=("rail", "steam", "rail"), licenses=(7, 9), max_upload_date="2020-01-31T23:59:59Z")
    assert again.name == search.name


def test_a_window_ends_now_unless_it_was_told_otherwise() -> None:
    assert Search(text="x").window(NOW) == (1, int(NOW.timestamp()))
    assert parsed(text="x", min_upload_date="2020-01-01T00:00:00+01:00").window(NOW)[0] == 1577833200
    later = Search(text="x", min_upload_date="2027-01-01").window(NOW)
    assert later[0] == later[1]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "must ask for something"),
        ({"tag_mode": "all", "media": "photos"}, "must ask for something"),
        ({"text": ""}, "must ask for something"),
        ({"tags": ["a,b"]}, "each without a comma"),
        ({"tags": "a"}, "tags"),
        ({"user": "two words"}, "names no user"),
        ({"group": "https://www.flickr.com/groups/x/"}, "names no group"),
        ({"text": "x", "min_taken_date": "circa 1910"}, "min_taken_date: 'circa 1910' is no date"),
        ({"text": "x", "min_taken_date": "1920-01-01", "max_taken_date": "1910-01-01"}, "later than"),
        ({"text": "x", "licences": [7]}, "licences"),
        ({"text": "x", "media": "screenshots"}, "media"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=told):
        parsed(**given)
