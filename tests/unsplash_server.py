"""A server on loopback that answers as Unsplash does: searches, photos, downloads, pictures, and its refusals."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from PIL import Image

KEY = "k3y-0f-4n-application"
REFUSED = json.dumps({"errors": ["OAuth error: The access token is invalid"]})
SPENT = "Rate Limit Exceeded"
NOT_FOUND = json.dumps({"errors": ["Couldn't find Photo"]})


@dataclass
class Reply:
    body: str | bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def row(number: str, server: str, size: tuple[int, int] = (3000, 2000), **facts: Any) -> dict[str, Any]:
    """A photo as a search answers it, in the shape of https://unsplash.com/documentation#search-photos."""

    def picture(name: str) -> str:
        return f"{server}/pictures/{number}?crop=entropy&fm=jpg&ixid=M3wxMjA3fDB8MXxzZWFyY2h8MXx8&q=80&w={name}"

    home = "https://unsplash.com"
    api = f"https://api.unsplash.com/photos/{number}"
    return {
        "id": number,
        "slug": f"a-picture-{number}",
        "alternative_slugs": {"en": f"a-picture-{number}", "de": f"ein-bild-{number}"},
        "created_at": "2014-11-18T14:35:36-05:00",
        "updated_at": "2026-01-02T03:04:05Z",
        "promoted_at": None,
        "width": size[0],
        "height": size[1],
        "color": "#A7A2A1",
        "blur_hash": "LaLXMa9Fx[D%~q%MtQM|kDRjtRIU",
        "likes": 286,
        "description": None,
        "alt_description": f"a picture called {number}",
        "tags": [{"type": "search", "title": "boat"}, {"type": "landing_page", "title": "sea", "source": {}}],
        "asset_type": "photo",
        "sponsorship": None,
        "current_user_collections": [],
        "user": {
            "id": "Ul0QVz12Goo",
            "username": "ugmonk",
            "name": "Jeff Sheldon",
            "links": {"self": f"{api}/users/ugmonk", "html": f"{home}/@ugmonk"},
        },
        "urls": {name: picture(name) for name in ("raw", "full", "regular", "small", "thumb", "small_s3")},
        "links": {
            "self": api,
            "html": f"{home}/photos/a-picture-{number}",
            "download": f"{home}/photos/{number}/download?ixid=M3wx",
            "download_location": f"{api}/download?ixid=M3wx",
        },
    } | facts


class Unsplash(http.server.ThreadingHTTPServer):
    """Finds the same photos whatever is searched. `faults` are answered first, one after the other."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rows: list[Any] = []
        self.pictures: dict[str, bytes | float] = {}  # by photo number; a number of seconds never ends
        self.faults: list[Reply] = []
        self.calls: list[tuple[str, dict[str, str]]] = []  # of the API: path, parameters
        self.looks: list[str] = []  # at pictures
        self.headers: list[Mapping[str, str]] = []
        self.total: int | None = None  # as it says, where that is not the truth

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, number: str, picture: bytes | float | None = None, **facts: Any) -> None:
        self.rows.append(row(number, self.url, **facts))
        if picture is not None:
            self.pictures[number] = picture

    def answer(self, path: str, given: dict[str, str]) -> Reply:
        if path == "/search/photos":
            number, size = int(given.get("page", 1)), min(30, int(given.get("per_page", 10)))
            total = len(self.rows) if self.total is None else self.total
            found = self.rows[(number - 1) * size : number * size]
            return Reply(json.dumps({"total": total, "total_pages": -(-total // size), "results": found}))
        _, _, number, *rest = path.split("/")
        photo = next((row for row in self.rows if isinstance(row, dict) and row.get("id") == number), None)
        if photo is None:
            return Reply(NOT_FOUND, 404)
        return Reply(json.dumps({"url": photo["urls"]["raw"]} if rest == ["download"] else photo))


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Unsplash

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.startswith("/pictures/"):
            return self._picture(parts.path.rpartition("/")[2])
        self.server.calls.append((parts.path, dict(parse_qsl(parts.query))))
        self.server.headers.append(dict(self.headers))
        if self.headers["Authorization"] != f"Client-ID {KEY}":
            return self._send(Reply(REFUSED, 401))
        if self.server.faults:
            return self._send(self.server.faults.pop(0))
        return self._send(self.server.answer(parts.path, dict(parse_qsl(parts.query))))

    def _picture(self, number: str) -> None:
        self.server.looks.append(self.path)
        self.server.headers.append(dict(self.headers))
        data = self.server.pictures.get(number)
        if isinstance(data, float):
            with contextlib.suppress(ConnectionError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                time.sleep(data)
        else:
            self._send(Reply(data) if data is not None else Reply("gone", 404))

    def _send(self, reply: Reply) -> None:
        body = reply.body if isinstance(reply.body, bytes) else reply.body.encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serve() -> Iterator[Unsplash]:
    with Unsplash() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def jpeg(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()
