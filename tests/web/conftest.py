"""A small archive of single-coloured pictures, hostile titles among them, and a server of it on loopback."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import uvicorn
from PIL import Image

from pipeline.archive import Archive
from pipeline.models import openclip, store, weights
from pipeline.stages import index
from pipeline.stages.index import IndexSettings
from pipeline.web.server import configured
from pipeline.web.service import Limits, Service
from tests import small_archive as small

SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
RESERVED = "All Rights Reserved"
ROWS = 30


@dataclass
class Served:
    """A server that runs: what it serves, and where."""

    service: Service
    url: str

    def get(self, path: str, **params: Any) -> requests.Response:
        return requests.get(self.url + path, params=params, timeout=60)

    def search(self, **params: Any) -> dict[str, Any]:
        answer = self.get("/api/search", **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ids(self, **params: Any) -> list[str]:
        return [hit["photo_id"] for hit in self.search(**params)["hits"]]

    def drop(self, data: bytes, **more: Any) -> requests.Response:
        return requests.post(f"{self.url}/api/pictures", files={"file": ("../../x.jpg", data)}, timeout=60, **more)


@contextlib.contextmanager
def served_by(service: Service, token: str | None = None) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(configured(service, token))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Served(service, f"http://127.0.0.1:{listening.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join()
            service.close()


@contextlib.contextmanager
def serving(url: str, token: str | None = None, **limits: Any) -> Iterator[Served]:
    with served_by(Service(url, limits=Limits(**limits)), token) as served:
        yield served


def colour(row: int) -> tuple[int, int, int]:
    return (row * 40 % 256, row * 70 % 256, row * 110 % 256)


def picture(row: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (120, 80), colour(row)).save(file, "JPEG")
    return file.getvalue()


def add_part(archive: Archive, part: int, model: openclip.Model, first: int) -> None:
    photos = []
    for row in range(first, first + ROWS):
        facts: dict[str, Any] = {"tags": ["odd" if row % 2 else "even", SCRIPT], "date_taken": str(1900 + row)}
        if row % 3 == 0:
            facts |= {"license_id": None, "license_name": None, "license_url": None}
        if row == 10:
            facts |= {"license_id": "0", "license_name": RESERVED, "license_url": None}
        if row == 7:
            facts |= {"title": SCRIPT, "owner": SCRIPT, "page_url": "javascript:alert(3)"}
        photos.append(small.photo(f"flickr:{row}", **facts))
    pictures = map(picture, range(first, first + ROWS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "jpeg", lambda *_: next(pictures))
        patch.setattr(small, "IDENTITY", model.identity())
        small.add_pictures(archive, part, photos)
        pixels = np.stack([model.preprocess(Image.open(BytesIO(picture(r)))) for r in range(first, first + ROWS)])
        small.add_vectors(archive, part, list(model.embed_images(pixels).astype(np.float16)))
        small.add_captions(archive, part)


@pytest.fixture(scope="session")
def loaded(model: Path) -> openclip.Model:
    return openclip.load(f"local-dir:{model}", None, device="cpu", precision="fp32")


def make(url: str, model: Path, loaded: openclip.Model) -> Archive:
    """An archive of one part, its index, and its model's weights."""
    archive = Archive.create(url)
    add_part(archive, 0, loaded, 0)
    path, sha256 = weights.checkpoint(f"local-dir:{model}", None)
    store.put(url, f"local-dir:{model}", None, path, sha256)
    index.build(archive, IndexSettings(of="tiny"))
    return archive


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, model: Path, loaded: openclip.Model) -> Iterator[Served]:
    """One server for all tests that change nothing in the archive."""
    archive = make(str(tmp_path_factory.mktemp("web") / "archive"), model, loaded)
    with serving(archive.url, filter_s=1.0) as served:
        yield served
