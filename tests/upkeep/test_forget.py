"""A forgotten photo is at once in no answer, then in no byte of the archive, and never asked for again."""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import builds, cli, rollup, storage
from pipeline.archive import Archive
from pipeline.demo.server import KEY, SECRET, Served, serve
from pipeline.demo.stream import demo_stream
from pipeline.stages import index
from pipeline.status import status
from pipeline.upkeep import forget
from tests import photostream
from tests import small_archive as small
from tests.test_killed import drivers
from tests.upkeep.test_refresh import ids, pictures, plain

PHOTOS = 72


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(demo_stream(PHOTOS), tmp_path_factory.mktemp("drawn")) as served:
        yield served


def made(url: str) -> Archive:
    """Two parts of twenty photos each with vectors, captions and an index."""
    archive, _ = small.make(url, parts=2)
    index.build(archive, index.IndexSettings())
    return archive


def files(archive: Archive) -> Iterator[tuple[str, bytes]]:
    """Every file of an archive with its bytes, wherever it lies."""
    fs, path = storage.filesystem(archive.url)
    for name in fs.find(path):
        yield name, fs.cat_file(name)


def traces(archive: Archive, *words: bytes) -> list[str]:
    """Files that hold one of the words, compressed columns read as well."""
    found = [name for name, data in files(archive) if any(word in data for word in words)]
    for name in [*archive.tables(), "changes"]:
        table = archive.table(name)
        for part in table.parts():
            said = str(table.read(part).drop_columns(["photo_id"]).to_pylist()).encode()
            found += [f"{name} {part}" for word in words if word in said or str(word)[2:-1].encode() in said]
    return found


def test_a_forgotten_photo_is_in_no_byte(place: str) -> None:
    archive = made(place)
    small.change(archive, "flickr:0-3", "title", '"a better title of flickr:0-3"')
    index.build(archive, index.IndexSettings())
    picture = archive.table("images").read(0)["image"][3].as_py()["bytes"]
    words = (picture, b"title of flickr:0-3", b"caption of flickr:0-3", b"https://host/3.jpg")
    assert traces(archive, *words)
    rows = {name: [archive.table(name).read(part).to_pylist() for part in (0, 1)] for name in archive.tables()}
    written = {name: archive.table(name).receipt(0)["write_id"] for name in archive.tables()}

    assert forget.forget(archive, ["flickr:0-3"], "the owner asks") == []
    build = builds.open_build(place)
    assert 3 in build.news().hidden
    removed = forget.finish(archive)
    assert removed.rows == dict.fromkeys(archive.tables(), 1) and removed.rebuilt == ["tiny"] and removed.builds == 2

    assert traces(archive, *words) == []
    for name in archive.tables():
        after = [archive.table(name).read(part).to_pylist() for part in (0, 1)]
        assert after[1] == rows[name][1] and archive.table(name).receipt(0)["write_id"] == written[name]
        assert [row for row in after[0] if row["row_id"] != 3] == [row for row in rows[name][0] if row["row_id"] != 3]
        said = {column: value for column, value in after[0][3].items() if value is not None}
        marks = {"images": {"outcome": "gone", "detail": "forgotten"}, "photos": {}}
        assert said == {"row_id": 3, "photo_id": "flickr:0-3"} | marks.get(name, {"problem": "forgotten"})
    assert len(builds.open_build(place).row_ids(["flickr:0-3", "flickr:0-4"])) == 1
    assert status(archive)["photos"] == {"live": 39, "gone": 0, "failed": 0, "forgotten": 1}
    assert index.is_fresh(archive, builds.open_build(place).card)
    assert forget.finish(archive) == forget.Removed()  # nothing is left to do


def test_all_rows_of_a_photo_go_and_the_counts_stay_true(tmp_path: Path) -> None:
    """One that failed, was asked for again and then replaced has three rows."""
    archive = Archive.create(str(tmp_path / "archive"))
    again = [small.photo("flickr:1", attempt=attempt) for attempt in (1, 2, 3)]
    small.add_pictures(archive, 0, [again[0], small.photo("flickr:2"), small.photo("flickr:3")], {"flickr:1": "failed"})
    small.add_pictures(archive, 1, [again[1]])
    small.add_pictures(archive, 2, [again[2]])
    assert status(archive)["photos"] == {"live": 3, "gone": 0, "failed": 0, "forgotten": 0}
    forget.forget(archive, ["flickr:1"], "asked")
    assert status(archive)["photos"] == {"live": 2, "gone": 0, "failed": 0, "forgotten": 1}
    assert forget.finish(archive).rows == {"images": 3, "photos": 3}
    assert status(archive)["photos"] == {"live": 2, "gone": 0, "failed": 0, "forgotten": 1}
    for name in ("photos", "images"):  # the same when every receipt is read anew
        storage.delete(storage.join(archive.url, "reports", f"rollup-{name}.json"))
    assert status(archive)["photos"] == {"live": 2, "gone": 0, "failed": 0, "forgotten": 1}
    assert rollup.receipts(archive, archive.table("images"))[1]["forgotten"] == [0]


def test_when_the_last_photo_is_forgotten_the_index_goes(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path / "archive"), parts=1, rows=2)
    index.build(archive, index.IndexSettings())
    forget.forget(archive, ["flickr:0-0", "flickr:0-1"], "asked")
    assert forget.finish(archive).builds == 1
    assert storage.names(str(tmp_path / "archive/index/tiny")) == []


def test_it_is_never_asked_for_again(tmp_path: Path, served: Served, model: Path) -> None:
    """Neither by a run, nor by a refresh, nor where its picture had failed and might pass now."""
    settings = photostream.settings(str(tmp_path / "archive"), served.api_url, model, "local")
    photos = plain(served.stream)
    truncated = next(photo for photo in served.stream.photos if photo.trouble == "truncated")
    early, late = photos[:2], [photos[2], truncated]
    archive = Archive.create(settings.archive)
    forget.forget(archive, ids(early), "before it was ever listed")
    photostream.carry_out(settings)
    forget.forget(archive, ids(late), "asked")
    assert set(forget.finish(archive).rows) == {*archive.tables()}
    served.log.clear()
    for how in ({}, {"refresh": True}, {"retry_failed": True}):
        photostream.carry_out(settings, **how)
    unwanted = {str(photo.number) for photo in [*early, *late]}
    assert not unwanted & set(pictures(served))
    assert not [request for request in served.log if request.parameters.get("photo_id") in unwanted]
    held = {photo_id for name in archive.tables() for photo_id in live_ids(archive, name)}
    assert not held & set(ids([*early, *late])) and status(archive)["photos"]["forgotten"] == 4


def live_ids(archive: Archive, name: str) -> set[str]:
    """Ids of the rows of a table that say something."""
    table = archive.table(name)
    rows = [row for part in table.parts() for row in table.read(part).to_pylist()]
    return {row["photo_id"] for row in rows if "forgotten" not in row.values() and row.get("source", True)}


# ---- killed


def forget_all(url: str, photos: list[str]) -> None:
    archive = Archive.open(url)
    forget.forget(archive, photos, "asked")
    forget.finish(archive)


def test_killed_at_any_moment_it_ends_when_run_again(tmp_path: Path) -> None:
    dice = random.Random(5)
    photos = [f"flickr:{part}-{row}" for part in (0, 1) for row in (0, 7, 19)]
    words = [
        word for photo in photos for word in (f"title of {photo}".encode() + b"'", f"caption of {photo}'".encode())
    ]
    whole = made(str(tmp_path / "whole"))
    kills = 0
    for moment in range(12):
        shutil.copytree(whole.url, tmp_path / f"archive{moment}")
        archive = Archive.open(str(tmp_path / f"archive{moment}"))
        forgetter: Any = drivers.Process(target=forget_all, args=(archive.url, photos))
        forgetter.start()
        forgetter.join(dice.uniform(0, 0.3))
        if forgetter.is_alive():
            forgetter.kill()
            kills += 1
        forgetter.join()
        build = builds.open_build(archive.url)
        if archive.forgotten():  # from that moment on
            assert set(build.row_ids(photos).values()) <= build.news().hidden
        forget_all(archive.url, photos)
        for scratch in Path(archive.url).rglob(".scratch-*"):
            os.utime(scratch, (0, 0))
        forget_all(archive.url, photos)
        assert not list(Path(archive.url).rglob(".scratch-*"))
        assert not traces(archive, *words)
        assert status(archive)["photos"] == {"live": 34, "gone": 0, "failed": 0, "forgotten": 6}
    assert kills > 3


# ---- the command


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["forget", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_says_what_it_did_and_what_it_cannot_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = made(str(tmp_path / "archive"))
    (tmp_path / "archive/exports/wide").mkdir(parents=True)
    listed = tmp_path / "list.txt"
    listed.write_text("# two of them\nhttps://www.flickr.com/photos/somebody/999\n\nflickr:0-1\n")
    code, said, _ = command(capsys, archive.url, "flickr:0-0", "--from", str(listed), "--reason", "their owner asked")
    assert code == 0
    assert "3 photos forgotten" in said and "flickr:999 is not in the archive" in said
    assert "2 rows of images blanked" in said and "index tiny built anew" in said
    assert f"tintype export {archive.url} --to wide" in said and "backups" in said
    reasons = archive.table("forgotten").read(0)["reason"].to_pylist()
    assert reasons == ["their owner asked"] * 3
    assert command(capsys, archive.url)[1].endswith("nothing left of what was forgotten\n")


def test_all_photos_of_an_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = made(str(tmp_path / "archive"))
    code, said, _ = command(capsys, archive.url, "--owner", "Somebody", "--reason", "asked")
    assert code == 0 and "40 photos forgotten" in said
    assert command(capsys, archive.url, "--owner", "Nobody", "--reason", "asked")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["flickr:0-0"], "--reason"),
        (["the red boat", "--reason", "asked"], "names no photo"),
        (["--from", "/nowhere", "--reason", "asked"], "cannot read /nowhere"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    archive = made(str(tmp_path / "archive"))
    code, said, error = command(capsys, archive.url, *arguments)
    assert code == 2 and not said and told in error and error.count("\n") == 1
    assert not archive.forgotten()


def test_an_owner_who_goes_by_another_name_now(tmp_path: Path) -> None:
    """Photos listed under the old name and the new, and one of another account that had the name."""
    archive = Archive.create(str(tmp_path / "archive"))
    small.add_pictures(
        archive,
        0,
        [
            small.photo("flickr:old", owner="Anna", owner_id="1@N00"),
            small.photo("flickr:new", owner="Anna Baker", owner_id="1@N00"),
            small.photo("flickr:hers", owner="Berta", owner_id="2@N00"),
        ],
    )
    small.change(archive, "flickr:hers", "owner", '"B."')
    assert forget.find(archive, "Anna Baker") == forget.find(archive, "1@N00") == ["flickr:new", "flickr:old"]
    assert forget.find(archive, "B.") == forget.find(archive, "Berta") == ["flickr:hers"]


def test_a_row_that_comes_after_is_blanked_as_well(tmp_path: Path) -> None:
    """A listing that was under way when its photo was forgotten commits it all the same."""
    archive = made(str(tmp_path / "archive"))
    forget.forget(archive, ["flickr:late"], "asked")
    small.add_pictures(archive, 2, [small.photo("flickr:late")])
    assert forget.finish(archive).rows == {"images": 1, "photos": 1}
    assert not traces(archive, b"title of flickr:late")
