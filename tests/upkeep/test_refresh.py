"""An archive follows its photostream: each change makes exactly its rows, and nothing unchanged is fetched again."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import builds, search
from pipeline.archive import Archive
from pipeline.demo.faults import Fault, failure, listed
from pipeline.demo.server import KEY, SECRET, Served, serve
from pipeline.demo.stream import DemoPhoto, Stream, demo_stream
from pipeline.models import store
from pipeline.photo import TryLater
from pipeline.status import status
from pipeline.work import STEPS
from tests import photostream

PHOTOS, UPLOADS = 120, 30


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture
def served(drawn: Path) -> Iterator[Served]:
    """A photostream without its newest uploads."""
    with serve(before(), drawn) as served:
        yield served


def uploads() -> list[DemoPhoto]:
    """The photos that come later: the newest that are in no trouble."""
    return plain(demo_stream(PHOTOS + UPLOADS))[:UPLOADS]


def before() -> Stream:
    later = uploads()
    whole = demo_stream(PHOTOS + UPLOADS)
    return replace(whole, photos=tuple(photo for photo in whole.photos if photo not in later))


def plain(stream: Stream, licences: tuple[str, ...] | None = None) -> list[DemoPhoto]:
    """Photos without trouble, of some licences."""
    return [photo for photo in stream.photos if not photo.trouble and (not licences or photo.license in licences)]


def edited(stream: Stream, changes: dict[int, dict[str, Any]], without: set[int] = frozenset()) -> Stream:  # type: ignore[assignment]
    """The stream with some photos changed, and without some."""
    photos = tuple(
        replace(photo, **changes.get(photo.number, {})) for photo in stream.photos if photo.number not in without
    )
    return replace(stream, photos=photos)


def replaced(photo: DemoPhoto) -> dict[str, Any]:
    """Another picture of the same size, with new secrets."""
    scene = replace(photo.scene, seed=photo.scene.seed + 50_000)
    return {"scene": scene, "secret": photo.secret[::-1], "original_secret": photo.original_secret[::-1]}


def pictures(served: Served) -> Counter[str]:
    """How often each photo's picture was asked for."""
    return Counter(request.target for request in served.log if request.path != "/services/rest/")


def rows(archive: Archive, table: str) -> list[dict[str, Any]]:
    there = archive.table(table)
    return [row for part in there.parts() for row in there.read(part).to_pylist()]


def ids(photos: list[DemoPhoto]) -> list[str]:
    return [f"flickr:{photo.number}" for photo in photos]


def test_a_refresh_makes_exactly_the_right_rows(tmp_path: Path, served: Served, model: Path) -> None:
    """30 uploads, 10 titles, 5 licences, 5 deletions and 2 new pictures: 32 pictures are fetched."""
    settings = photostream.settings(str(tmp_path / "archive"), served.api_url, model, "local")
    photostream.carry_out(settings)
    archive = Archive.open(settings.archive)
    asked_before = len(rows(archive, "photos"))

    there = plain(before())
    kept = plain(before(), ("7", "9"))
    titled, licensed, new = there[:10], kept[10:15], kept[15:17]
    closed = [photo for photo in there[20:] if photo.license in ("4", "5", "11") and photo not in licensed + new]
    deleted = [*closed[:3], *[photo for photo in kept[17:] if photo not in closed][:2]]
    changes = {photo.number: {"title": f"{photo.title}, corrected"} for photo in titled}
    changes |= {photo.number: {"license": "5"} for photo in licensed}
    changes |= {photo.number: replaced(photo) for photo in new}
    served.stream = edited(demo_stream(PHOTOS + UPLOADS), changes, {photo.number for photo in deleted})
    served.log.clear()
    done = photostream.carry_out(settings, STEPS, refresh=True)

    expected = [*uploads(), *new]
    assert done.progress.rows["photos"] == len(expected) == 32
    assert pictures(served) == {str(photo.number): 1 for photo in expected}
    added = rows(archive, "photos")[asked_before:]
    assert sorted(row["photo_id"] for row in added) == sorted(ids(expected))
    assert {row["photo_id"]: row["attempt"] for row in added if row["attempt"] > 1} == dict.fromkeys(ids(new), 2)
    changed = rows(archive, "changes")
    # Those of the deleted photos that were forgotten are in no table any more.
    gone = [photo for photo in deleted if photo in kept]
    assert sorted((row["photo_id"], row["field"]) for row in changed) == sorted(
        [(photo_id, "title") for photo_id in ids(titled)]
        + [(photo_id, "license") for photo_id in ids(licensed)]
        + [(photo_id, "visible") for photo_id in ids(gone)]
    )
    assert {row["by"] for row in changed} == {"source"}
    assert done.progress.changed == {
        "flickr:tintype_demo": {"edited": 10, "relicensed": 5, "replaced": 2, "gone": 5, "forgotten": 3}
    }

    build = builds.open_build(settings.archive)
    assert done.built and not build.row_ids(ids(deleted))
    facts = {row["photo_id"]: row for row in build.photos().to_pylist()}
    assert {photo_id for photo_id, row in facts.items() if row["title"].endswith(", corrected")} == set(ids(titled))
    observed = {row["photo_id"]: row["observed_at"] for row in changed if row["field"] == "license"}
    assert observed == {photo_id: facts[photo_id]["rights_observed_at"] for photo_id in ids(licensed)}
    assert {facts[photo_id]["license_name"] for photo_id in ids(licensed)} == {"CC BY-SA 2.0"}
    said = status(archive)["photos"]
    assert (said["forgotten"], said["gone"] - status_gone(before())) == (3, 2)

    again = photostream.carry_out(settings, STEPS, refresh=True)
    assert not again.built and again.progress.rows["photos"] == 0
    assert again.progress.changed == {"flickr:tintype_demo": {}}


def test_a_refresh_on_ray(tmp_path: Path, served: Served, model: Path, ray_here: None) -> None:
    """The worker that speaks with Flickr writes down what changed; what was replaced goes on to the fetchers."""
    settings = photostream.settings(str(tmp_path / "archive"), served.api_url, model, "ray")
    photostream.carry_out(settings, ["list", "fetch"])
    titled, new, deleted = plain(before(), ("7",))[:3]
    changes: dict[int, dict[str, Any]] = {titled.number: {"title": "another"}, new.number: replaced(new)}
    served.stream = edited(before(), changes, {deleted.number})
    served.log.clear()
    done = photostream.carry_out(settings, ["list", "fetch"], refresh=True)
    assert done.progress.changed == {"flickr:tintype_demo": {"edited": 1, "replaced": 1, "gone": 1}}
    assert pictures(served) == {str(new.number): 1}
    changed = rows(Archive.open(settings.archive), "changes")
    assert [(row["photo_id"], row["field"]) for row in changed] == [
        (f"flickr:{titled.number}", "title"),
        (f"flickr:{deleted.number}", "visible"),
    ]


def status_gone(stream: Stream) -> int:
    """Photos that were deleted since they were listed, as the demo has some."""
    return sum((photo.trouble or "").startswith("gone") for photo in stream.photos)


def test_what_is_gone_leaves_search_before_any_index_is_built(tmp_path: Path, served: Served, model: Path) -> None:
    settings = photostream.settings(str(tmp_path / "archive"), served.api_url, model, "local")
    photostream.carry_out(settings)
    [photo] = plain(before(), ("7",))[:1]
    [photo_id] = ids([photo])
    assert photo_id in found(settings.archive)
    served.stream = edited(before(), {}, {photo.number})
    photostream.carry_out(settings, ["list"], refresh=True)
    assert photo_id not in found(settings.archive)
    assert (
        not builds.open_build(settings.archive)
        .news()
        .hidden.isdisjoint(builds.open_build(settings.archive).row_ids([photo_id]).values())
    )

    served.stream = before()
    back = photostream.carry_out(settings, STEPS, refresh=True)
    assert back.progress.changed == {"flickr:tintype_demo": {"back": 1}}
    assert photo_id in found(settings.archive)


def found(archive: str) -> set[str]:
    """What a search for anything answers with."""
    build = builds.open_build(archive)
    made = build.card["identity"]
    load = lambda: store.load(archive, made["model"], made["pretrained"], made["checkpoint_sha256"])  # noqa: E731
    return {hit.photo_id for hit in search.search(build, search.Query(text="a boat", k=10_000), load).hits}


def test_photos_gone_are_kept_where_the_configuration_says_so(tmp_path: Path, served: Served, model: Path) -> None:
    source = {"kind": "flickr", "user": "tintype_demo", "api_url": served.api_url, "api_rate": 100, "on_gone": "keep"}
    settings = photostream.settings(str(tmp_path / "archive"), served.api_url, model, "local", sources=[source])
    photostream.carry_out(settings, ["list", "fetch"])
    [photo] = plain(before(), ("4", "5", "11"))[:1]
    served.stream = edited(before(), {}, {photo.number})
    photostream.carry_out(settings, ["list"], refresh=True)
    archive = Archive.open(settings.archive)
    assert archive.gone().keys() == set(ids([photo])) and not archive.forgotten()


def test_an_incomplete_listing_removes_nothing(tmp_path: Path, served: Served, model: Path) -> None:
    """Flickr stops in the middle, or shows a page twice: photos that it did not show are not gone."""
    settings = photostream.settings(str(tmp_path / "archive"), served.api_url, model, "local")
    photostream.carry_out(settings, ["list", "fetch"])

    def short(answer: dict[str, Any]) -> None:
        answer["photos"]["photo"] = answer["photos"]["photo"][:50]
        answer["photos"]["pages"] = 3

    served.plan = listed({"people.getPublicPhotos 1": (Fault(edit=short), None)})
    served.stream = edited(before(), {}, {plain(before())[-1].number})
    photostream.carry_out(settings, ["list"], refresh=True)
    archive = Archive.open(settings.archive)
    assert archive.changes() == {} and not archive.forgotten()


def test_what_a_whole_listing_misses_is_asked_after(tmp_path: Path, served: Served, model: Path) -> None:
    """A photo that Flickr leaves out of its list, but still answers for, is not gone."""
    settings = photostream.settings(str(tmp_path / "archive"), served.api_url, model, "local")
    photostream.carry_out(settings, ["list", "fetch"])
    missing = str(plain(before())[3].number)

    def leave_out(answer: dict[str, Any]) -> None:
        answer["photos"]["photo"] = [row for row in answer["photos"]["photo"] if row["id"] != missing]

    served.plan = listed({"people.getPublicPhotos 1": (Fault(edit=leave_out), None)})
    done = photostream.carry_out(settings, ["list"], refresh=True)
    assert done.progress.changed == {"flickr:tintype_demo": {"listed no more": 1}}
    assert Archive.open(settings.archive).changes() == {}


def test_a_source_that_cannot_say_ends_the_refresh(
    tmp_path: Path, served: Served, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = photostream.settings(str(tmp_path / "archive"), served.api_url, model, "local")
    photostream.carry_out(settings, ["list", "fetch"])
    photo = plain(before(), ("7",))[0]
    served.stream = edited(before(), {}, {photo.number})
    served.plan = listed({f"photos.getInfo {photo.number}": (failure(105), None)})
    monkeypatch.setattr("pipeline.sources.flickr.client.TRIES", 2)
    with pytest.raises(TryLater, match=r"photos\.getInfo"):
        photostream.carry_out(settings, ["list"], refresh=True)
    assert Archive.open(settings.archive).changes() == {}


def test_views_and_last_updates_alone_make_no_row(tmp_path: Path, served: Served, model: Path) -> None:
    settings = photostream.settings(str(tmp_path / "archive"), served.api_url, model, "local")
    photostream.carry_out(settings, ["list"])
    seen = {photo.number: {"views": photo.views + 1000, "updated": photo.updated + 1} for photo in before().photos}
    served.stream = edited(before(), seen)
    done = photostream.carry_out(settings, ["list"], refresh=True)
    assert done.progress.changed == {"flickr:tintype_demo": {}}
    archive = Archive.open(settings.archive)
    assert archive.changes() == {} and len(rows(archive, "photos")) == PHOTOS


def test_a_title_edited_and_edited_back_is_two_rows(tmp_path: Path, served: Served, model: Path) -> None:
    settings = photostream.settings(str(tmp_path / "archive"), served.api_url, model, "local")
    photostream.carry_out(settings, ["list", "fetch"])
    photo = plain(before())[0]
    for title in ("another", photo.title):
        served.stream = edited(before(), {photo.number: {"title": title}})
        photostream.carry_out(settings, ["list"], refresh=True)
    archive = Archive.open(settings.archive)
    assert [json.loads(row["value"]) for row in rows(archive, "changes")] == ["another", photo.title]
    live = {row["photo_id"]: row["title"] for row in archive.live().to_pylist()}
    assert live[f"flickr:{photo.number}"] == photo.title
