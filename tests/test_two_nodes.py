"""A local archive on a cluster of two nodes, of which one does not see the driver's folder, is refused."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_agent_register_timeout_ms": "120000"}


def can_mount() -> bool:
    """Whether this user may give a process a file system of its own (root may)."""
    attempt = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(attempt, capture_output=True).returncode == 0


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A folder that is another one to the second node."""
    folder = tmp_path / "own"
    folder.mkdir()
    return folder


@pytest.fixture
def address(own_folder: Path, tmp_path: Path) -> Iterator[str]:
    """A Ray cluster of two nodes on this machine, the second in a mount namespace of its own."""
    if not can_mount():
        pytest.skip("needs the right to mount (root)")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 120, "check": True}
    mark = f"TINTYPE_TEST={uuid.uuid4().hex}"
    environment = os.environ | ENVIRONMENT | dict([mark.split("=")])
    address = "127.0.0.1:6411"
    head = [BIN / "ray", "start", "--head", "--port=6411", "--include-dashboard=false", "--num-cpus=1"]
    blind = f"mount -t tmpfs none {own_folder} && {BIN}/ray start --address={address} --num-cpus=1"
    try:
        subprocess.run(head, env=environment, **quiet)  # type: ignore[call-overload]
        subprocess.run(["unshare", "--mount", "sh", "-c", blind], env=environment, **quiet)  # type: ignore[call-overload]
        yield address
    finally:
        end(mark)


def end(mark: str) -> None:
    """Kill the processes that have this in their environment: `ray stop` would end those of other tests' Ray too."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if mark.encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def test_an_archive_that_is_not_one_folder_to_all(own_folder: Path, tmp_path: Path, address: str) -> None:
    conf = tmp_path / "conf.yaml"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.gif").write_bytes(b"GIF89a\1\0\1\0\0\0\0;")
    conf.write_text(f"archive: {own_folder}/archive\nsources: [{{kind: folder, path: {pictures}}}]\n")
    done = subprocess.run(
        [BIN / "tintype", "run", conf],
        env=os.environ | ENVIRONMENT | {"RAY_ADDRESS": address, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    *_, line = done.stderr.splitlines()  # before it, that it connects to Ray
    assert "is not one folder to all: 1 of 2 Ray nodes" in line
    assert list(own_folder.iterdir()) == []
