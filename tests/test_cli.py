"""The command line as users meet it: one line for their mistakes, honest exit statuses, JSON alone on stdout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from pipeline.demo.server import KEY, SECRET, Served
from pipeline.demo.stream import ALIAS


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def conf(tmp_path: Path, server: Served, model: Path) -> Path:
    """A configuration whose archive does not exist yet."""
    path = tmp_path / "conf.yaml"
    tiny = {"model": f"local-dir:{model}"}
    settings = {
        "archive": str(tmp_path / "archive"),
        "sources": [{"kind": "flickr", "user": ALIAS, "api_url": server.api_url, "api_rate": 100}],
        "images": {"min_side": 60, "rate": None, "backoff": 0.01, "attempts": 2},
        "embeddings": {"tiny": tiny},
        "captions": {"tiny": tiny | {"generation": "greedy"}},
        "run": {"runner": "local", "part_size": 40, "max_failed": "5%"},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command which exits with 2 leaves on standard error."""
    assert main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert line.startswith("tintype: ")
    return line


def test_mistakes_that_are_seen_before_anything_is_written(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*overrides: str) -> str:
        return refused(capsys, "run", conf, *(word for override in overrides for word in ("--set", override)))

    assert "did you mean 'min_side'" in run("images.min_sid=3")
    assert "no such setting" in run("sources.7.limit=3")
    assert "nobody_here" in run("sources.0.user=nobody_here")
    hub = run("embeddings.tiny.model=ViT-B-32", "embeddings.tiny.pretrained=laion2b_s34b_b79k")
    assert "ViT-B-32 / laion2b_s34b_b79k" in hub and "pretrained: /path/to/the/checkpoint" in hub
    captioner = "mscoco_finetuned_laion2b_s13b_b90k"
    assert "for captions only" in run("embeddings.tiny.model=coca_ViT-B-32", f"embeddings.tiny.pretrained={captioner}")
    assert str(tmp_path / "gone") in run(f"sources=[{{kind: folder, path: {tmp_path / 'gone'}}}]")
    monkeypatch.delenv("FLICKR_API_KEY")
    assert "FLICKR_API_KEY" in run("archive=" + str(tmp_path / "archive"))
    assert "cannot read the configuration" in refused(capsys, "run", tmp_path / "nowhere.yaml")
    for command in ("fetch", "annotate", "index", "status"):
        assert "no archive at" in refused(capsys, command, conf)
    assert "no archive at" in refused(capsys, "search", conf, "a boat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf.yaml"]


def test_from_list_to_search(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(conf)]) == 0
    assert "72 photos listed" in capsys.readouterr().out
    assert "no embeddings 'tiny' yet" in refused(capsys, "index", conf)
    assert "no index" in refused(capsys, "search", conf, "a boat")
    assert main(["run", str(conf), "--no-list"]) == 0
    capsys.readouterr()
    assert main(["run", str(conf)]) == 0
    assert "nothing to do" in capsys.readouterr().out

    assert main(["status", str(conf), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["photos"]) == {"live", "gone", "failed", "forgotten"}
    assert main(["status", str(conf)]) == 0
    assert f"{said['photos']['live']:,} live" in capsys.readouterr().out

    assert main(["search", str(conf), "a red sailboat", "-k", "3", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    first = answer["hits"][0]
    assert set(first) == {
        "rank", "score", "photo_id", "row_id", "title", "caption", "caption_by", "labels", "objects", "date_taken",
        "license", "width", "height",
        "owner", "page_url",
    }  # fmt: skip
    assert set(first["license"]) == {"id", "name", "url"}

    assert main(["search", str(conf), "a red sailboat", "--hybrid", "--json"]) == 0
    both = json.loads(capsys.readouterr().out)["hits"]
    assert {name for hit in both for name in hit["ranks"]} == {"tiny", "words"}
    assert "sailboat" in both[0]["title"].lower()

    sheet = tmp_path / "sheet.html"
    asked = ["--image", first["photo_id"], "--plus", "blue", "--minus", "red", "--where", "license_id = '7'"]
    assert main(["search", str(conf), *asked, "--html", str(sheet)]) == 0
    shown = capsys.readouterr()
    assert first["photo_id"] in shown.out and str(sheet) in shown.err
    assert "caption by a machine" in shown.out and "data:image/jpeg" in sheet.read_text()

    queries = tmp_path / "queries.yaml"
    queries.write_text("- {text: a boat}\n- {text: a house, plus: blue, minus: red, scale: 1.5}\n")
    assert main(["search", str(conf), "--queries", str(queries), "--json"]) == 0
    assert [len(one["hits"]) for one in json.loads(capsys.readouterr().out)] == [6, 6]

    for wrong in ("nonsense(", "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0", "1 = 1; DROP TABLE photos"):
        assert "cannot use --where" in refused(capsys, "search", conf, "a boat", "--where", wrong)
    queries.write_text("- {txt: a boat}\n")
    assert "did you mean 'text'" in refused(capsys, "search", conf, "--queries", queries)


def test_describe(conf: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    picture = tmp_path / "red.png"
    Image.new("RGB", (64, 48), (200, 30, 30)).save(picture)
    command = ["describe", str(picture), "--model", f"local-dir:{model}", "--text", "red", "--text", "blue"]
    assert main([*command, "--json"]) == 0
    [said] = json.loads(capsys.readouterr().out)
    assert said["caption"] is not None and sum(t["probability"] for t in said["texts"]) == pytest.approx(1)
    assert main(command) == 0
    assert "caption by a machine" in capsys.readouterr().out
    assert "no file" in refused(capsys, "describe", tmp_path / "nothing.jpg", "--model", f"local-dir:{model}")


def test_models_are_stored_with_their_licence(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", str(conf)]) == 0
    assert "licence" in capsys.readouterr().out
    [stored] = (tmp_path / "archive" / "models").iterdir()
    assert len(stored.name) == 64 and (stored / "open_clip_config.json").exists()


def test_a_command_line_that_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serach"]) == 2
    assert "No such command" in capsys.readouterr().err
    assert main(["--version"]) == 0


def test_what_computes_nothing_loads_no_torch() -> None:
    """Seconds count for commands that compute nothing."""
    heavy = {"torch", "ray", "pandas", "matplotlib", "fastapi", "faiss", "open_clip"}
    code = f"import sys, pipeline.cli, pipeline.run; sys.exit(repr(sorted({heavy} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("command", [["report"], ["search", "a boat"], ["evaluate"], ["rights"], ["duplicates"]])
def test_a_file_that_cannot_be_written_is_said_before_the_work(
    capsys: pytest.CaptureFixture[str], undisturbed: Path, tmp_path: Path, command: list[str]
) -> None:
    option = "--out" if command == ["report"] else "--html"
    named = tmp_path / "nowhere" / "x.html"
    name, *words = command
    said = refused(capsys, name, undisturbed, *words, option, named)
    assert f"cannot write {named}" in said and "no folder" in said
