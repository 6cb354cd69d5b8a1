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
    assert told.startswith("at the start: recall@1 ") and f"model: local-dir:{tmp_path / 'out' / 'model'}" in told


def test_a_wrong_setting_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(configuration(tmp_path)), "--set", "stesp=3"]) == 2
    told = capsys.readouterr().err
    assert "unknown setting stesp; did you mean 'steps'?" in told and told.count("\n") == 1
