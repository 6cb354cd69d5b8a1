import re
from collections import Counter

import pytest

from pipeline.demo.scenes import COLOURS, MEDIA, OBJECTS, PLACES, shows_colour
from pipeline.demo.stream import ENDS, OF_EACH_PAIR, TROUBLES, DemoPhoto, demo_stream

STREAM = demo_stream()
PHOTOS = STREAM.photos


def words(photo: DemoPhoto) -> str:
    return re.sub(r"\W+", " ", photo.title).lower()


def names(photo: DemoPhoto, phrase: str) -> bool:
    return f" {phrase} " in f" {words(photo)} "


def test_the_stream_is_the_same_each_time() -> None:
    assert demo_stream() == STREAM


def test_the_stream_shows_everything_there_is() -> None:
    assert len(PHOTOS) == 720
    assert {photo.scene.medium for photo in PHOTOS} == set(MEDIA)
    assert {photo.scene.place for photo in PHOTOS} == set(PLACES)


def test_every_colour_is_seen_on_every_object_in_photos_without_trouble() -> None:
    seen = Counter(
        (thing.colour, thing.kind)
        for photo in PHOTOS
        for thing in photo.scene.things
        if shows_colour(photo.scene.medium) and photo.trouble is None
    )
    assert {(colour, kind) for colour in COLOURS for kind in OBJECTS} == set(seen)
    assert min(seen.values()) >= OF_EACH_PAIR


def test_the_drawn_seeds_belong_to_the_archive() -> None:
    assert all(0 <= photo.scene.seed < 100_000 for photo in PHOTOS)


def test_a_title_names_each_thing_with_the_colour_that_is_seen_and_no_other() -> None:
    colourless = [photo for photo in PHOTOS if not shows_colour(photo.scene.medium)]
    colourful = [photo for photo in PHOTOS if shows_colour(photo.scene.medium)]
    for photo in colourful:
        assert all(names(photo, f"{thing.colour} {thing.kind}") for thing in photo.scene.things), photo.title
    for photo in PHOTOS:
        told = {colour for colour in COLOURS if names(photo, colour)}
        shown = {thing.colour for thing in photo.scene.things} if shows_colour(photo.scene.medium) else set()
        assert told == shown, photo.title
    named = [photo for photo in colourless if all(names(photo, thing.kind) for thing in photo.scene.things)]
    assert len(colourless) - len(named) == 2  # one without a title, one in Spanish


def test_ids_and_uploads_are_newest_first() -> None:
    uploads = [(photo.number, photo.uploaded) for photo in PHOTOS]
    assert uploads == sorted(uploads, reverse=True)
    assert len({number for number, _ in uploads}) == len(PHOTOS)
    assert all(photo.updated > photo.uploaded for photo in PHOTOS)


def test_dates_go_back_to_the_1860s_with_all_granularities() -> None:
    assert {photo.granularity for photo in PHOTOS} == {0, 4, 6, 8}
    years = [int(photo.taken[:4]) for photo in PHOTOS if not photo.taken.startswith("0000")]
    assert 1860 <= min(years) < 1870
    assert max(years) < 1980
    assert [photo.granularity for photo in PHOTOS if photo.taken == "0000-01-01 00:00:00"] == [8]


def test_licences_are_several_and_mostly_the_commons() -> None:
    licences = Counter(photo.license for photo in PHOTOS)
    assert licences["7"] > len(PHOTOS) / 2
    assert licences["0"] == licences["42"] == 1
    assert len(licences) >= 6


def test_each_trouble_is_there_and_its_end_is_known() -> None:
    assert Counter(photo.trouble for photo in PHOTOS if photo.trouble) == Counter(TROUBLES)
    assert set(TROUBLES) == set(ENDS)


def test_some_pictures_were_uploaded_twice() -> None:
    scenes = Counter(photo.scene for photo in PHOTOS)
    twice = [scene for scene, uploads in scenes.items() if uploads == 2]
    assert len(twice) == 4
    for scene in twice:
        first, second = (photo for photo in PHOTOS if photo.scene == scene)
        assert (first.width, first.height) == (second.width, second.height)
        assert first.number != second.number


def test_some_originals_are_small() -> None:
    assert any(max(photo.width, photo.height) < 320 for photo in PHOTOS)


def test_the_album_holds_photos_of_the_stream() -> None:
    assert len(STREAM.album.photos) > 20
    assert set(STREAM.album.photos) < {photo.number for photo in PHOTOS}


def test_gallery_and_group_hold_photos_of_the_stream() -> None:
    for photos in (STREAM.gallery.photos, STREAM.group.photos):
        assert len(photos) > 20
        assert set(photos) < {photo.number for photo in PHOTOS}
    assert set(STREAM.gallery.photos) != set(STREAM.group.photos)


def test_nothing_was_uploaded_in_the_future_however_large_the_stream() -> None:
    assert demo_stream(5000).photos[0].uploaded < 1_767_225_600  # 2026-01-01


def test_a_small_stream_has_every_trouble_too() -> None:
    small = demo_stream(80)
    assert len(small.photos) == 80
    assert Counter(photo.trouble for photo in small.photos if photo.trouble) == Counter(TROUBLES)
    with pytest.raises(ValueError, match="too few"):
        demo_stream(30)
