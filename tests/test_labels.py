"""Labels in an archive: aligned, of one pass with the vectors, of the same classes, resumed, verified, forgotten."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import run, work
from pipeline.archive import Archive
from pipeline.config import Settings
from pipeline.demo.scenes import OBJECTS
from pipeline.demo.server import Served
from pipeline.models import labels, openclip
from pipeline.models.openclip import Model
from pipeline.photo import UserError
from pipeline.plan import plan
from pipeline.progress import Progress
from pipeline.status import status
from pipeline.upkeep import forget
from pipeline.upkeep.verify import verify
from tests import photostream
from tests.upkeep.conftest import rewrite, with_row

THINGS, EMBEDDINGS = "labels/things", "embeddings/tiny"
TOP = 3


def asked(archive: Path | str, server: Served, model: Path, **changed: Any) -> Settings:
    """The photostream's settings, with labels by the same model."""
    things = {"model": f"local-dir:{model}", "precision": "fp32", "classes": OBJECTS, "templates": ["a {}"], "top": TOP}
    return photostream.settings(str(archive), server.api_url, model, "local", labels={"things": things | changed})


@pytest.fixture(scope="module")
def labelled(undisturbed: Path, server: Served, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What that run made, labelled; nobody writes there."""
    folder = tmp_path_factory.mktemp("labelled") / "archive"
    shutil.copytree(undisturbed, folder)
    photostream.carry_out(asked(folder, server, model), ["annotate"])
    return folder


@pytest.fixture
def archive(labelled: Path, tmp_path: Path) -> Archive:
    """A copy, to be changed."""
    shutil.copytree(labelled, tmp_path / "archive")
    return Archive.open(str(tmp_path / "archive"))


def rows(archive: Archive | Path, name: str) -> list[dict[str, Any]]:
    table = (archive if isinstance(archive, Archive) else Archive.open(str(archive))).table(name)
    return pa.concat_tables([table.read(part) for part in table.parts()]).to_pylist()


def test_labels_stand_beside_the_vectors_that_they_follow_from(labelled: Path, model: Path) -> None:
    loaded = openclip.load(f"local-dir:{model}", None, device="cpu", precision="fp32")
    classes = labels.class_vectors(loaded, OBJECTS, ["a {}"])
    made, embedded = rows(labelled, THINGS), rows(labelled, EMBEDDINGS)
    assert len(made) == photostream.PHOTOS
    for ours, theirs in zip(made, embedded, strict=True):
        assert [ours[key] for key in ("row_id", "photo_id", "problem")] == [
            theirs[key] for key in ("row_id", "photo_id", "problem")
        ]
        assert (ours["labels"] is None) == (ours["model"] is None) == (theirs["embedding"] is None)
        if theirs["embedding"] is None:
            continue
        scaled = np.exp(loaded.logit_scale * (classes @ np.float32(theirs["embedding"])))
        shares = dict(zip(OBJECTS, scaled / scaled.sum(), strict=True))
        given = {label["label"]: label["probability"] for label in ours["labels"]}
        assert list(given.values()) == sorted(given.values(), reverse=True) and len(given) == TOP
        assert min(given.values()) >= sorted(shares.values())[-TOP] - 1e-3
        assert all(share == pytest.approx(shares[name], abs=1e-3) for name, share in given.items())
    assert {row["problem"] for row in made} == {None, "no_picture"}


def test_one_pass_of_the_image_tower_serves_all(
    archive: Archive, server: Served, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (THINGS, EMBEDDINGS, "captions/tiny"):
        for part in (Path(archive.url) / name).glob("part-*"):
            part.unlink()
    seen = photostream.encoded(Model, monkeypatch)
    photostream.carry_out(asked(archive.url, server, model), ["annotate"])
    pictures = sum(row["problem"] is None for row in rows(archive, EMBEDDINGS))
    assert sum(seen) == pictures == sum(row["problem"] is None for row in rows(archive, THINGS))


def test_other_classes_under_the_same_name_are_refused(archive: Archive, server: Served, model: Path) -> None:
    others = [*OBJECTS[1:], "kite"]
    told = (
        rf"labels/things was made with something else \(classes: \['{OBJECTS[0]}'\] alone there, \['kite'\] alone now"
    )
    with pytest.raises(UserError, match=told):
        photostream.carry_out(asked(archive.url, server, model, classes=others), ["annotate"])
    with pytest.raises(UserError, match=r"top: 3 there, 2 now"):
        photostream.carry_out(asked(archive.url, server, model, top=2), ["annotate"])
    with pytest.raises(UserError, match=r"classes: in another order"):
        photostream.carry_out(asked(archive.url, server, model, classes=OBJECTS[::-1]), ["annotate"])
    (Path(archive.url) / THINGS / "part-000001.parquet").unlink()
    with pytest.raises(UserError, match=r"precision: 'fp32' there, None now"):
        photostream.carry_out(asked(archive.url, server, model, precision="auto"), ["annotate"])


def test_stopped_and_run_again_it_makes_what_is_missing(
    archive: Archive, server: Served, model: Path, labelled: Path
) -> None:
    table = archive.table(THINGS)
    shutil.rmtree(Path(archive.url) / "labels")
    settings = asked(archive.url, server, model)

    class Killed(BaseException):
        """As a signal, nobody catches it."""

    def first(stage: str, said: Any) -> None:
        raise Killed

    found = run.find_weights(settings)
    [stage] = run.stages_of(settings, archive, ["annotate"], found)
    with pytest.raises(Killed):
        work.run(archive, work.Desk(archive, settings.sources, 20, None), [stage], first, listing=False)
    made = {part: table.receipt(part)["write_id"] for part in table.parts()}
    assert 0 < len(made) < 4
    photostream.carry_out(settings, ["annotate"])
    assert table.parts() == [0, 1, 2, 3] and made.items() <= {p: table.receipt(p)["write_id"] for p in range(4)}.items()
    for ours, theirs in zip(rows(archive, THINGS), rows(labelled, THINGS), strict=True):
        assert [label["label"] for label in ours["labels"] or ()] == [
            label["label"] for label in theirs["labels"] or ()
        ]


def test_status_and_plan_know_of_them(archive: Archive, server: Served, model: Path) -> None:
    (Path(archive.url) / THINGS / "part-000002.parquet").unlink()
    said = status(archive)["tables"][THINGS]
    assert (said["parts"], said["pending"]) == (3, 1) and set(said["outcomes"]) == {"annotated", "no_picture"}
    settings = asked(archive.url, server, model)
    assert plan(settings, archive)["photos"]["to_annotate"] == 20
    without = photostream.settings(archive.url, server.api_url, model, "local")
    assert plan(settings, archive)["storage_bytes"] > plan(without, archive)["storage_bytes"]


Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]] | None]
DAMAGES: dict[str, Change] = {
    "neither labels nor problem, or both": lambda given: None,
    "a label that is none of the classes": lambda given: [given[0] | {"label": "kite"}, *given[1:]],
    "not as many labels as its table.json says": lambda given: given[:2],
    "one of them twice": lambda given: [given[0], given[0], given[1]],
    "probabilities that cannot be": lambda given: [given[0] | {"probability": 1.5}, *given[1:]],
    "or that do not fall": lambda given: given[::-1],
}


@pytest.mark.parametrize("told", DAMAGES)
def test_verify_finds_labels_that_cannot_be(archive: Archive, told: str) -> None:
    table = archive.table(THINGS).read(1)
    row, given = next((i, labels) for i, labels in enumerate(table["labels"].to_pylist()) if labels)
    rewrite(archive, THINGS, 1, lambda rows: with_row(rows, row, labels=DAMAGES[told](given)))
    [problem] = verify(archive)["problems"]
    assert (problem["table"], problem["part"]) == (THINGS, 1) and told in problem["problem"]
    assert problem["remedy"] == "delete labels/things/part-000001.parquet, then `tintype annotate CONF`"


def test_nothing_is_left_of_a_forgotten_photos_labels(archive: Archive) -> None:
    assert verify(archive)["problems"] == []
    photo_id = next(row["photo_id"] for row in rows(archive, THINGS) if row["labels"])
    forget.forget(archive, [photo_id], "asked")
    assert f"1 row: forgotten, and still held ({photo_id})" in [
        found["problem"] for found in verify(archive)["problems"] if found["table"] == THINGS
    ]
    assert forget.finish(archive).rows[THINGS] == 1
    [row] = [row for row in rows(archive, THINGS) if row["photo_id"] == photo_id]
    assert (row["labels"], row["model"], row["problem"]) == (None, None, "forgotten")
    assert verify(archive)["problems"] == []


def test_progress_names_the_table(archive: Archive, server: Served, model: Path) -> None:
    shutil.rmtree(Path(archive.url) / "labels")
    done = photostream.carry_out(asked(archive.url, server, model), ["annotate"])
    assert isinstance(done.progress, Progress) and done.progress.rows[THINGS] == photostream.PHOTOS
