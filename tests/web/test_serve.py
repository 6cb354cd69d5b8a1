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
from tests.web.conftest import Served, make

COMMAND = [sys.executable, "-c", "import sys; from pipeline.cli import main; sys.exit(main())", "serve"]


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    assert main(["serve", *given]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_it_serves_until_ctrl_c(site: Served) -> None:
    command = [*COMMAND, site.service.archive.url, "--port", "0", "--token"]
    environment = os.environ | {"TINTYPE_TOKEN": "open sesame"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
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
            server.send_signal(signal.SIGINT)
            said = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 0 and said == ("", "")


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
