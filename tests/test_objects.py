"""Objects in an archive: found by tiny networks, aligned, indexed, asked for, drawn, resumed, verified, forgotten."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from pipeline import builds, imaging, search, terminal
from pipeline.archive import Archive
from pipeline.cli import main
from pipeline.config import Settings, parse
from pipeline.models import owl, repository
from pipeline.models.detection import Detector
from pipeline.models.owl import Owl
from pipeline.photo import UserError
from pipeline.plan import plan
from pipeline.search import Query
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from pipeline.status import status
from pipeline.upkeep import forget
from pipeline.upkeep.verify import verify
from tests import photostream
from tests import small_archive as small
from tests.models import owls
from tests.test_search import Embedder, shown
from tests.upkeep.conftest import rewrite, with_row

TABLE, ROWS, FAILED = "objects/things", 6, "flickr:1-2"
QUERIES = ["bicycle", "horse-drawn carriage"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: owls.write(tmp_path_factory.mktemp("owls") / kind, kind) for kind in owls.KINDS}


def given(archive: str, model: Path, **changed: Any) -> dict[str, Any]:
    things = {"model": f"local-dir:{model}", "precision": "fp32", "queries": QUERIES, "threshold": 0.05, "top": 4}
    return {
        "archive": archive,
        "sources": [{"kind": "folder", "path": "/nowhere"}],
        "objects": {"things": things | changed},
        "run": {"runner": "local"},
    }


def asked(archive: Archive | str, model: Path, **changed: Any) -> Settings:
    return parse(given(archive if isinstance(archive, str) else archive.url, model, **changed))


def noise(colour: tuple[int, int, int]) -> bytes:
    """A picture in which tiny networks see things."""
    coarse = np.random.default_rng(colour).integers(0, 256, (5, 8, 3), np.uint8)
    return imaging.to_jpeg(Image.fromarray(coarse).resize((120, 80), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def found(folders: dict[str, Path], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two parts, embedded, searched for objects together with another embedding; nobody writes there."""
    archive = Archive.create(str(tmp_path_factory.mktemp("objects") / "archive"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "jpeg", noise)
        for part in range(2):
            photos = [small.photo(f"flickr:{part}-{row}") for row in range(ROWS)]
            small.add_pictures(archive, part, photos, {FAILED: "failed"})
            vectors: list[Any] = list(small.random_vectors(ROWS, seed=part))
            vectors[2] = None if part == 1 else vectors[2]
            small.add_vectors(archive, part, vectors)
    second = {"model": f"local-dir:{model}", "precision": "fp32"}
    settings = given(archive.url, folders["owlv2"]) | {"embeddings": {"second": second}}
    done = photostream.carry_out(parse(settings), ["annotate"])
    assert done.progress.rows[TABLE] == 2 * ROWS
    index.build(archive, IndexSettings(of="tiny"))
    return Path(archive.url)


@pytest.fixture
def archive(found: Path, tmp_path: Path) -> Archive:
    """A copy, to be changed."""
    shutil.copytree(found, tmp_path / "archive")
    return Archive.open(str(tmp_path / "archive"))


def rows(archive: Archive, name: str = TABLE) -> list[dict[str, Any]]:
    table = archive.table(name)
    return pa.concat_tables([table.read(part) for part in table.parts()]).to_pylist()


def test_objects_are_those_of_each_rows_picture(found: Path, folders: dict[str, Path]) -> None:
    archive = Archive.open(str(found))
    path, _ = repository.checkpoint(f"local-dir:{folders['owlv2']}")
    network = owl.load(f"local-dir:{folders['owlv2']}", path, device="cpu", precision="fp32")
    detector = Detector(network, asked(archive, folders["owlv2"]).objects["things"])
    held = 0
    for ours, image in zip(rows(archive), rows(archive, "images"), strict=True):
        assert (ours["row_id"], ours["photo_id"]) == (image["row_id"], image["photo_id"])
        if ours["photo_id"] == FAILED:
            assert (ours["objects"], ours["model"], ours["problem"]) == (None, None, "no_picture")
            continue
        picture = imaging.decode(image["image"]["bytes"], max_pixels=10**6, side=network.side)
        seen = network.encode(network.preprocess(picture)[None])
        [theirs] = detector.find(seen, np.array([picture.size]))
        assert [one["label"] for one in ours["objects"]] == [one.label for one in theirs or ()]
        for mine, other in zip(ours["objects"], theirs or (), strict=True):
            assert list(mine.values())[1:] == pytest.approx(list(other)[1:], abs=1e-3)
        assert (ours["model"], ours["problem"]) == ("local-dir:owlv2", None)
        held += len(ours["objects"])
    assert held > ROWS
    made = archive.table(TABLE).identity()
    assert made and made["queries"] == QUERIES and made["preprocessing"]["pad"] and made["precision"] == "fp32"
    stored = json.loads((found / "models" / made["checkpoint_sha256"] / "about.json").read_text())["files"]
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json"} <= set(stored)


def test_tables_of_one_model_look_once(
    archive: Archive, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = photostream.encoded(Owl, monkeypatch)
    settings = given(archive.url, folders["owlvit"])
    things = settings["objects"]["things"]
    settings |= {"objects": {"one": things, "two": things | {"queries": ["cat"]}}, "index": {"objects": "one"}}
    photostream.carry_out(parse(settings), ["annotate"])
    assert sum(seen) == 2 * ROWS - 1
    assert {o["label"] for row in rows(archive, "objects/two") for o in row["objects"] or ()} == {"cat"}
    assert {o["label"] for row in rows(archive, "objects/one") for o in row["objects"] or ()} <= set(QUERIES)


def test_searches_ask_for_objects_and_show_them(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = Archive.open(str(found))
    told = {row["row_id"]: row["objects"] for row in rows(archive) if row["objects"] is not None}
    build = builds.open_build(archive.url)
    best = {
        query: {row: max((o["score"] for o in some if o["label"] == query), default=0.0) for row, some in told.items()}
        for query in QUERIES
    }
    for query, scores in best.items():
        for least in (0.0, float(np.median([score for score in scores.values() if score]))):
            expected = {row for row, score in scores.items() if score and score >= least}
            assert set(build.matching(f"has('{query}', {least})")) == expected
        assert set(build.matching(f"NOT has('{query}')")) == {row for row, score in scores.items() if not score}
    with pytest.raises(UserError, match="are bicycle, horse-drawn carriage, none is unicycle"):
        build.matching("has('unicycle')")

    start = next(f"flickr:0-{row}" for row in range(ROWS))
    where = f"len(objects) > 0 AND (has('{QUERIES[0]}') OR has('{QUERIES[1]}'))"
    answer = search.search(build, Query(image=start, k=20, where=where), Embedder)
    assert answer.hits
    for hit in search.hits_json([build], answer)["hits"]:
        assert [one["label"] for one in hit["objects"]] == [one["label"] for one in told[hit["row_id"]]]
        assert list(hit["objects"][0]) == ["label", "score", "x0", "y0", "x1", "y1"]
        assert (hit["width"], hit["height"]) == (120, 80)
    assert "found by a machine" in shown(terminal.hits(answer))

    sheet = tmp_path / "sheet.html"
    assert main(["search", str(found), "--image", start, "--where", where, "--html", str(sheet)]) == 0
    capsys.readouterr()
    html = sheet.read_text()
    first = answer.hits[:6]
    assert html.count('<svg class="boxes"') == len(first)
    assert html.count("<rect ") == sum(len(told[hit.row_id]) for hit in first)
    assert "found by a machine and checked by nobody" in html


def test_other_queries_under_the_same_name_are_refused(archive: Archive, folders: dict[str, Path]) -> None:
    def again(**changed: Any) -> None:
        photostream.carry_out(asked(archive, folders["owlv2"], **changed), ["annotate"])

    with pytest.raises(UserError, match=r"objects/things was made with something else \(queries: .*'cat'"):
        again(queries=["bicycle", "cat"])
    with pytest.raises(UserError, match=r"threshold: 0\.05 there, 0\.4 now"):
        again(threshold=0.4)
    (Path(archive.url) / TABLE / "part-000001.parquet").unlink()
    with pytest.raises(UserError, match=r"model: 'local-dir:owlv2' there, 'local-dir:owlvit' now"):
        photostream.carry_out(asked(archive, folders["owlvit"]), ["annotate"])


def test_only_what_is_missing_is_made(archive: Archive, folders: dict[str, Path]) -> None:
    table, before = archive.table(TABLE), rows(archive)
    kept = table.receipt(0)["write_id"]
    (Path(archive.url) / TABLE / "part-000001.parquet").unlink()
    said = status(archive)["tables"][TABLE]
    assert (said["parts"], said["pending"], said["outcomes"]) == (1, 1, {"annotated": ROWS})
    settings = asked(archive, folders["owlv2"])
    assert plan(settings, archive)["photos"]["to_annotate"] == ROWS
    photostream.carry_out(settings, ["annotate"])
    assert table.parts() == [0, 1] and table.receipt(0)["write_id"] == kept
    for ours, theirs in zip(rows(archive), before, strict=True):
        assert [one["label"] for one in ours["objects"] or ()] == [one["label"] for one in theirs["objects"] or ()]


Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]] | None]
DAMAGES: dict[str, Change] = {
    "neither objects nor problem, or both": lambda given: None,
    "an object that is none of the queries": lambda given: [given[0] | {"label": "kite"}],
    "more objects than its table.json says": lambda given: given[:1] * 5,
    "scores that cannot be": lambda given: [given[0] | {"score": 0.02}],
    "or that do not fall": lambda given: [given[0] | {"score": 0.4}, given[0] | {"score": 0.5}],
    "a box that cannot be": lambda given: [given[0] | {"x0": 0.5, "x1": 0.4}],
    "not in the picture": lambda given: [given[0] | {"y1": 1.5}],
}


@pytest.mark.parametrize("told", DAMAGES)
def test_verify_finds_objects_that_cannot_be(archive: Archive, told: str) -> None:
    part = archive.table(TABLE).read(0)
    row, objects = next((i, objects) for i, objects in enumerate(part["objects"].to_pylist()) if objects)
    rewrite(archive, TABLE, 0, lambda rows: with_row(rows, row, objects=DAMAGES[told](objects)))
    [problem] = [one for one in verify(archive)["problems"] if one["table"] == TABLE]
    assert problem["part"] == 0 and told in problem["problem"]
    assert problem["remedy"] == "delete objects/things/part-000000.parquet, then `tintype annotate CONF`"


def test_nothing_is_left_of_a_forgotten_photos_objects(archive: Archive) -> None:
    assert [one for one in verify(archive)["problems"] if one["table"] == TABLE] == []
    photo_id = next(row["photo_id"] for row in rows(archive) if row["objects"])
    forget.forget(archive, [photo_id], "asked")
    assert forget.finish(archive).rows[TABLE] == 1
    [row] = [row for row in rows(archive) if row["photo_id"] == photo_id]
    assert (row["objects"], row["model"], row["problem"]) == (None, None, "forgotten")
    assert [one for one in verify(archive)["problems"] if one["table"] == TABLE] == []


def test_without_the_library_there_is_one_line(
    found: Path,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conf = tmp_path / "conf.yaml"
    conf.write_text(yaml.safe_dump(given(str(tmp_path / "new"), folders["owlv2"])))
    Archive.create(str(tmp_path / "new"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: (name != "transformers" and find_spec(name)) or None)
    assert main(["annotate", str(conf)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("tintype: ") and last.endswith("pip install 'tintype[transformers]'")
