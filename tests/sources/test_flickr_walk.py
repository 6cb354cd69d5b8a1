"""Walks over pages that a function makes up."""

from collections.abc import Callable

from pipeline.sources import Listing
from pipeline.sources.flickr.parse import Page
from pipeline.sources.flickr.walk import Walk


def page(ids: list[int], number: int, pages: int, total: int) -> Page:
    return Page([{"id": str(i)} for i in ids], number, pages, total, None, None)


def stream(ids: list[int], size: int = 3) -> Callable[[int], Page]:
    """Flickr on a good day: pages of a list that may change between calls."""
    return lambda number: page(ids[(number - 1) * size : number * size], number, -(-len(ids) // size), len(ids))


def walked(walk: Walk) -> tuple[list[int], Listing]:
    ids = [int(row["id"]) for fresh in walk for row in fresh.rows]
    return ids, walk.listing()


def test_all_pages_are_walked_in_order() -> None:
    ids = list(range(8))
    assert walked(Walk(stream(ids))) == (ids, Listing(complete=True, total=8, seen=8, note=None))


def test_an_empty_stream_is_complete() -> None:
    assert walked(Walk(stream([]))) == ([], Listing(complete=True, total=0, seen=0, note=None))


def test_a_photo_on_two_pages_is_seen_once() -> None:
    pages = [page([1, 2, 3], 1, 2, 5), page([3, 4, 5], 2, 2, 5)]
    assert walked(Walk(lambda number: pages[number - 1])) == ([1, 2, 3, 4, 5], Listing(True, 5, 5, None))


def test_uploads_during_the_walk_are_found_at_the_front() -> None:
    ids = [1, 2, 3, 4, 5, 6, 7]

    def ask(number: int) -> Page:
        if number == 2:
            ids.insert(0, 100)
        return stream(ids)(number)

    found, listing = walked(Walk(ask))
    assert sorted(found) == [1, 2, 3, 4, 5, 6, 7, 100]
    assert listing == Listing(complete=True, total=8, seen=8, note=None)


def test_a_stream_that_brings_news_each_time_does_not_keep_us_for_ever() -> None:
    calls: list[int] = []

    def ask(number: int) -> Page:
        calls.append(number)
        return page([1000 + len(calls)], number, 2, 2)

    walked(Walk(ask))
    assert len(calls) < 50


def test_a_walk_may_be_told_that_nothing_comes_in_front() -> None:
    calls: list[int] = []

    def ask(number: int) -> Page:
        calls.append(number)
        return stream(list(range(8)))(number)

    walked(Walk(ask, rereads=0))
    assert calls == [1, 2, 3]


def test_pages_that_repeat_the_last_one_for_ever_end_the_walk() -> None:
    found, listing = walked(Walk(lambda number: page([1, 2, 3], number, 90, 270)))
    assert found == [1, 2, 3]
    assert not listing.complete
    assert listing.note == "page 2 of 90 brought nothing new; 3 photos where Flickr counts 270"


def test_another_page_than_the_one_asked_for_ends_the_walk() -> None:
    found, listing = walked(Walk(lambda number: page([number, 10 + number], min(number, 2), 5, 10)))
    assert found == [1, 11, 2, 12]
    assert not listing.complete
    assert "asked for page 3, Flickr sent page 2" in (listing.note or "")


def test_a_total_that_is_wrong_is_told_and_no_more() -> None:
    found, listing = walked(Walk(lambda number: page([number], number, 3, 7)))
    assert found == [1, 2, 3]
    assert listing == Listing(complete=True, total=7, seen=3, note="3 photos where Flickr counts 7")


def test_the_limit_ends_the_walk_with_no_more_calls() -> None:
    calls = []

    def ask(number: int) -> Page:
        calls.append(number)
        return stream(list(range(9)))(number)

    assert walked(Walk(ask, limit=4)) == ([0, 1, 2, 3], Listing(True, 9, 4, "stopped at the limit of 4", limited=True))
    assert calls == [1, 2]


def test_rows_that_are_no_photos_are_counted() -> None:
    bad = Page([{"id": "1"}, None, {"title": "without an id"}, "text", {"id": 2}], 1, 1, 2, None, None)
    found, listing = walked(Walk(lambda number: bad))
    assert found == [1, 2]
    assert listing.note == "3 entries without an id"
