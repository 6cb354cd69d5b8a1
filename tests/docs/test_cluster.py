"""The README's commands for a cluster, run as they stand there, on a Ray head of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.archive import Archive
from pipeline.demo.server import KEY
from pipeline.status import status

ROOT = Path(__file__).parents[2]
PHOTOS = 150  # of the demo's: two parts of them, where all would be six


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project's files as they are now, where a newcomer would have cloned them; the demo's photos are fewer."""
    folder = tmp_path / "tintype"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    conf = folder / "conf" / "demo.yaml"
    settings = yaml.safe_load(conf.read_text())
    settings["sources"][0]["limit"] = PHOTOS
    conf.write_text(yaml.safe_dump(settings))
    return folder


def test_the_commands_of_the_readme(clone: Path, tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().split("## On a cluster")[1]
    commands = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert commands
    # In the place of a newcomer: the environment activated, another home, and the key in no configuration of Ray's.
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "RAY_agent_register_timeout_ms": "120000",
    }
    before_stop = commands[1].replace("ray stop\n", ASK + "ray stop\n")
    done = subprocess.run(
        ["bash", "-em", "-c", before_stop], cwd=clone, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = status(Archive.open(str(clone / "archives" / "cluster")))
    assert said["tables"]["captions/demo"]["rows"] == PHOTOS and said["indexes"]["demo"]["fresh"]
    assert said["photos"]["live"] > PHOTOS * 0.9
    shown = (clone / "shown.json").read_text()
    assert "raysubmit_" in shown and "DeskActor" in shown
    assert KEY not in shown


# What the dashboard tells of jobs, actors, workers and their environments, for everyone who may look at it.
ASK = "".join(
    'curl --silent --fail --header "Authorization: Bearer $(ray get-auth-token)" '
    f"'http://127.0.0.1:8265/{what}' >> shown.json\n"
    for what in ("api/jobs/", *(f"api/v0/{kind}?detail=1" for kind in ("actors", "tasks", "workers", "runtime_envs")))
)
