"""All the ways to name photos on Flickr, through the real flickrapi, against the demo's server."""

from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydantic
import pytest

from pipeline.archive import Archive
from pipeline.demo.server import KEY, SECRET, Served, serve
from pipeline.demo.stream import ALIAS, NSID, DemoPhoto, demo_stream
from pipeline.photo import Photo, UserError
from pipeline.sources import Listing
from pipeline.sources.flickr import OVERLAP, FlickrSource, Search
from pipeline.stages.list import last_listing, list_source

STREAM = demo_stream(1100)
LARGE = demo_stream(4300)  # more than a search shows
HOME = f"https://www.flickr.com/photos/{ALIAS}"
PLAIN = next(photo for photo in STREAM.photos if photo.trouble is None and photo.place)
GONE = [photo for photo in STREAM.photos if photo.trouble in ("gone_404", "gone_410")]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(STREAM) as served:
        yield served


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)


def source(served: Served, **settings: Any) -> FlickrSource:
    return FlickrSource(api_url=served.api_url, api_rate=1000, **settings)


def listed(
    source: FlickrSource, known: Container[str] = (), newest: datetime | None = None
) -> tuple[list[Photo], Listing]:
    photos = []
    pages = source.photos(known, newest)
    while True:
        try:
            photos += next(pages)
        except StopIteration as end:
            return photos, end.value


def ids(photos: list[Photo]) -> list[int]:
    return [int(photo.photo_id.removeprefix("flickr:")) for photo in photos]


def numbers(meets: Callable[[DemoPhoto], bool]) -> list[int]:
    """Of the stream's photos that are meant, in the order of their upload."""
    return [photo.number for photo in STREAM.photos if meets(photo)][::-1]


def methods(served: Served, since: int) -> list[str]:
    return [request.parameters["method"].removeprefix("flickr.") for request in served.log[since:]]


# ---- by address


def addresses() -> dict[str, tuple[str, list[int]]]:
    """Address → how the archive calls it, and its photos in order."""
    gallery, group, album = STREAM.gallery, STREAM.group, STREAM.album
    posters = numbers(lambda photo: "poster" in photo.tags)
    free = numbers(lambda photo: photo.license == "9" and "windmill" in photo.description)
    return {
        f"{HOME}/": (f"flickr:{ALIAS}", [photo.number for photo in STREAM.photos]),
        f"flickr.com/people/{NSID}": (f"flickr:{NSID}", [photo.number for photo in STREAM.photos]),
        f"{HOME}/albums/{album.number}/with/5/": (f"flickr:{ALIAS}/{album.number}", list(album.photos)),
        f"{HOME}/galleries/{gallery.number}/": (f"flickr:galleries/{gallery.number}", list(gallery.photos)),
        f"https://www.flickr.com/groups/{group.alias}/pool/": (f"flickr:groups/{group.alias}", list(group.photos)),
        f"https://www.flickr.com/groups/{group.nsid}/": (f"flickr:groups/{group.nsid}", list(group.photos)),
        f"{HOME}/tags/poster/page2": (f"flickr:search?tags=poster&user_id={ALIAS}", posters),
        "https://www.flickr.com/photos/tags/poster/": ("flickr:search?tags=poster", posters),
        "https://www.flickr.com/search/?text=windmill&license=9": ("flickr:search?license=9&text=windmill", free),
        f"{HOME}/{PLAIN.number}/in/photostream/": (f"flickr:photos/{PLAIN.number}", [PLAIN.number]),
        f"https://live.staticflickr.com/1/{PLAIN.number}_ab12_b.jpg": (f"flickr:photos/{PLAIN.number}", [PLAIN.number]),
    }


@pytest.mark.parametrize("url", addresses())
def test_what_an_address_shows_is_listed_whole_and_in_order(served: Served, url: str) -> None:
    name, expected = addresses()[url]
    asked = source(served, url=url)
    asked.check()
    photos, listing = listed(asked)
    assert asked.name == name
    assert ids(photos) == expected
    assert listing == Listing(complete=True, total=len(expected), seen=len(expected), note=None)
    assert {photo.source for photo in photos} == {name}
    assert {photo.owner for photo in photos} == {"Tintype Demo Archive"}
    assert all(photo.page_url and photo.page_url.startswith(f"{HOME}/") for photo in photos)
    again, _ = listed(asked, known={photo.photo_id for photo in photos[1:]})
    assert again == [replace(photos[0], rights=again[0].rights)]


def test_a_photo_by_itself_is_the_one_that_its_stream_lists(served: Served) -> None:
    stream = {photo.photo_id: photo for photo in listed(source(served, user=ALIAS))[0]}
    troubled = {photo.trouble: photo for photo in STREAM.photos}
    for photo in (PLAIN, troubled["video_with_still"], troubled["no_size"], troubled["html"]):
        [alone], _ = listed(source(served, url=f"{HOME}/{photo.number}"))
        told = stream[alone.photo_id]
        assert replace(alone, raw=None, source=told.source, rights=told.rights) == replace(told, raw=None)
        assert replace(alone.rights, observed_at=told.rights.observed_at) == told.rights


def test_of_a_known_photo_nothing_is_asked(served: Served) -> None:
    before = len(served.log)
    photos, listing = listed(source(served, url=f"{HOME}/{PLAIN.number}"), known={f"flickr:{PLAIN.number}"})
    assert (photos, listing) == ([], Listing(complete=True, total=1, seen=1, note=None))
    assert len(served.log) == before


@pytest.mark.parametrize(
    "url",
    [
        f"{HOME}/{GONE[0].number}/",
        f"{HOME}/12345",
        f"{HOME}/galleries/12345/",
        "https://www.flickr.com/photos/nobody_here/",
        "https://www.flickr.com/groups/nobody_here/",
        "https://www.flickr.com/groups/99999999@N00/pool/",
        f"{HOME}/albums/12345/",
        "https://www.flickr.com/search/?user_id=99999999@N00",
    ],
)
def test_an_address_that_leads_nowhere_is_named(served: Served, url: str) -> None:
    for attempt in (FlickrSource.check, listed):
        with pytest.raises(UserError, match=f"check the source's url '{url[:30]}") as refusal:
            attempt(source(served, url=url))
        assert "\n" not in str(refusal.value)


def test_a_limit_holds_for_every_kind(served: Served) -> None:
    for url, (_, expected) in addresses().items():
        photos, listing = listed(source(served, url=url, limit=3))
        assert ids(photos) == expected[:3]
        assert listing.complete
        assert listing.note == ("stopped at the limit of 3" if len(expected) >= 3 else None)


# ---- searches


def test_a_search_by_everything_there_is(served: Served) -> None:
    search = Search(
        text="drawn by code",
        tags=("poster", "sepiaprint", "nothing"),
        user=ALIAS,
        group=STREAM.group.alias,
        licenses=(7, 4),
        media="photos",
        min_upload_date="2009-06-01",
        max_upload_date="2019-12-31",
        min_taken_date="1870-01-01",
        max_taken_date="1930-12-31",
    )

    def meets(photo: DemoPhoto) -> bool:
        uploaded = datetime.fromtimestamp(photo.uploaded, UTC)
        return (
            bool({"poster", "sepiaprint"} & set(photo.tags))
            and photo.number in STREAM.group.photos
            and photo.license in ("7", "4")
            and not photo.is_video
            and datetime(2009, 6, 1, tzinfo=UTC) <= uploaded < datetime(2020, 1, 1, tzinfo=UTC)
            and "1870" <= photo.taken < "1931"
        )

    photos, listing = listed(source(served, search=search))
    assert 0 < len(photos) < len(STREAM.group.photos)
    assert ids(photos) == numbers(meets)
    assert listing.complete and listing.note is None
    both = Search(tags=("atsea", "poster"), tag_mode="all")
    assert ids(listed(source(served, search=both))[0]) == numbers(lambda photo: {"atsea", "poster"} <= set(photo.tags))
    commons = Search(is_commons=True)
    assert ids(listed(source(served, search=commons))[0]) == numbers(lambda photo: photo.license == "7")


def test_a_search_that_finds_more_than_flickr_shows_is_listed_whole() -> None:
    with serve(LARGE) as served:
        asked = source(served, search=Search(user=ALIAS))
        photos, listing = listed(asked)
        calls = [request.parameters for request in served.log if "photos.search" in request.parameters["method"]]
        limited, at_limit = listed(replace(asked, limit=4100))
    assert ids(photos) == [photo.number for photo in LARGE.photos][::-1]
    assert listing == Listing(complete=True, total=4300, seen=4300, note=None)
    assert len(calls) < 30
    assert len({call["max_upload_date"] for call in calls if call["min_upload_date"] == "1"}) > 1
    assert ids(limited) == ids(photos)[:4100]
    assert at_limit == Listing(complete=True, total=4300, seen=4100, note="stopped at the limit of 4100", limited=True)


def test_a_search_that_fits_is_asked_as_one(served: Served) -> None:
    before = len(served.log)
    listed(source(served, search=Search(text="windmill")))
    calls = [request.parameters for request in served.log[before:]]
    assert {(call["min_upload_date"], call["sort"]) for call in calls} == {("1", "date-posted-asc")}
    assert len(calls) == 1


# ---- lists


@pytest.fixture
def lines(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "photos.txt"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_a_list_of_addresses_of_all_kinds(served: Served, lines: Callable[[str], str]) -> None:
    other = STREAM.photos[7]
    path = lines(
        f"\ufeff# what we want\n\n{HOME}/{PLAIN.number}/in/photostream/\n{other.number}   # a bare number\n"
        f"flickr:{STREAM.photos[8].number}\r\n  {HOME}/galleries/{STREAM.gallery.number}/#photo_1\n{PLAIN.number}\n"
        f"https://www.flickr.com/groups/{STREAM.group.alias}/\n{HOME}/albums/{STREAM.album.number}\n"
    )
    asked = source(served, list=path)
    asked.check()
    photos, listing = listed(asked)
    singles = [PLAIN.number, other.number, STREAM.photos[8].number]
    expected = [*singles, *STREAM.gallery.photos, *STREAM.group.photos, *STREAM.album.photos]
    assert ids(photos) == list(dict.fromkeys(expected))
    assert asked.name == f"flickr:list:{path}"
    assert {photo.source for photo in photos} == {asked.name}
    assert listing == Listing(complete=True, total=None, seen=len(photos), note=None)
    limited, at_limit = listed(replace(asked, limit=10))
    assert ids(limited) == ids(photos)[:10]
    assert at_limit == Listing(complete=True, total=None, seen=10, note="stopped at the limit of 10", limited=True)


def test_of_photos_known_only_the_new_ones_are_asked_for(served: Served, lines: Callable[[str], str]) -> None:
    wanted = [photo.number for photo in STREAM.photos if photo.trouble is None][:30]
    asked = source(served, list=lines("\n".join(map(str, wanted))))
    before = len(served.log)
    photos, listing = listed(asked, known={f"flickr:{number}" for number in wanted[:28]})
    assert ids(photos) == wanted[28:]
    assert listing.seen == 30
    assert methods(served, before) == ["photos.getInfo", "photos.getSizes"] * 2


def test_addresses_that_lead_nowhere_are_told_and_the_others_listed(
    served: Served, lines: Callable[[str], str]
) -> None:
    dead = [f"{HOME}/{GONE[0].number}", str(GONE[1].number), f"{HOME}/albums/12345", "flickr.com/photos/nobody_here/"]
    asked = source(
        served, list=lines("\n".join([*dead[:2], str(PLAIN.number), *dead[2:], str(STREAM.photos[0].number)]))
    )
    asked.check()
    photos, listing = listed(asked)
    assert ids(photos) == [PLAIN.number, STREAM.photos[0].number]
    assert listing.complete
    assert listing.note == f"4 of 6 addresses lead nowhere: {', '.join(dead[:3])}, …"


def test_a_refused_key_is_no_address_that_leads_nowhere(
    served: Served, lines: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", "wrong")
    asked = source(served, list=lines(f"{PLAIN.number}\n"))
    for attempt in (FlickrSource.check, listed):
        with pytest.raises(UserError, match="refuses the key"):
            attempt(asked)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{HOME}/1\n\n# x\nhttps://www.flickr.com/explore\n", r"photos.txt, line 4: .*explore' leads to no photos"),
        ("library_of_congress\n", r"photos.txt, line 1: .*no address on flickr.com"),
        ("flickr:12a\n", r"photos.txt, line 1: "),
        ("# nothing yet\n\n", r"photos.txt names no photos"),
    ],
)
def test_a_line_that_is_wrong_is_named(served: Served, lines: Callable[[str], str], text: str, told: str) -> None:
    asked = source(served, list=lines(text))
    before = len(served.log)
    for attempt in (FlickrSource.check, listed):
        with pytest.raises(UserError, match=told) as refusal:
            attempt(asked)
        assert "\n" not in str(refusal.value)
    assert len(served.log) == before


def test_a_list_that_cannot_be_read(served: Served, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the list .*missing\.txt: No such file"):
        source(served, list=str(tmp_path / "missing.txt")).check()
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read the list"):
        source(served, list=str(tmp_path / "binary.txt")).check()


# ---- quickly again


def uploaded(photo: DemoPhoto) -> datetime:
    return datetime.fromtimestamp(photo.uploaded, UTC)


def test_what_is_new_in_a_stream_is_found_without_reading_it_all(served: Served) -> None:
    newest = uploaded(STREAM.photos[3])
    known = {f"flickr:{photo.number}" for photo in STREAM.photos[3:]}
    before = len(served.log)
    photos, listing = listed(source(served, user=NSID), known, newest)
    assert ids(photos) == [photo.number for photo in STREAM.photos[:3]]
    note = "nothing new on page 2, and no need to look further"
    assert listing == Listing(complete=True, total=1100, seen=1000, note=note)
    assert len(served.log) - before == 2
    nothing, listing = listed(
        source(served, user=NSID), known | {f"flickr:{n.number}" for n in STREAM.photos[:3]}, newest
    )
    assert (nothing, listing.seen, listing.complete) == ([], 500, True)


def test_a_stream_is_read_on_while_it_brings_news_or_reaches_back_no_further(served: Served) -> None:
    known = {f"flickr:{photo.number}" for photo in STREAM.photos}
    held_back = f"flickr:{STREAM.photos[700].number}"  # made public only now
    photos, listing = listed(source(served, user=NSID), known - {held_back}, uploaded(STREAM.photos[600]))
    assert (ids(photos), listing.seen) == ([STREAM.photos[700].number], 1100)
    last_of_page = uploaded(STREAM.photos[499])
    assert listed(source(served, user=NSID), known, last_of_page + OVERLAP)[1].seen == 1000
    assert listed(source(served, user=NSID), known, last_of_page + OVERLAP + timedelta(seconds=1))[1].seen == 500


def test_only_streams_are_read_quickly_and_only_when_told_to(served: Served) -> None:
    known = {f"flickr:{photo.number}" for photo in STREAM.photos}
    newest = uploaded(STREAM.photos[0])
    assert listed(source(served, user=NSID), known)[1].seen == 1100
    for url, (name, expected) in addresses().items():
        if "search" in name or "groups" in name:
            assert listed(source(served, url=url), known, newest)[1].seen == len(expected)


# ---- gone


def test_a_photo_is_gone_where_flickr_does_not_show_it(served: Served) -> None:
    asked = source(served, user=ALIAS)
    assert [asked.is_gone(f"flickr:{photo.number}") for photo in (PLAIN, *GONE)] == [False] + [True] * len(GONE)
    assert asked.is_gone("flickr:12345")


def test_a_refused_key_loses_no_photo(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", "wrong")
    with pytest.raises(UserError, match="refuses the key"):
        source(served, user=ALIAS).is_gone(f"flickr:{PLAIN.number}")


@pytest.mark.parametrize(
    ("on_gone", "forgotten"),
    [
        (None, {"0", "1", "4", "6", "11", "42", None}),
        ("forget", {"0", "1", "4", "6", "7", "8", "9", "10", "11", "42", None}),
        ("keep", set()),
    ],
)
def test_what_is_gone_is_forgotten_as_its_licence_has_it(on_gone: Any, forgotten: set[str | None]) -> None:
    asked = FlickrSource("x", on_gone=on_gone)
    licences = ("0", "1", "4", "6", "7", "8", "9", "10", "11", "42", None)
    assert {licence for licence in licences if asked.forgets(licence)} == forgotten


# ---- settings


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "give one of user, url, search or list, not none"),
        ({"user": "x", "url": HOME}, "not user and url"),
        ({"search": {"text": "x"}, "list": "a.txt"}, "not search and list"),
        ({"url": HOME, "album": "1"}, "album goes with user"),
        ({"search": {}}, "must ask for something"),
        ({"search": {"txt": "x"}}, "txt"),
        ({"user": "x", "on_gone": "burn"}, "on_gone"),
    ],
)
def test_photos_are_named_in_one_way(given: dict[str, Any], told: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=told):
        pydantic.TypeAdapter(FlickrSource).validate_python({"kind": "flickr", **given})


def test_an_address_may_be_named_by_user_or_by_url() -> None:
    assert FlickrSource(url=f"{HOME}/").name == FlickrSource(ALIAS).name
    assert FlickrSource(url=f"{HOME}/sets/12").name == FlickrSource(ALIAS, album="12").name


def test_a_photo_that_many_sources_name_is_in_an_archive_once(
    served: Served, lines: Callable[[str], str], tmp_path: Path
) -> None:
    archive = Archive.create(str(tmp_path / "archive"))
    group = source(served, url=f"https://www.flickr.com/groups/{STREAM.group.alias}/")
    some = source(served, list=lines("\n".join(map(str, [*STREAM.group.photos[:3], GONE[0].number, PLAIN.number]))))
    sources = [group, some, source(served, search=Search(text="drawn")), source(served, user=ALIAS)]
    for _ in range(2):
        receipts = [receipt for one in sources for receipt in list_source(archive, one, 500)]
        if not receipts:
            break
    assert not receipts  # the second time there is nothing new
    photos = archive.table("photos")
    found = [
        photo_id for part in photos.parts() for photo_id in photos.read(part, ["photo_id"])["photo_id"].to_pylist()
    ]
    assert sorted(found) == sorted(f"flickr:{photo.number}" for photo in STREAM.photos)
    for one in sources:
        told = last_listing(archive, one.name)
        assert told and told["complete"]
        assert told["note"] == (f"1 of 5 addresses lead nowhere: {GONE[0].number}" if one is some else None)
