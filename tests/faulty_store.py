"""An S3 API that misbehaves on demand: a proxy on loopback before a real one."""

import http.client
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message><RequestId>1</RequestId></Error>"
)
# What becomes of a request: answered 503 SlowDown; left without an answer until the client gives up; dropped before the
# store has seen it; dropped after the store has carried it out.
FAULTS = ("slow_down", "hang", "cut_before", "cut_after")


@dataclass
class Faults:
    """Which requests go wrong: `plan(method, path)` gives one of FAULTS or None. `seen` is every request that came."""

    plan: Callable[[str, str], str | None] = lambda method, path: None
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)  # ends what hangs

    def first(self, fault: str, method: str, within: str, times: int = 1) -> None:
        """The first so many requests of this method with this in their path go wrong."""
        left = [fault] * times

        def plan(m: str, path: str) -> str | None:
            return left.pop() if left and m == method and within in path else None

        self.plan = plan

    def some(self, seed: int, share: float) -> None:
        """This share of all requests goes wrong: writes before they are carried out, reads after it too."""
        chance = random.Random(seed)

        def plan(method: str, path: str) -> str | None:
            ways = ("slow_down", "cut_before", "cut_after" if method in ("GET", "HEAD") else "cut_before")
            return chance.choice(ways) if chance.random() < share else None

        self.plan = plan


@contextmanager
def before(store: str) -> Iterator[tuple[str, Faults]]:
    """(URL, its faults) of a proxy before the S3 API at `store`."""
    faults = Faults()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(urlsplit(store).netloc, faults))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        faults.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(store: str, faults: Faults) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            with suppress(ConnectionError):  # the client is gone: killed, or tired of waiting
                self.pass_on()
                return
            self.close_connection = True

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults.plan(self.command, self.path)
            faults.seen.append((self.command, self.path, fault))
            if fault == "hang":
                faults.released.wait(60)
            if fault in ("hang", "cut_before"):
                self.close_connection = True
                return
            if fault == "slow_down":
                self.answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
                return
            connection = http.client.HTTPConnection(store, timeout=60)
            try:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("expect", "connection")}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
            finally:
                connection.close()
            if fault == "cut_after":
                self.close_connection = True
                return
            kept = {k: v for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding")}
            self.answer(answer.status, kept, data)

        def answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        def log_message(self, *said: Any) -> None:
            pass

    return Handler
