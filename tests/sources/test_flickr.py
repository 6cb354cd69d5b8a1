"""FlickrSource, through the real flickrapi, against the demo's server."""

import pickle
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
import requests

from pipeline.demo.server import KEY, SECRET, Served, serve
from pipeline.demo.stream import NSID, Stream, demo_stream
from pipeline.photo import Photo, UserError
from pipeline.sources import Listing, Source
from pipeline.sources.flickr import FlickrSource

STREAM = demo_stream(1100)  # three pages


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(STREAM) as served:
        yield served


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)


def source(served: Served, user: str = "tintype_demo", **settings: Any) -> FlickrSource:
    return FlickrSource(user, api_url=served.api_url, api_rate=1000, **settings)


def listed(source: Source, known: Container[str] = ()) -> tuple[list[Photo], Listing]:
    photos = []
    pages = source.photos(known)
    while True:
        try:
            photos += next(pages)
        except StopIteration as end:
            return photos, end.value


def ids(stream: Stream = STREAM) -> list[str]:
    return [f"flickr:{photo.number}" for photo in stream.photos]


@pytest.mark.parametrize("user", ["tintype_demo", NSID, "https://www.flickr.com/photos/tintype_demo/"])
def test_a_stream_is_listed_newest_first_and_whole(served: Served, user: str) -> None:
    photos, listing = listed(source(served, user))
    assert [photo.photo_id for photo in photos] == ids()
    assert listing == Listing(complete=True, total=1100, seen=1100, note=None)


def test_photos_are_told_as_they_were_uploaded(served: Served) -> None:
    photos, _ = listed(source(served))
    for photo, uploaded in zip(photos, STREAM.photos, strict=True):
        assert photo.title == (uploaded.title or None)
        assert photo.description == uploaded.description
        assert photo.tags == uploaded.tags + uploaded.machine_tags
        assert photo.machine_tags == uploaded.machine_tags
        assert photo.rights.license_id == uploaded.license
        assert photo.media == ("video" if uploaded.is_video else "photo")
        assert photo.uploaded_at and photo.uploaded_at.timestamp() == uploaded.uploaded
        assert (photo.latitude, photo.longitude) == (uploaded.place or (None, None))
        assert photo.owner == "Tintype Demo Archive"
        assert photo.page_url == f"https://www.flickr.com/photos/tintype_demo/{uploaded.number}/"
        assert photo.source == "flickr:tintype_demo"
        assert [size.width for size in photo.sizes] == sorted(size.width or 0 for size in photo.sizes)


def test_an_album_is_listed_in_its_order(served: Served) -> None:
    album = source(served, album=str(STREAM.album.number))
    photos, listing = listed(album)
    assert album.name == f"flickr:tintype_demo/{STREAM.album.number}"
    assert [photo.photo_id for photo in photos] == [f"flickr:{number}" for number in STREAM.album.photos]
    assert listing.complete
    assert {photo.owner_id for photo in photos} == {NSID}
    assert {photo.owner for photo in photos} == {"Tintype Demo Archive"}


def test_a_limit_tries_a_stream_and_a_larger_one_goes_on(served: Served) -> None:
    first, listing = listed(source(served, limit=20))
    assert [photo.photo_id for photo in first] == ids()[:20]
    assert listing == Listing(complete=True, total=1100, seen=20, note="stopped at the limit of 20", limited=True)
    known = {photo.photo_id for photo in first}
    again, _ = listed(source(served, limit=20), known)
    more, _ = listed(source(served, limit=520), known)
    assert again == []
    assert [photo.photo_id for photo in more] == ids()[20:520]


def test_known_photos_are_not_listed_again(served: Served) -> None:
    missing = ids()[700:702]  # as when a listing was cut short
    photos, listing = listed(source(served), set(ids()) - set(missing))
    assert [photo.photo_id for photo in photos] == missing
    assert listing.seen == 1100


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"user": "nobody_here"}, "nobody_here"),
        ({"user": "99999999@N00"}, "99999999@N00"),
        ({"user": "tintype_demo", "album": "721"}, "album '721'"),
    ],
)
def test_who_is_unknown_is_named_and_nothing_is_listed(served: Served, settings: dict[str, str], named: str) -> None:
    for attempt in (FlickrSource.check, listed):
        with pytest.raises(UserError, match=f"not found.*{named}") as refusal:
            attempt(source(served, **settings))
        assert "\n" not in str(refusal.value)


def test_a_source_in_order_passes_its_check(served: Served) -> None:
    source(served).check()
    source(served, album=str(STREAM.album.number)).check()


@pytest.mark.parametrize("name", ["FLICKR_API_KEY", "FLICKR_API_SECRET"])
def test_without_a_key_nothing_is_asked(served: Served, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    before = len(served.log)
    with pytest.raises(UserError, match=f"{name} is not set"):
        source(served).check()
    assert len(served.log) == before


def test_a_wrong_key_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", "wrong")
    with pytest.raises(UserError, match=r"refuses the key.*check FLICKR_API_KEY"):
        source(served).check()


def number_of(trouble: str | None) -> str:
    return next(f"flickr:{photo.number}" for photo in STREAM.photos if photo.trouble == trouble)


def test_sizes_of_a_photo_are_asked_for_again(served: Served) -> None:
    photos, _ = listed(source(served, limit=30))
    plain = next(photo for photo in photos if photo.photo_id == number_of(None))
    assert source(served).sizes(plain.photo_id) == list(plain.sizes)


@pytest.mark.parametrize("trouble", ["gone_404", "gone_410"])
def test_a_photo_that_is_gone_has_no_sizes_at_all(served: Served, trouble: str) -> None:
    assert source(served).sizes(number_of(trouble)) is None
    assert source(served).sizes("flickr:12345") is None


@pytest.mark.parametrize("trouble", ["no_size", "video_without_still"])
def test_a_photo_of_which_nothing_is_offered_has_an_empty_list(served: Served, trouble: str) -> None:
    assert source(served).sizes(number_of(trouble)) == []


def test_new_addresses_of_a_photo_are_found(served: Served) -> None:
    photos, _ = listed(source(served))
    moved = next(photo for photo in photos if photo.photo_id == number_of("new_secret"))
    sizes = source(served).sizes(moved.photo_id)
    assert sizes and len(sizes) == len(moved.sizes)
    assert requests.get(moved.sizes[0].url, timeout=10).status_code == 404
    assert requests.get(sizes[0].url, timeout=10).status_code == 200


def test_the_key_does_not_travel_with_the_source(served: Served) -> None:
    used = source(served, contact="mailto:us@example.org")
    used.check()
    letter = pickle.dumps(used)
    assert KEY.encode() not in letter
    arrived = pickle.loads(letter)
    assert arrived == used
    arrived.check()


def test_settings_are_validated_as_configuration() -> None:
    adapter = pydantic.TypeAdapter(FlickrSource)
    given = {"kind": "flickr", "user": "library_of_congress", "limit": None}
    assert adapter.validate_python(given) == FlickrSource("library_of_congress")
    with pytest.raises(pydantic.ValidationError, match="usr"):
        adapter.validate_python({"user": "x", "usr": "y"})
    documented = adapter.json_schema()["properties"]
    assert all(field.get("description") for field in documented.values())


def test_no_file_is_left_in_the_home_folder(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    source(served).check()
    assert list(tmp_path.iterdir()) == []
