"""Fixtures that more than one module of tests needs."""

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures and recorded answers beside the checkout; tests that need them skip where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real S3 API on loopback (moto's server); its URL. The usual AWS variables point at it."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = dict(os.environ)
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        _wait_for(url)
        yield url
    finally:
        os.environ.clear()
        os.environ |= before
        server.terminate()
        server.wait(10)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_for(url: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it answers
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise TimeoutError(url)


PLACES = ["local", "s3", "faulty s3", "azure"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for an archive, on local disk and in stores: what a test does with it must be the same everywhere.

    The faulty S3 is throttled or drops the connection at every tenth request or so. Azure's is there where its emulator
    is installed (`npm install --global azurite`, and `pip install adlfs`).
    """
    if request.param == "azure":
        return request.getfixturevalue("container")
    if request.param == "local":
        return str(tmp_path / "archive")
    if request.param == "faulty s3":
        faults = request.getfixturevalue("store_faults")
        place = request.getfixturevalue("bucket")
        faults.some(seed=zlib.crc32(request.node.name.encode()), share=0.1)
        return place
    return request.getfixturevalue("bucket")


@pytest.fixture
def bucket(s3_server: str) -> str:
    """URL of an empty place in a new bucket."""
    import s3fs

    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(endpoint_url=s3_server, key="test", secret="test").mkdir(bucket)
    return f"s3://{bucket}/archive"


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Azure's blob store on loopback, in its makers' emulator; the usual variable names it."""
    program = shutil.which("azurite-blob")
    if not program:
        pytest.skip("azurite-blob is not installed")
    pytest.importorskip("adlfs")
    port = _free_port()
    command = [
        program,
        "--blobPort",
        str(port),
        "--inMemoryPersistence",
        "--silent",
        "--skipApiVersionCheck",
        "--disableTelemetry",
    ]
    account, key = "tintype", base64.b64encode(b"a key for this server alone").decode()
    environment = os.environ | {"AZURITE_ACCOUNTS": f"{account}:{key}"}
    folder = tmp_path_factory.mktemp("azurite")
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    connection = f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={key};"
    os.environ["AZURE_STORAGE_CONNECTION_STRING"] = f"{connection}BlobEndpoint=http://127.0.0.1:{port}/{account};"
    try:
        _wait_for(f"http://127.0.0.1:{port}")
        yield os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    finally:
        del os.environ["AZURE_STORAGE_CONNECTION_STRING"]
        server.terminate()
        server.wait(10)


@pytest.fixture
def container(azurite: str) -> str:
    """URL of an empty place in a new container."""
    import adlfs

    container = f"test-{uuid.uuid4().hex[:12]}"
    adlfs.AzureBlobFileSystem(connection_string=azurite).mkdir(container)
    return f"abfs://{container}/archive"


@pytest.fixture
def store_faults(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What goes wrong between this process and the S3 server; at first nothing: tests.faulty_store.Faults."""
    import s3fs

    from tests import faulty_store

    with faulty_store.before(s3_server) as (url, faults):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        s3fs.S3FileSystem.clear_instance_cache()  # those that exist go on with the address they had
        yield faults
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A small photostream, served as Flickr serves one: pipeline.demo.server.Served."""
    from tests import photostream

    with photostream.served(tmp_path_factory.mktemp("pictures")) as served:
        yield served


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny CoCa with random weights."""
    from tests.models.conftest import write_folder

    return write_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def undisturbed(server: Any, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what a run over that photostream gives that nothing disturbs; nobody writes there.

    72 photos in four parts, embeddings/tiny and captions/tiny, an index.
    """
    from pipeline.demo.server import KEY, SECRET
    from tests import photostream

    folder = tmp_path_factory.mktemp("undisturbed") / "archive"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLICKR_API_KEY", KEY)
        patch.setenv("FLICKR_API_SECRET", SECRET)
        photostream.carry_out(photostream.settings(str(folder), server.api_url, model, "local"))
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="session")
def ray_here(s3_server: str) -> Iterator[None]:
    """A private Ray of two CPUs, started after the S3 server, whose address and credentials its workers inherit."""
    from pipeline import cluster

    with cluster.connection(cpus=2):
        yield
