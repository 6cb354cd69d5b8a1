import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from pipeline.photo import Photo, Size
from pipeline.sources.flickr.parse import (
    Page,
    is_public,
    parse_photo,
    read_group_id,
    read_info,
    read_page,
    read_renditions,
    read_sizes,
    read_user_id,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TEXTS = ("title", "description", "tags", "machine_tags", "date_taken", "owner", "owner_id", "page_url", "raw")
STREAM = Page([], 1, 1, 1, None, None)

ROW: dict[str, Any] = {
    "id": "2179931434",
    "owner": "8623220@N02",
    "secret": "ab12",
    "server": "2388",
    "farm": 3,
    "title": "Sylvia Sweets Tea Room, corner of School and Main streets (LOC)",
    "license": "7",
    "description": {"_content": "<b>Call Number:</b> LC-USF35-38"},
    "dateupload": "1199934612",
    "lastupdate": "1700000000",
    "datetaken": "1940-01-01 00:00:00",
    "datetakengranularity": "8",
    "datetakenunknown": "0",
    "ownername": "The Library of Congress",
    "tags": "tea room libraryofcongress",
    "machine_tags": "dc:identifier=http://hdl.loc.gov/loc.pnp/fsac.1a34324",
    "latitude": 0,
    "longitude": 0,
    "accuracy": 0,
    "media": "photo",
    "pathalias": "library_of_congress",
    "url_sq": "https://live.staticflickr.com/2388/2179931434_ab12_s.jpg",
    "width_sq": 75,
    "height_sq": 75,
    "url_l": "https://live.staticflickr.com/2388/2179931434_ab12_b.jpg",
    "width_l": "1024",
    "height_l": "683",
    "url_m": "https://live.staticflickr.com/2388/2179931434_ab12.jpg",
    "width_m": 500,
    "height_m": 334,
}


def parse(page: Page = STREAM, **changes: Any) -> Photo:
    row = {name: value for name, value in (ROW | changes).items() if value != "(absent)"}
    return parse_photo(row, page, source="flickr:library_of_congress", observed_at=NOW)


def test_a_photo_as_flickr_tells_it() -> None:
    photo = parse()
    assert photo.photo_id == "flickr:2179931434"
    assert photo.title == "Sylvia Sweets Tea Room, corner of School and Main streets (LOC)"
    assert photo.description == "<b>Call Number:</b> LC-USF35-38"
    assert photo.tags == ("tea", "room", "libraryofcongress")
    assert photo.machine_tags == ("dc:identifier=http://hdl.loc.gov/loc.pnp/fsac.1a34324",)
    assert photo.uploaded_at == datetime(2008, 1, 10, 3, 10, 12, tzinfo=UTC)
    assert photo.updated_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (photo.owner, photo.owner_id) == ("The Library of Congress", "8623220@N02")
    assert photo.page_url == "https://www.flickr.com/photos/library_of_congress/2179931434/"
    assert photo.media == "photo"
    assert photo.rights.license_id == "7"
    assert photo.rights.license_name == "No known copyright restrictions"
    assert photo.rights.license_url == "https://www.flickr.com/commons/usage/"
    assert photo.rights.observed_at == NOW
    assert json.loads(photo.raw or "") == ROW


def test_sizes_are_the_uncropped_ones_by_area() -> None:
    assert parse().sizes == (
        Size("https://live.staticflickr.com/2388/2179931434_ab12.jpg", 500, 334),
        Size("https://live.staticflickr.com/2388/2179931434_ab12_b.jpg", 1024, 683),
    )


def test_a_size_without_numbers_is_kept_and_one_without_address_is_not() -> None:
    sizes = parse(width_l=None, height_l="x", url_m=None).sizes
    assert sizes == (Size("https://live.staticflickr.com/2388/2179931434_ab12_b.jpg", None, None),)


@pytest.mark.parametrize(
    ("taken", "granularity", "expected"),
    [
        ("1940-06-03 14:05:06", "0", ("1940-06-03 14:05:06", "second")),
        ("1940-06-03 14:05:06", 0, ("1940-06-03 14:05:06", "second")),
        ("1940-06-03 14:05:06", None, ("1940-06-03 14:05:06", "second")),
        ("1940-06-01 00:00:00", 4, ("1940-06", "month")),
        ("1940-01-01 00:00:00", "6", ("1940", "year")),
        ("1940-01-01 00:00:00", 8, ("1940", "circa")),
        ("1940-01-01 00:00:00", "77", ("1940", "circa")),
        ("1940-00-00 00:00:00", 0, ("1940", "year")),
        ("0000-01-01 00:00:00", 8, (None, None)),
        ("0000-00-00 00:00:00", 0, (None, None)),
        ("sometime", 0, (None, None)),
        (None, 0, (None, None)),
        (1940, 6, (None, None)),
    ],
)
def test_the_date_taken_is_cut_to_what_is_known(taken: Any, granularity: Any, expected: tuple[str, str]) -> None:
    photo = parse(datetaken=taken, datetakengranularity=granularity)
    assert (photo.date_taken, photo.date_granularity) == expected


@pytest.mark.parametrize("unknown", ["1", 1])
def test_a_date_that_flickr_filled_in_is_none(unknown: Any) -> None:
    assert parse(datetakenunknown=unknown).date_taken is None


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((45.8, "15.9", "11"), (45.8, 15.9)),
        ((0, 0, 16), (0.0, 0.0)),  # somebody did photograph the Gulf of Guinea
        (("0", "0", "0"), (None, None)),
        ((0, 0, None), (None, None)),
        ((None, 15.9, 11), (None, None)),
        ((91, 15.9, 11), (None, None)),
        (("nan", 15.9, 11), (None, None)),
    ],
)
def test_a_place_is_a_place(place: tuple[Any, Any, Any], expected: tuple[float, float]) -> None:
    photo = parse(latitude=place[0], longitude=place[1], accuracy=place[2])
    assert (photo.latitude, photo.longitude) == expected


@pytest.mark.parametrize("licence", ["42", 42])
def test_an_unknown_licence_is_kept_as_its_number(licence: Any) -> None:
    rights = parse(license=licence).rights
    assert (rights.license_id, rights.license_name, rights.license_url) == ("42", None, None)


def test_licences_come_as_strings_or_numbers() -> None:
    assert parse(license=4).rights == parse(license="4").rights
    assert parse(license=0).rights.license_name == "All Rights Reserved"
    assert parse(license="(absent)").rights.license_id is None


def test_an_album_lends_its_owner_to_its_rows() -> None:
    album = Page([], 1, 1, 1, "8623220@N02", "The Library of Congress")
    photo = parse(album, owner="(absent)", ownername="(absent)", pathalias=None)
    assert (photo.owner, photo.owner_id) == ("The Library of Congress", "8623220@N02")
    assert photo.page_url == "https://www.flickr.com/photos/8623220@N02/2179931434/"


ODD_VALUES = (None, "", 7, -1, 10**30, 1.5, True, [], {}, ["x"], {"_content": None}, "(absent)", "\ud800")


@pytest.mark.parametrize("name", [name for name in ROW if name != "id"])
def test_no_value_of_any_field_costs_the_photo(name: str) -> None:
    for value in ODD_VALUES:
        photo = parse(**{name: value})
        assert photo.photo_id == "flickr:2179931434"
        pa.Table.from_pylist([{field: getattr(photo, field) for field in TEXTS}]).validate(full=True)
        assert all(0 < side < 2**31 for size in photo.sizes for side in (size.width, size.height) if side is not None)


@pytest.mark.parametrize(
    "answer",
    [{}, {"photos": None}, {"photos": {"page": 1, "pages": 1}}, {"photos": {"photo": [], "page": 1}}, {"photos": []}],
)
def test_an_answer_without_photos_is_no_empty_page(answer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no "):
        read_page(answer)


def test_an_answer_without_a_user_or_sizes_is_none() -> None:
    for answer in ({}, {"user": {}}, {"user": None}):
        with pytest.raises(ValueError, match="no user id"):
            read_user_id(answer)
    for answer in ({}, {"sizes": {}}, {"sizes": {"size": None}}):
        with pytest.raises(ValueError, match="no list of sizes"):
            read_sizes(answer)


def test_getsizes_gives_uncropped_pictures_only() -> None:
    offers = [
        {"label": "Square", "width": 75, "height": 75, "source": "https://a/s.jpg", "media": "photo"},
        {"label": "Large", "width": "1024", "height": "683", "source": "https://a/b.jpg", "media": "photo"},
        {"label": "Medium", "width": 500, "height": 334, "source": "https://a/m.jpg", "media": "photo"},
        {"label": "Site MP4", "width": 640, "height": 480, "source": "https://a/v", "media": "video"},
        None,
    ]
    sizes = read_sizes({"sizes": {"size": offers}})
    assert sizes == [Size("https://a/m.jpg", 500, 334), Size("https://a/b.jpg", 1024, 683)]


# ---- a photo by itself


INFO: dict[str, Any] = {
    "id": "2179931434",
    "license": "7",
    "owner": {"nsid": "8623220@N02", "username": "The Library of Congress", "path_alias": "library_of_congress"},
    "title": {"_content": ROW["title"]},
    "description": ROW["description"],
    "visibility": {"ispublic": 1, "isfriend": 0, "isfamily": 0},
    "dates": {
        "posted": "1199934612",
        "taken": "1940-01-01 00:00:00",
        "takengranularity": 8,
        "takenunknown": 0,
        "lastupdate": "1700000000",
    },
    "tags": {
        "tag": [
            {"raw": "tea", "_content": "tea", "machine_tag": 0},
            {"raw": "room", "_content": "room", "machine_tag": False},
            {"raw": "Library of Congress", "_content": "libraryofcongress", "machine_tag": "0"},
        ]
    },
    "media": "photo",
}


def parse_info(**changes: Any) -> Photo:
    info = {name: value for name, value in (INFO | changes).items() if value != "(absent)"}
    return parse_photo(read_info({"photo": info}), STREAM, source="flickr:library_of_congress", observed_at=NOW)


def test_a_photo_by_itself_is_the_one_of_the_list() -> None:
    listed = parse(**{name: "(absent)" for name in ROW if name.startswith("url_") or name == "machine_tags"})
    assert replace(parse_info(), raw=None) == replace(listed, raw=None)


def test_machine_tags_are_tags_too_as_they_are_in_lists() -> None:
    tags = [{"_content": "tea"}, {"_content": "dc:identifier=1", "machine_tag": 1}, {"raw": "", "machine_tag": 0}, None]
    photo = parse_info(tags={"tag": tags})
    assert (photo.tags, photo.machine_tags) == (("tea", "dc:identifier=1"), ("dc:identifier=1",))


def test_the_place_of_a_photo_by_itself() -> None:
    photo = parse_info(location={"latitude": "45.8", "longitude": 15.9, "accuracy": "11", "country": {"_content": "x"}})
    assert (photo.latitude, photo.longitude) == (45.8, 15.9)


@pytest.mark.parametrize("name", [name for name in INFO if name != "id"])
def test_no_value_of_any_field_costs_the_photo_by_itself(name: str) -> None:
    inner = [{key: value} for key in ("_content", "tag", "nsid", "posted", "ispublic") for value in ODD_VALUES]
    for value in (*ODD_VALUES, *inner):
        assert parse_info(**{name: value}).photo_id == "flickr:2179931434"


@pytest.mark.parametrize(
    ("visibility", "public"),
    [
        *(({"ispublic": 1}, True), ({"ispublic": "1"}, True), ({}, True), (None, True)),
        *(({"ispublic": 0}, False), ({"ispublic": "0"}, False)),
    ],
)
def test_a_photo_is_public_unless_flickr_denies_it(visibility: Any, public: bool) -> None:
    assert is_public(read_info({"photo": INFO | {"visibility": visibility}})) is public


def test_an_answer_without_a_photo_or_group_is_none() -> None:
    for answer in ({}, {"photo": None}, {"photo": {"title": "x"}}, {"photo": []}):
        with pytest.raises(ValueError, match="no photo"):
            read_info(answer)
    assert read_group_id({"group": {"id": "33051635@N00", "groupname": {"_content": "Caffenol"}}}) == "33051635@N00"
    with pytest.raises(ValueError, match="no group id"):
        read_group_id({"group": {}})


def test_renditions_are_what_a_row_would_say_of_the_sizes() -> None:
    page = "https://www.flickr.com/photos/x/1/sizes"
    offers = [
        {"label": "Square", "width": 75, "height": 75, "source": "https://a/s.jpg", "url": f"{page}/sq/"},
        {"label": "X-Large 3K", "width": "3072", "height": "2048", "source": "https://a/3k.jpg", "url": f"{page}/3k/"},
        {"label": "Medium", "width": 500, "height": 334, "source": "https://a/m.jpg", "url": f"{page}/m"},
        {"label": "Site MP4", "source": "https://a/v", "media": "video", "url": "https://www.flickr.com/photos/x/1/"},
        {"label": "Odd", "source": "https://a/odd.jpg", "url": None},
    ]
    row = read_renditions({"sizes": {"size": offers}})
    assert row == {
        **{"url_3k": "https://a/3k.jpg", "width_3k": "3072", "height_3k": "2048"},
        **{"url_m": "https://a/m.jpg", "width_m": 500, "height_m": 334},
    }
