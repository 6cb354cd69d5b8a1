"""list: what is new and no more is asked for, and a listing cut short is made good by the next."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.archive import Archive
from pipeline.demo.faults import Fault, failure, listed
from pipeline.demo.server import KEY, SECRET, Served, serve
from pipeline.demo.stream import ALIAS, Stream, demo_stream
from pipeline.photo import TryLater
from pipeline.sources.flickr import FlickrSource, client
from pipeline.stages.list import last_listing, list_source

STREAM = demo_stream(1_800)  # four pages; nothing is drawn
NEW = 40


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)


@pytest.fixture
def served() -> Iterator[Served]:
    with serve(STREAM) as served:
        yield served


def older() -> Stream:
    return replace(STREAM, photos=STREAM.photos[NEW:])


def list_it(archive: Archive, served: Served, **settings: object) -> int:
    """List the stream; how many pages were asked for."""
    served.log.clear()
    source = FlickrSource(ALIAS, api_url=served.api_url, api_rate=1000, **settings)  # type: ignore[arg-type]
    list(list_source(archive, source, 500))
    return sum(request.parameters["method"].endswith("getPublicPhotos") for request in served.log)


def held(archive: Archive) -> list[str]:
    photos = archive.table("photos")
    return [photo_id for part in photos.parts() for photo_id in photos.read(part)["photo_id"].to_pylist()]


def expected(stream: Stream) -> list[str]:
    return [f"flickr:{photo.number}" for photo in stream.photos]


def test_once_seen_whole_a_stream_is_listed_by_its_first_pages(tmp_path: Path, served: Served) -> None:
    archive = Archive.create(str(tmp_path))
    served.stream = older()
    assert list_it(archive, served) == 5  # page 1 again, for what came meanwhile
    assert held(archive) == expected(older())
    served.stream = STREAM
    assert list_it(archive, served) <= 3
    assert sorted(held(archive)) == sorted(expected(STREAM))
    assert list_it(archive, served) <= 2
    assert len(held(archive)) == len(STREAM.photos)
    last = last_listing(archive, f"flickr:{ALIAS}")
    assert last and last["complete"] and not last["limited"]


def test_a_limit_once_reached_leaves_the_rest_to_be_found(tmp_path: Path, served: Served) -> None:
    archive = Archive.create(str(tmp_path))
    list_it(archive, served, limit=600)
    assert len(held(archive)) == 600
    assert list_it(archive, served) == 5
    assert sorted(held(archive)) == sorted(expected(STREAM))
    assert list_it(archive, served) == 1  # the whole has been seen now


def test_a_listing_cut_short_is_made_good(tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its newest photos are in the archive, and say nothing of the older ones."""
    monkeypatch.setattr(client, "TRIES", 2)
    archive = Archive.create(str(tmp_path))
    served.plan = listed({"people.getPublicPhotos 3": (failure(105), None)})
    with pytest.raises(TryLater):
        list_it(archive, served)
    assert held(archive) == expected(STREAM)[:500]
    served.plan = None
    list_it(archive, served)
    assert held(archive) == expected(STREAM)


def test_a_listing_that_breaks_off_without_news_is_told(tmp_path: Path, served: Served) -> None:
    archive = Archive.create(str(tmp_path))
    list_it(archive, served)

    def another(answer: dict[str, Any]) -> None:
        answer["photos"]["page"] = 7

    served.plan = listed({"people.getPublicPhotos 1": (Fault(edit=another), None)})
    source = FlickrSource(ALIAS, api_url=served.api_url, api_rate=1000)
    [told] = list_source(archive, source, 500)
    assert "part" not in told and told["note"].startswith("asked for page 1, Flickr sent page 7")
    assert len(held(archive)) == len(STREAM.photos)
