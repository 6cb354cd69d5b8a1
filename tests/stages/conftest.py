"""A real HTTP server on loopback that misbehaves as it is told, path by path and attempt by attempt."""

import contextlib
import io
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image


@dataclass(frozen=True)
class Answer:
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunked: bool = False  # as Flickr's image host does it: no Content-Length
    cut: int | None = None  # bytes after which the connection is closed, though more were announced
    reset: bool = False  # with a TCP reset instead
    drip: float = 0.0  # seconds between single bytes
    until: threading.Event | None = None  # waits for this before it answers


class ImageHost:
    """`answers[path]` are given in turn, the last one again and again; other paths get 404."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, float]] = []  # path, monotonic time
        self.headers: list[Mapping[str, str]] = []
        self.connections = 0
        self.lock = threading.Lock()
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with host.lock:
                    host.connections += 1

            def do_GET(self) -> None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    give(self, host.next_answer(self.path, self.headers))

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def url(self, path: str, *answers: Answer) -> str:
        """The URL of `path`, which from now on is answered so."""
        if answers:
            self.answers[path] = list(answers)
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def next_answer(self, path: str, headers: Any) -> Answer:
        with self.lock:
            self.requests.append((path, time.monotonic()))
            self.headers.append(dict(headers))
            answers = self.answers.get(path.partition("?")[0], [Answer(status=404)])
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def counts(self) -> Counter[str]:
        """Requests by path."""
        return Counter(path for path, _ in self.requests)


def give(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    if answer.until:
        answer.until.wait(30)
    if answer.reset:
        # SO_LINGER of 0 s turns the close into a reset.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True
        return
    handler.send_response(answer.status)
    for name, value in answer.headers.items():
        handler.send_header(name, value)
    whole = len(answer.body)
    handler.send_header(*(("Transfer-Encoding", "chunked") if answer.chunked else ("Content-Length", str(whole))))
    handler.end_headers()
    body = answer.body[: answer.cut]
    if answer.chunked:
        handler.wfile.write(f"{whole:x}\r\n".encode() if whole else b"")
    step = 1 if answer.drip else max(1, len(body))
    for start in range(0, len(body), step):
        handler.wfile.write(body[start : start + step])
        time.sleep(answer.drip)
    if answer.cut is not None:
        handler.close_connection = True
    elif answer.chunked:
        handler.wfile.write(b"\r\n0\r\n\r\n" if whole else b"0\r\n\r\n")


def picture(kind: str = "JPEG", size: tuple[int, int] = (400, 300), noise: bool = False) -> bytes:
    """A real image file: a gradient, or noise, which does not compress."""
    image = Image.effect_noise(size, 80) if noise else Image.linear_gradient("L").resize(size)
    file = io.BytesIO()
    image.convert("RGB").save(file, kind)
    return file.getvalue()


@pytest.fixture
def host() -> Iterator[ImageHost]:
    server = ImageHost()
    yield server
    server.close()
