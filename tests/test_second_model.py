"""A model of one's own beside the one before it: other vectors under another name, and the old ones as they were."""

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.cli import main
from pipeline.console import preferred
from pipeline.demo import scenes

DEMO = Path(__file__).parents[1] / "pipeline" / "demo" / "model"
ASKED = "a red sailboat"


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A configuration whose archive of 24 drawings a run has made, with a model `before`."""
    folder = tmp_path_factory.mktemp("own")
    told = []
    for seed in range(700, 724):
        scene = scenes.random_scene(seed)
        (folder / "photos").mkdir(exist_ok=True)
        scenes.draw(scene, 96, 96).save(folder / "photos" / f"{seed}.png")
        told.append(json.dumps({"file": f"{seed}.png", "captions": [scenes.caption(scene)]}))
    (folder / "photos" / "captions.jsonl").write_text("\n".join(told))
    settings = {
        "archive": str(folder / "archive"),
        "sources": [{"kind": "folder", "path": str(folder / "photos")}],
        "embeddings": {"before": {"model": f"local-dir:{model}", "precision": "fp32"}},
        "run": {"runner": "local"},
    }
    (folder / "conf.yaml").write_text(yaml.safe_dump(settings))
    assert main(["run", str(folder / "conf.yaml")]) == 0
    return folder / "conf.yaml"


def say(*arguments: object) -> Any:
    """What a command prints as JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(printed.getvalue())


def held(folder: Path) -> dict[str, str]:
    """File → SHA-256 of all that lies in a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_another_model_is_added_and_old_searches_stay(
    conf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = conf.parent / "archive"
    before = {name: held(archive / name) for name in ("embeddings/before", "index/before", "images", "photos")}
    hits = say("search", conf, ASKED)

    settings = yaml.safe_load(conf.read_text())
    settings["embeddings"]["after"] = {"model": f"local-dir:{DEMO}", "precision": "fp32"}
    conf.write_text(yaml.safe_dump(settings))
    assert main(["run", str(conf)]) == 2
    assert "index.of: choose one of the embeddings: after, before" in capsys.readouterr().err
    conf.write_text(yaml.safe_dump(settings | {"index": {"of": "before"}}))
    assert main(["run", str(conf)]) == 0
    assert main(["index", str(conf), "--set", "index.of=after"]) == 0

    assert {name: held(archive / name) for name in before} == before
    assert say("search", conf, ASKED) == say("search", archive, ASKED, "--of", "before") == hits
    after = say("search", conf, ASKED, "--of", "after")
    assert after["index"]["of"] == "after" and after["hits"] != hits["hits"]
    rows = [pq.read_table(archive / "embeddings" / of / "part-000000.parquet") for of in ("before", "after")]
    assert rows[0]["row_id"].equals(rows[1]["row_id"]) and not rows[0]["embedding"].equals(rows[1]["embedding"])
    capsys.readouterr()
    assert main(["search", str(archive), ASKED]) == 2
    assert "has indexes of after, before: say which one with --of" in capsys.readouterr().err

    assert preferred(str(conf)) == "before" and preferred(str(archive)) is None  # what `serve` and `report` show first

    monkeypatch.delenv("UNSPLASH_ACCESS_KEY", raising=False)
    assert main(["rerank", ASKED, str(conf)]) == 2
    assert "UNSPLASH_ACCESS_KEY is not set" in capsys.readouterr().err  # and no more: the index is known
    assert main(["rerank", ASKED, str(archive)]) == 2
    assert "say which one with --of" in capsys.readouterr().err

    said = say("evaluate", conf, "--of", "before", "--of", "after")
    [change] = said["differences"]
    assert [model["of"] for model in said["models"]] == ["before", "after"]
    assert change["text_to_image"]["recall@1"]["beyond_chance"] and change["text_to_image"]["recall@1"]["value"] > 0.3
