"""`tintype serve` as a command: where it listens, how it ends, what it refuses to begin."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from pipeline.archive import Archive
from pipeline.cli import main
from pipeline.models import openclip
from tests import small_archive as small
from tests.web.conftest import Served, make, picture

COMMAND = [sys.executable, "-c", "import sys; from pipeline.cli import main; sys.exit(main())", "serve"]


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    assert main(["serve", *given]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")  # of each thread, those that it started
    return [int(child) for task in tasks for child in task.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(site: Served, number: signal.Signals) -> None:
    command = [*COMMAND, site.service.archive.url, "--port", "0", "--token"]
    environment = os.environ | {"TINTYPE_TOKEN": "open sesame"}
    if number == signal.SIGINT:
        environment |= {"UNSPLASH_ACCESS_KEY": "k3y"}
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as server:
        try:
            assert server.stderr
            line = server.stderr.readline()
            assert line.startswith("tintype: 30 photos at http://127.0.0.1:")
            url = line.split()[4]
            assert requests.get(f"{url}api/archive", timeout=60).status_code == 401
            headers = {"Authorization": "Bearer open sesame"}
            answer = requests.get(f"{url}api/search?q=a+boat", headers=headers, timeout=60)
            assert len(answer.json()["hits"]) == 24
            # Its key is for Unsplash: with it the form is there.
            answer = requests.get(f"{url}rerank", headers=headers, timeout=60)
            assert answer.status_code == (200 if number == signal.SIGINT else 404)
            # A filter and a dropped picture: each has a child, which knows no key and does not hear Ctrl-C.
            answer = requests.get(f"{url}api/search?q=a&where=row_id=3", headers=headers, timeout=60)
            assert len(answer.json()["hits"]) == 1
            files = {"file": picture(1)}
            assert requests.post(f"{url}api/pictures", files=files, headers=headers, timeout=60).status_code == 200
            started = children(server.pid)
            assert len(started) == 2
            for child in started:
                assert b"sesame" not in Path(f"/proc/{child}/environ").read_bytes()
            os.killpg(server.pid, number)
            said = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 0 and said == ("", "")
    assert not any(Path(f"/proc/{child}").exists() for child in started)


def test_what_it_refuses(
    site: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = site.service.archive.url
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "choose another --port" in refused(capsys, url, "--port", str(port))
    monkeypatch.delenv("TINTYPE_TOKEN", raising=False)
    for given in (["--host", "0.0.0.0"], ["--token"]):
        assert "set TINTYPE_TOKEN" in refused(capsys, url, *given)
    assert "no index of other" in refused(capsys, url, "--port", "0", "--of", "other")
    assert "no archive" in refused(capsys, str(tmp_path), "--port", "0")
    Archive.create(str(tmp_path / "new"))
    assert "no index yet" in refused(capsys, str(tmp_path / "new"), "--port", "0")


def test_a_damaged_index(
    tmp_path: Path, model: Path, loaded: openclip.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = make(str(tmp_path / "archive"), model, loaded)
    [folder] = (tmp_path / "archive/index/tiny").glob("*-*")
    for file in (folder / name for name in small.INDEX_FILES if (folder / name).exists()):
        file.write_bytes(bytes(file.stat().st_size))
    assert "is damaged" in refused(capsys, archive.url, "--port", "0")
