"""`tintype train` as people call it."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from tests.training import tiny

TABLES = (Path(__file__).parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")


def configuration(folder: Path) -> Path:
    asked = tiny.settings(folder / "out", tiny.folder(folder / "coca"), steps=4)
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(asked)))))
    return path


def test_it_trains_tells_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = str(configuration(tmp_path))
    assert main(["train", conf, "--json"]) == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert said["best"] in said["history"] and said["settings"]["steps"] == 4
    table = TABLES[TABLES.index("`tintype train CONF --json`") :]
    known = set(re.findall(r"`([^`]+)`", table))
    assert {*said, *(name for line in said["history"] for name in line)} <= known
    assert (tmp_path / "out" / "training.png").read_bytes().startswith(b"\x89PNG")
    assert "step 0: recall@1" in printed.err
    assert main(["train", conf]) == 0  # there is nothing left to do
    told = capsys.readouterr().out
    assert told.startswith("at the start: recall@1 ") and "\nkept" in told
    assert f"model: local-dir:{tmp_path / 'out' / 'model'}" in told
    said["best"] = said["history"][0]  # as where no step was better
    (tmp_path / "out" / "history.json").write_text(json.dumps(said))
    assert main(["train", conf]) == 0
    assert "kept: the start, no step was better" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("taken")
    for out in ("file", "file/inside"):
        conf = configuration(tmp_path / f"for-{Path(out).name}")
        assert main(["train", str(conf), "--set", f"out={tmp_path / out}"]) == 2
        told = capsys.readouterr().err
        assert f"out: {tmp_path / out} cannot be written" in told and told.count("\n") == 1


def test_a_wrong_setting_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(configuration(tmp_path)), "--set", "stesp=3"]) == 2
    told = capsys.readouterr().err
    assert "unknown setting stesp; did you mean 'steps'?" in told and told.count("\n") == 1
    assert main(["train", str(tmp_path / "train.yaml"), "--set", "archive=loc"]) == 2  # one of data's
    assert "did you mean 'archive'" not in capsys.readouterr().err
