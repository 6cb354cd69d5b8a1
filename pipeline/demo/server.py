"""The demo's photostream, served on loopback as Flickr serves one: its REST API and its image host in one server.

`python -m pipeline.demo.server --port 8765 --cache DIR` keeps it running for as long as one likes.
"""

import argparse
import contextlib
import io
import json
import random
import re
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from PIL import ImageOps

from pipeline.demo.answers import Offer, answer, failure, offers
from pipeline.demo.faults import PAGE, Fault, Plan
from pipeline.demo.scenes import draw
from pipeline.demo.stream import ALIAS, DemoPhoto, Stream, demo_stream

KEY = "0123456789abcdef0123456789abcdef"  # the only API key that the server accepts
SECRET = "0123456789abcdef"  # signatures are not checked: any will do

REST = "/services/rest/"
_PICTURE = re.compile(r"/\d+/(\d+)_[0-9a-f]+(?:_\w+)?\.jpg")
_OAUTH_KEY = re.compile(r'oauth_consumer_key="([^"]*)"')
CHUNK = 16_384  # bytes


@dataclass(frozen=True)
class Request:
    verb: str  # GET or POST
    path: str
    parameters: dict[str, str]  # of the query or the form; the key is not among them
    key: str | None
    host: str  # http://127.0.0.1:8765
    at: float  # seconds on the monotonic clock

    @property
    def target(self) -> str:
        """What a fault plan calls it: a photo's number, or a call with the photo or the page it asks for."""
        if self.path != REST:
            match = _PICTURE.fullmatch(self.path)
            return match[1] if match else self.path
        method = self.parameters.get("method", "").removeprefix("flickr.")
        return " ".join(filter(None, (method, self.parameters.get("photo_id") or self.parameters.get("page"))))


@dataclass(frozen=True)
class Response:
    status: int
    content_type: str
    body: bytes
    chunked: bool = False  # as the image host sends pictures, which so have no Content-Length
    headers: tuple[tuple[str, str], ...] = ()


Render = Callable[[DemoPhoto, Offer], bytes]  # a photo's rendition as a JPEG


@dataclass
class Served:
    """A server that is running. Its stream and its plan may be exchanged meanwhile."""

    stream: Stream
    render: Render
    url: str = ""
    api_url: str = ""
    plan: Plan | None = None  # of faults; None: it behaves
    log: list[Request] = field(default_factory=list)  # every request, as it came
    attempts: Counter[str] = field(default_factory=Counter)  # by Request.target

    def respond(self, request: Request) -> tuple[Response, Fault]:
        """The answer as it should be or as the plan has it, and how it is to be sent."""
        self.log.append(request)
        self.attempts[request.target] += 1
        fault = (self.plan and self.plan(request.target, self.attempts[request.target])) or Fault()
        if request.path == REST:
            true = _api(self.stream, request, fault)
        else:
            true = _picture(self.stream, self.render, request.path)
        if fault.body is not None or fault.status != HTTPStatus.OK:
            true = replace(true, status=fault.status, body=fault.body or b"", chunked=False)
        if fault.half:
            true = replace(true, body=true.body[: len(true.body) // 2])
        return replace(true, content_type=fault.content_type or true.content_type, headers=fault.headers), fault


@contextlib.contextmanager
def serve(
    stream: Stream, cache: Path | None = None, port: int = 0, render: Render | None = None, plan: Plan | None = None
) -> Iterator[Served]:
    """Serve the stream on loopback until the block is left. `cache` keeps what was drawn; port 0 means any free one.

    `render` makes the pictures in place of the scenes' own drawing, which takes its time.
    """
    served = Served(stream, render or _Drawn(cache), plan=plan)
    with _Server(served.respond, port) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        served.api_url = served.url + REST
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self, respond: Callable[[Request], tuple[Response, Fault]], port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.respond = respond

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error; anything else is."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"  # connections are kept alive
    timeout = 60.0  # seconds that an idle one is
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(urlsplit(self.path).query)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def _answer(self, form: str) -> None:
        parameters = dict(parse_qsl(form, keep_blank_values=True))
        # flickrapi signs its calls with OAuth; others give the bare key.
        signed = _OAUTH_KEY.search(self.headers.get("Authorization", ""))
        key = parameters.pop("api_key", None)
        host = f"http://{self.headers['Host']}"
        path, key = urlsplit(self.path).path, signed[1] if signed else key
        response, fault = self.server.respond(Request(self.command, path, parameters, key, host, time.monotonic()))
        time.sleep(fault.silence)
        if fault.reset:
            # Lingering for 0 s makes the close a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self._send(response, fault)
        if fault.reset or fault.stale or fault.short:
            self.close_connection = True

    def _send(self, response: Response, fault: Fault) -> None:
        body = response.body
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        for name, value in response.headers:
            self.send_header(name, value)
        if response.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: len(body) // 2] if fault.short else body
        step = 1 if fault.drip else CHUNK if response.chunked else max(1, len(body))
        for start in range(0, len(body), step):
            piece = body[start : start + step]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if response.chunked else piece)
            if fault.drip:
                self.wfile.flush()
                time.sleep(fault.drip)
        if response.chunked and not fault.short:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: `Served.log` holds every request."""


def _api(stream: Stream, request: Request, fault: Fault) -> Response:
    parameters = request.parameters
    if request.key != KEY:
        found = failure(100, f"Invalid API Key (Key {'has invalid format' if request.key else 'not found'})")
    elif parameters.get("format") != "json":
        found = failure(111, f'Format "{parameters.get("format", "rest")}" not found')
    else:
        found = answer(stream, parameters, request.host)
    if fault.edit:
        fault.edit(found)
    text = json.dumps(found)
    if parameters.get("nojsoncallback") != "1":
        return Response(HTTPStatus.OK, "text/javascript; charset=utf-8", f"jsonFlickrApi({text})".encode())
    return Response(HTTPStatus.OK, "application/json", text.encode())


def _picture(stream: Stream, render: Render, path: str) -> Response:
    missing = Response(HTTPStatus.NOT_FOUND, "text/html; charset=utf-8", b"")
    match = _PICTURE.fullmatch(path)
    photo = stream.by_number.get(int(match[1])) if match else None
    if photo is None or photo.trouble == "gone_404":
        return missing
    if photo.trouble == "gone_410":
        return Response(HTTPStatus.GONE, "text/html; charset=utf-8", b"")
    offer = next((offer for offer in offers(photo, listed=False) if offer.path == path), None)
    if offer is None:
        return missing
    if photo.trouble == "html":
        return Response(HTTPStatus.OK, "text/html; charset=utf-8", PAGE)
    body = render(photo, offer)
    if photo.trouble == "truncated":
        body = body[: len(body) // 2]
    elif photo.trouble == "corrupt":
        body = body[:200] + random.Random(photo.number).randbytes(len(body) - 200)
    return Response(HTTPStatus.OK, "image/jpeg", body, chunked=True)


class _Drawn:
    """Renditions as drawn now, or as kept in the cache."""

    def __init__(self, cache: Path | None) -> None:
        self.cache = cache
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)

    def __call__(self, photo: DemoPhoto, offer: Offer) -> bytes:
        if self.cache is None:
            return _draw(photo, offer)
        kept = self.cache / f"{photo.scene.seed}_{offer.width}x{offer.height}.jpg"
        if not kept.exists():
            # Another thread may be drawing the same: whole files only, under the final name.
            with tempfile.NamedTemporaryFile(dir=self.cache, delete=False) as file:
                file.write(_draw(photo, offer))
            Path(file.name).replace(kept)
        return kept.read_bytes()


def _draw(photo: DemoPhoto, offer: Offer) -> bytes:
    size = offer.width, offer.height
    scale = max(offer.width / photo.width, offer.height / photo.height)
    whole = draw(photo.scene, round(photo.width * scale), round(photo.height * scale))
    picture = whole if whole.size == size else ImageOps.fit(whole, size)  # a square is cut from its middle
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the demo photostream as Flickr would.")
    parser.add_argument("--port", type=int, default=8765, help="on loopback (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="folder to keep the drawn pictures in")
    options = parser.parse_args()
    with serve(demo_stream(), options.cache, options.port) as served:
        print(f"The photostream of {ALIAS} is at {served.api_url}", flush=True)
        print(f"export FLICKR_API_KEY={KEY} FLICKR_API_SECRET={SECRET}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
