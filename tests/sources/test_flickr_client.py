"""The client against a server that gives scripted answers, as odd as Flickr's were seen to be."""

import contextlib
import http.server
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from pipeline.gate import Gate
from pipeline.photo import TryLater, UserError
from pipeline.sources.flickr.client import DEADLINE, TRIES, Client, Fault, Refused, connect, is_retryable
from tests.clock import Clock

KEY, SECRET = "abcdef0123456789", "fedcba98"
OK = json.dumps({"stat": "ok", "user": {"id": "1@N00"}})


@dataclass
class Reply:
    body: str | bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None  # Content-Length, where it is not the truth


class Scripted(http.server.ThreadingHTTPServer):
    """Gives one reply after the other, the last of them for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[Reply] = []
        self.calls: list[dict[str, str]] = []  # headers

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/rest/"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        reply = self.server.replies[min(len(self.server.calls), len(self.server.replies) - 1)]
        self.server.calls.append(dict(self.headers))
        body = reply.body if isinstance(reply.body, bytes) else reply.body.encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(reply.announced or len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def paced(server: Scripted, rate: float, clock: Clock) -> Client:
    gate = Gate(rate, clock)
    return Client(KEY, SECRET, api_url=server.url, gate=gate, contact=None, sleep=clock.sleep, clock=clock)


def ask(server: Scripted, *replies: Reply, clock: Clock | None = None) -> str:
    """What the client makes of these replies."""
    server.replies = list(replies)
    clock = clock or Clock()
    client = paced(server, 1, clock)
    return client.call("urls.lookupUser", _user_id, url="https://www.flickr.com/photos/someone/")


def _user_id(answer: dict[str, Any]) -> str:
    if "user" not in answer:
        raise ValueError("no user")
    return answer["user"]["id"]


def fail(code: object, message: str = "so it is") -> Reply:
    return Reply(json.dumps({"stat": "fail", "code": code, "message": message}))


PASSING = {
    "a limit": Reply("<h1>429</h1>", 429),
    "an internal error": Reply("", 500),
    "a bad gateway": Reply("<html>", 502),
    "no service": Reply("", 503),
    "code 0": fail(0),
    "code 10": fail(10, "Sorry, the Flickr search API is not currently available."),
    "code 105": fail(105, "Service currently unavailable"),
    "code 201": fail("201", "Sorry, the Flickr search API is not currently available."),
    "a failure without a code": Reply('{"stat": "fail", "message": "?"}'),
    "a failure whose code is no number": fail("none"),
    "a web page": Reply("<!DOCTYPE html><html></html>", headers={"Content-Type": "text/html"}),
    "nothing": Reply(""),
    "JSONP": Reply(f"jsonFlickrApi({OK})"),
    "no UTF-8": Reply(b'{"stat": "ok", "user": "\xff\xfe"}'),
    "JSON cut short": Reply(OK[:20]),
    "a body cut short": Reply(OK[:20], announced=500),
    "JSON that is no object": Reply("[]"),
    "JSON without stat": Reply('{"user": {"id": "1@N00"}}'),
    "success without what was asked for": Reply('{"stat": "ok"}'),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_again(server: Scripted, name: str) -> None:
    assert ask(server, PASSING[name], PASSING[name], Reply(OK)) == "1@N00"
    assert len(server.calls) == 3


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_ends_in_one_line(server: Scripted, name: str) -> None:
    clock = Clock()
    with pytest.raises(TryLater, match=r"no usable answer to flickr.urls.lookupUser in \d+ tries") as refusal:
        ask(server, PASSING[name], clock=clock)
    assert "\n" not in str(refusal.value)
    assert KEY not in str(refusal.value)
    assert 1 < len(server.calls) <= TRIES
    assert clock.now <= DEADLINE


@pytest.mark.parametrize("code", [95, 96, 97, 98, 99, 100])
def test_a_refused_key_stops_at_once(server: Scripted, code: int) -> None:
    with pytest.raises(UserError, match="check FLICKR_API_KEY and FLICKR_API_SECRET"):
        ask(server, fail(code, "Invalid API Key (Key has invalid format)"))
    assert len(server.calls) == 1


def test_http_401_is_a_refused_key(server: Scripted) -> None:
    with pytest.raises(UserError, match="check FLICKR_API_KEY"):
        ask(server, Reply("oauth_problem=signature_invalid", 401))
    assert len(server.calls) == 1


@pytest.mark.parametrize("code", [1, 2, 5])
def test_a_final_no_keeps_its_code(server: Scripted, code: int) -> None:
    with pytest.raises(Refused, match="so it is") as refusal:
        ask(server, fail(code))
    assert refusal.value.code == code
    assert len(server.calls) == 1


@pytest.mark.parametrize("code", [111, 112])
def test_a_call_that_flickr_does_not_know_is_our_bug(server: Scripted, code: int) -> None:
    with pytest.raises(AssertionError):
        ask(server, fail(code))


@pytest.mark.parametrize("status", [302, 404])
def test_another_kind_of_server_is_not_asked_again(server: Scripted, status: int) -> None:
    with pytest.raises(UserError, match="check api_url"):
        ask(server, Reply("", status, {"Location": server.url}))
    assert len(server.calls) == 1


def test_nobody_there_ends_in_one_line() -> None:
    with Scripted() as closed:
        pass
    with pytest.raises(UserError, match="no answer: ConnectionError"):
        ask(closed, Reply(OK))


def test_retry_after_is_honoured(server: Scripted) -> None:
    clock = Clock()
    assert ask(server, Reply("", 429, {"Retry-After": "42"}), Reply(OK), clock=clock) == "1@N00"
    assert clock.now == 42


def test_retry_after_may_be_a_date(server: Scripted) -> None:
    clock = Clock()
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    ask(server, Reply("", 503, {"Retry-After": moment}), Reply(OK), clock=clock)
    assert 80 < clock.now <= 90


def test_pauses_that_flickr_asks_for_do_not_count_against_the_deadline(server: Scripted) -> None:
    clock = Clock()
    long = Reply("", 429, {"Retry-After": str(round(DEADLINE))})
    assert ask(server, long, long, long, Reply(OK), clock=clock) == "1@N00"
    assert clock.now == 3 * round(DEADLINE)


def test_waits_grow(server: Scripted) -> None:
    clock = Clock()
    ask(server, *[Reply("", 503)] * 5, Reply(OK), clock=clock)
    waits = [first + second for first, second in zip(clock.slept, [*clock.slept[1:], 0], strict=True)]
    assert len(server.calls) == 6
    assert clock.now >= 0.5 * (1 + 2 + 4 + 8 + 16)
    assert max(waits) > 8


def test_calls_are_paced(server: Scripted) -> None:
    server.replies = [Reply(OK)]
    clock = Clock()
    client = paced(server, 0.5, clock)
    for _ in range(4):
        client.call("urls.lookupUser", _user_id)
    assert clock.slept == [2.0, 2.0, 2.0]


def test_calls_say_who_we_are_and_are_signed(server: Scripted) -> None:
    server.replies = [Reply(OK)]
    Client(KEY, SECRET, api_url=server.url, gate=Gate(1000), contact="https://example.org/us").call("x", _user_id)
    (headers,) = server.calls
    assert headers["User-Agent"].startswith("tintype/")
    assert headers["User-Agent"].endswith(" (https://example.org/us)")
    assert f'oauth_consumer_key="{KEY}"' in headers["Authorization"]


def test_a_body_that_holds_the_key_is_not_logged(server: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(UserError) as refusal:
        ask(server, Reply(f"oauth_problem=consumer_key_unknown&oauth_consumer_key={KEY}", 401))
    assert KEY not in caplog.text
    assert KEY not in str(refusal.value)


@pytest.mark.parametrize("missing", ["FLICKR_API_KEY", "FLICKR_API_SECRET"])
def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    monkeypatch.setenv("FLICKR_API_SECRET", SECRET)
    monkeypatch.delenv(missing)
    with pytest.raises(UserError, match=f"{missing} is not set.*Pro account") as refusal:
        connect(api_url="http://127.0.0.1:1/", gate=Gate(1), contact=None)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("fault", "retryable"),
    [
        (Fault("", code=1), False),
        (Fault("", code=100), False),
        (Fault("", code=105), True),
        (Fault("", code=0), True),
        (Fault("", status=404), False),
        (Fault("", status=401), False),
        (Fault("", status=429), True),
        (Fault("", status=500), True),
        (Fault("no answer"), True),
    ],
)
def test_is_retryable(fault: Fault, retryable: bool) -> None:
    assert is_retryable(fault) is retryable
