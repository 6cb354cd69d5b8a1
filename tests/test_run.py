"""One run takes a photostream to tables and an index: the same in-process and on Ray, on local disk and on S3."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import builds, search
from pipeline.archive import Archive
from pipeline.demo.server import KEY, SECRET, Served
from pipeline.models import store
from pipeline.status import status
from pipeline.work import STEPS
from tests import photostream
from tests.conftest import PLACES

TIMES = {"rights_observed_at", "listed_at", "fetched_at"}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)


@pytest.fixture(params=["local", "ray"])
def runner(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_here")
    return request.param


def contents(archive: Archive) -> dict[str, list[dict[str, Any]]]:
    """Every row of every aligned table, without what differs from run to run."""
    found = {}
    for name in archive.tables():
        table = archive.table(name)
        rows = pa.concat_tables([table.read(part) for part in table.parts()])
        found[name] = rows.drop_columns([c for c in rows.column_names if c in TIMES]).to_pylist()
    return found


def assert_same(ours: dict[str, list[dict[str, Any]]], theirs: dict[str, list[dict[str, Any]]]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        for mine, other in zip(ours[name], theirs[name], strict=True):
            if mine.get("embedding") is not None:
                assert np.allclose(mine.pop("embedding"), other.pop("embedding"), atol=1e-3)
            for score in ("logprob", "cosine"):
                assert mine.pop(score, None) == pytest.approx(other.pop(score, None), abs=1e-3)
            assert mine == other


# Ray's workers speak with the store past the faults, which are this process's alone: in-process shows all of them.
@pytest.mark.parametrize(
    ("place", "runner"),
    [*((place, "local") for place in PLACES), *((place, "ray") for place in PLACES if place != "faulty s3")],
    indirect=True,
)
def test_every_runner_and_every_store_give_the_same_tables(
    place: str, runner: str, server: Served, model: Path, undisturbed: Path
) -> None:
    settings = photostream.settings(place, server.api_url, model, runner)
    done = photostream.carry_out(settings)
    assert done.built and done.card is not None and done.exit_status(0.1) == 0
    archive = Archive.open(place)
    assert_same(contents(archive), contents(Archive.open(str(undisturbed))))

    again = photostream.carry_out(settings)
    assert not again.built and again.progress.rows == {} and again.exit_status(0.1) == 0

    build = builds.open_build(place)
    made = build.card["identity"]
    load = lambda: store.load(place, made["model"], made["pretrained"], made["checkpoint_sha256"])  # noqa: E731
    answer = search.search(build, search.Query(text="a red sailboat", k=3), load)
    assert [hit.rank for hit in answer.hits] == [1, 2, 3]


def test_every_photo_ends_somewhere(undisturbed: Path) -> None:
    said = status(Archive.open(str(undisturbed)))
    photos = said["photos"]
    assert photos["live"] + photos["gone"] + photos["failed"] == photostream.PHOTOS
    assert photos["gone"] and photos["failed"] == sum(said["failures"].values()) > 0
    assert said["tables"]["photos"]["rows"] == said["tables"]["captions/tiny"]["rows"] == photostream.PHOTOS
    assert all(table["pending"] == 0 for table in said["tables"].values())
    assert all(listing["complete"] for listing in said["listings"].values())
    assert said["indexes"]["tiny"]["fresh"]


def test_steps_one_at_a_time(tmp_path: Path, server: Served, model: Path, undisturbed: Path) -> None:
    settings = photostream.settings(str(tmp_path / "archive"), server.api_url, model, "local")
    for step in STEPS:
        photostream.carry_out(settings, [step])
    assert_same(contents(Archive.open(settings.archive)), contents(Archive.open(str(undisturbed))))


def test_the_same_archive_grows(tmp_path: Path, server: Served, model: Path) -> None:
    """A limit tries a stream out; without it the same archive takes the rest, and nothing twice."""
    url = str(tmp_path / "archive")
    tried = photostream.settings(url, server.api_url, model, "local")
    source = {"kind": "flickr", "user": "tintype_demo", "api_url": server.api_url, "api_rate": 100, "limit": 10}
    limited = photostream.settings(url, server.api_url, model, "local", sources=[source])
    photostream.carry_out(limited, ["list"])
    photostream.carry_out(limited, ["list"])
    photos = Archive.open(url).table("photos")
    assert sum(photos.receipt(part)["rows"] for part in photos.parts()) == 10
    photostream.carry_out(tried, ["list"])
    ids = [photo_id for part in photos.parts() for photo_id in photos.read(part)["photo_id"].to_pylist()]
    assert len(ids) == len(set(ids)) == photostream.PHOTOS


def test_retry_failed_asks_again_only_where_it_may_help(
    tmp_path: Path, server: Served, model: Path, undisturbed: Path
) -> None:
    settings = photostream.settings(str(tmp_path / "archive"), server.api_url, model, "local")
    photostream.carry_out(settings, ["list", "fetch"])
    again = photostream.carry_out(settings, ["fetch"], retry_failed=True)
    said = status(Archive.open(settings.archive))
    assert 0 < sum(again.progress.outcomes.values()) == said["failures"]["truncated"]
    assert said["photos"]["failed"] == status(Archive.open(str(undisturbed)))["photos"]["failed"]
