"""Downloads against a server that misbehaves: what is tried again, what is not, and what is said of it."""

import gzip
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.gate import Gate
from pipeline.photo import REASONS
from pipeline.stages import download
from pipeline.stages.download import Downloader, DownloadError, Missing, Tally, is_retryable
from tests.stages.conftest import Answer, ImageHost

FINE = Answer(b"picture" * 1000)


class Watched(Gate):
    """A gate that remembers what it was asked."""

    def __init__(self, rate: float | None = None) -> None:
        super().__init__(rate)
        self.turns = 0
        self.pauses: list[float] = []

    def reserve(self) -> float:
        wait = super().reserve()
        self.turns += wait == 0.0
        return wait

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        super().pause(seconds)


@pytest.fixture
def gate() -> Watched:
    return Watched()


def fetch(downloader: Downloader, url: str) -> bytes:
    return downloader.run(downloader.fetch(url, Tally()))


def get(url: str, gate: Gate | None = None, **settings: Any) -> bytes:
    with Downloader(gate or Gate(None), **{"backoff": 0.001, "timeout": 5.0, **settings}) as downloader:
        return fetch(downloader, url)


def failure(url: str, gate: Gate | None = None, **settings: Any) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        get(url, gate, **settings)
    assert caught.value.reason in REASONS
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 521])
def test_these_statuses_are_retryable(status: int) -> None:
    assert is_retryable(status, None)


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 403, 404, 405, 410, 415, 451])
def test_these_statuses_are_not(status: int) -> None:
    assert not is_retryable(status, None)


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (requests.ConnectTimeout(), True),
        (requests.ReadTimeout(), True),
        (requests.ConnectionError(), True),
        (requests.exceptions.InvalidProxyURL(), True),
        (aiohttp.ClientPayloadError(), True),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.SocketTimeoutError(), True),
        (ConnectionResetError(), True),
        (requests.exceptions.InvalidURL(), False),
        (aiohttp.InvalidURL("http://"), False),
        (KeyError(), False),
        (None, False),
    ],
)
def test_errors_of_the_network_are_retryable(error: BaseException | None, retryable: bool) -> None:
    assert is_retryable(None, error) is retryable


@pytest.mark.parametrize("chunked", [False, True])
def test_the_whole_body_comes(host: ImageHost, chunked: bool) -> None:
    assert get(host.url("/a.jpg", Answer(FINE.body, chunked=chunked))) == FINE.body


def test_a_compressed_body_is_unpacked_though_nobody_asked_for_it(host: ImageHost) -> None:
    answer = Answer(gzip.compress(FINE.body), headers={"Content-Encoding": "gzip"})
    assert get(host.url("/a.jpg", answer)) == FINE.body
    assert host.headers[0]["Accept-Encoding"] == "identity"


def test_connections_are_reused(host: ImageHost) -> None:
    urls = [host.url(f"/{n}.jpg", Answer(FINE.body, chunked=bool(n % 2))) for n in range(8)]
    with Downloader(Gate(None)) as downloader:
        for url in urls:
            fetch(downloader, url)
    assert (len(host.requests), host.connections) == (8, 1)


def test_a_connection_that_was_closed_meanwhile_is_no_way_past_the_gate(host: ImageHost, gate: Watched) -> None:
    urls = [host.url("/a.jpg", FINE), host.url("/b.jpg", Answer(reset=True), FINE)]
    with Downloader(gate, backoff=0.001) as downloader:
        assert [fetch(downloader, url) for url in urls] == [FINE.body] * 2
    assert len(host.requests) == gate.turns == 3


def test_a_proxy_of_the_environment_is_used(host: ImageHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", host.url("").replace("http://", "http://user:word@"))
    host.answers["http://photos.invalid/a%20b.jpg"] = [FINE]
    assert get("http://photos.invalid/a b.jpg") == FINE.body
    assert host.headers[0]["Proxy-Authorization"] == "Basic dXNlcjp3b3Jk"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert get(host.url("/a.jpg", FINE)) == FINE.body


def certificate(folder: Path) -> Path:
    """A key and a certificate for localhost that vouches for itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    now = datetime.now(UTC)
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    kind = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = folder / "host.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *kind)
        + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    return file


def test_https_is_believed_as_the_environment_says(
    host: ImageHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pem = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    host.server.socket = context.wrap_socket(host.server.socket, server_side=True)
    url = host.url("/a.jpg", FINE).replace("http://127.0.0.1", "https://localhost")
    fault = failure(url, attempts=1)
    assert (fault.reason, str(fault)) == ("unreachable", "SSLCertVerificationError from localhost")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
    assert get(url) == FINE.body


def test_a_password_in_a_url_is_told_to_that_host(host: ImageHost) -> None:
    assert get(host.url("/a.jpg", FINE).replace("http://", "http://user:word@")) == FINE.body
    assert host.headers[0]["Authorization"] == "Basic dXNlcjp3b3Jk"
    get(host.url("/b.jpg", Answer(FINE.body)))
    assert "Authorization" not in host.headers[1]


def test_the_host_is_told_who_asks(host: ImageHost) -> None:
    get(host.url("/a.jpg", FINE), contact="curator@library.example")
    assert host.headers[0]["User-Agent"].startswith("tintype/")
    assert "curator@library.example" in host.headers[0]["User-Agent"]


@pytest.mark.parametrize(
    "fault",
    [
        Answer(status=500),
        Answer(status=503),
        Answer(status=429),
        Answer(status=429, headers={"Retry-After": "0"}),
        Answer(reset=True),
        Answer(b""),
        Answer(FINE.body, cut=100),
        Answer(FINE.body, chunked=True, cut=100),
    ],
    ids=lambda answer: f"{answer.status}{' reset' * answer.reset}{f' cut {answer.cut}' * bool(answer.cut)}",
)
def test_a_passing_fault_is_followed_by_another_attempt(host: ImageHost, gate: Watched, fault: Answer) -> None:
    assert get(host.url("/a.jpg", fault, fault, FINE), gate) == FINE.body
    assert len(host.requests) == gate.turns == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Answer(status=500), "server_error"),
        (Answer(status=503), "server_error"),
        (Answer(status=408), "server_error"),
        (Answer(reset=True), "unreachable"),
        (Answer(b""), "truncated"),
        (Answer(status=204), "truncated"),
        (Answer(FINE.body, cut=100), "truncated"),
        (Answer(FINE.body, chunked=True, cut=100), "truncated"),
    ],
)
def test_attempts_are_bounded_and_the_reason_is_true(host: ImageHost, fault: Answer, reason: str) -> None:
    assert failure(host.url("/a.jpg", fault), attempts=3).reason == reason
    assert len(host.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 451, 304])
def test_a_refusal_is_final(host: ImageHost, status: int) -> None:
    fault = failure(host.url("/a.jpg", Answer(status=status)))
    assert (fault.reason, str(fault)) == ("refused", f"HTTP status {status}")
    assert len(host.requests) == 1


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_asked_for_once(host: ImageHost, status: int) -> None:
    with pytest.raises(Missing, match=f"{status}"):
        get(host.url("/a.jpg", Answer(status=status)))
    assert len(host.requests) == 1


def test_retry_after_is_honoured_and_pauses_everybody(host: ImageHost, gate: Watched) -> None:
    url = host.url("/a.jpg", Answer(status=429, headers={"Retry-After": "1"}), FINE)
    assert get(url, gate) == FINE.body
    assert gate.pauses == [1.0]
    assert host.requests[1][1] - host.requests[0][1] >= 1.0


def test_an_error_of_one_picture_pauses_nobody_else(host: ImageHost, gate: Watched) -> None:
    failure(host.url("/a.jpg", Answer(status=503)), gate)
    failure(host.url("/b.jpg", Answer(status=500, headers={"Retry-After": "0"})), gate)
    assert gate.pauses == []
    assert get(host.url("/c.jpg", Answer(status=503, headers={"Retry-After": "0"}), FINE), gate) == FINE.body
    assert gate.pauses == [0.0]


def test_a_pause_longer_than_the_deadline_is_waited_out_once(host: ImageHost, gate: Watched) -> None:
    slow_down = Answer(status=429, headers={"Retry-After": "1"})
    assert get(host.url("/a.jpg", slow_down, FINE), gate, deadline=0.5) == FINE.body
    assert failure(host.url("/b.jpg", slow_down), gate, deadline=0.5).reason == "server_error"
    assert host.counts()["/b.jpg"] == 2


def test_slow_down_is_not_counted_as_a_failed_attempt(host: ImageHost, gate: Watched) -> None:
    url = host.url("/a.jpg", *[Answer(status=429, headers={"Retry-After": "0"})] * 30, FINE)
    assert get(url, gate, attempts=2) == FINE.body
    assert len(gate.pauses) == 30


def test_a_host_that_only_says_slow_down_ends_at_the_deadline(host: ImageHost) -> None:
    fault = failure(host.url("/a.jpg", Answer(status=429)), deadline=0.5)
    assert (fault.reason, str(fault)) == ("server_error", "HTTP status 429")
    assert REASONS[fault.reason], "may be asked for again later"


def test_a_body_that_drips_ends_at_the_deadline(host: ImageHost) -> None:
    for chunked in (False, True):
        url = host.url("/a.jpg", Answer(b"x" * 60, drip=0.05, chunked=chunked))
        fault = failure(url, deadline=0.4)
        assert fault.reason == "unreachable"
        assert 0 < int(str(fault).split()[0]) < 60, "left before the end"


def test_a_silent_host_is_left_after_the_timeout(host: ImageHost) -> None:
    released = threading.Event()
    fault = failure(host.url("/a.jpg", Answer(FINE.body, until=released)), timeout=0.2, attempts=2)
    released.set()
    assert fault.reason == "unreachable"
    assert len(host.requests) == 2


def test_nobody_listens_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        fault = failure(f"http://127.0.0.1:{taken.getsockname()[1]}/a.jpg?sig=SECRET")
    assert (fault.reason, str(fault)) == ("unreachable", "ConnectionRefusedError from 127.0.0.1")


def test_a_body_beyond_the_limit_is_cut_off(host: ImageHost) -> None:
    assert failure(host.url("/a.jpg", FINE), max_bytes=1000).reason == "too_large"
    assert len(host.requests) == 1


@pytest.mark.parametrize("url", ["http://", "http://[::1/a.jpg", "http://a b/", "http://.example/a.jpg"])
def test_what_is_no_url_is_refused(url: str) -> None:
    assert failure(url).reason == "refused"


def test_a_redirect_is_followed_and_is_a_request_of_its_own(host: ImageHost, gate: Watched) -> None:
    host.url("/new.jpg", FINE)
    assert get(host.url("/a.jpg", Answer(status=302, headers={"Location": "/new.jpg"})), gate) == FINE.body
    assert gate.turns == 2


def test_a_redirect_to_the_placeholder_means_missing(host: ImageHost) -> None:
    host.url("/images/photo_unavailable_l.png", FINE)
    for location in (host.url("/images/photo_unavailable_l.png"), "/images/photo_unavailable.gif?x=1"):
        with pytest.raises(Missing, match="placeholder"):
            get(host.url("/a.jpg", Answer(status=302, headers={"Location": location})))
    assert host.counts() == {"/a.jpg": 2}


@pytest.mark.parametrize("location", ["/a.jpg", "file:///etc/hostname", "ftp://127.0.0.1/a.jpg", "http://[x"])
def test_redirects_in_a_circle_and_out_of_http_are_refused(host: ImageHost, location: str) -> None:
    assert failure(host.url("/a.jpg", Answer(status=301, headers={"Location": location}))).reason == "refused"
    assert len(host.requests) <= 6


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.INFO)
    yield caplog


@pytest.mark.parametrize(
    "fault",
    [
        Answer(status=500),
        Answer(status=429, headers={"Retry-After": "0"}),
        Answer(status=403),
        Answer(reset=True),
        Answer(FINE.body, cut=9),
        Answer(status=302, headers={"Location": "ftp://SECRET/?sig=SECRET"}),
    ],
)
def test_what_is_signed_into_a_url_is_never_told(host: ImageHost, log: pytest.LogCaptureFixture, fault: Answer) -> None:
    url = host.url("/a.jpg", fault).replace("http://", "http://user:SECRET@") + "?sig=SECRET"
    assert "SECRET" not in str(failure(url, deadline=0.2))
    assert "SECRET" not in log.text


def test_a_host_that_is_down_is_asked_once_a_picture_until_it_answers(host: ImageHost) -> None:
    down = [host.url(f"/{n}.jpg", Answer(status=500)) for n in range(download.DOWN + 5)]
    back = host.url("/back.jpg", FINE)
    shaky = host.url("/shaky.jpg", Answer(status=500), FINE)
    with Downloader(Gate(None), attempts=2, backoff=0.0001) as downloader:
        for url in down:
            with pytest.raises(DownloadError):
                fetch(downloader, url)
        assert len(host.requests) == 2 * download.DOWN + 5
        assert downloader.run(downloader.fetch(back, Tally())) == FINE.body
        assert downloader.run(downloader.fetch(shaky, Tally())) == FINE.body


def test_stopping_ends_all_waits(gate: Watched) -> None:
    gate.pause(600.0)
    with Downloader(gate) as downloader, ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(fetch, downloader, "http://127.0.0.1:9/a.jpg") for _ in range(4)]
        downloader.stop()
        for future in waiting:
            with pytest.raises(CancelledError):
                future.result(timeout=30)


def test_stopping_ends_a_download_under_way(host: ImageHost) -> None:
    released = threading.Event()
    url = host.url("/a.jpg", Answer(FINE.body, until=released))
    with Downloader(Gate(None), timeout=600.0) as downloader, ThreadPoolExecutor(1) as pool:
        download = pool.submit(fetch, downloader, url)
        while not host.requests:
            time.sleep(0.01)
        downloader.stop()
        with pytest.raises(CancelledError):
            download.result(timeout=20)
    released.set()


def test_a_tally_tells_what_a_picture_took(host: ImageHost) -> None:
    tally = Tally()
    with Downloader(Gate(20.0), backoff=0.05) as downloader:
        downloader.run(downloader.fetch(host.url("/a.jpg", Answer(status=500), FINE), tally))
    assert (tally.requests, tally.bytes) == (2, len(FINE.body))
    assert tally.downloading > 0
    assert 0.025 <= tally.resting <= 0.05
    assert tally.seconds_spent() == tally.downloading + tally.resting


def test_threads_share_the_rate(host: ImageHost) -> None:
    urls = [host.url(f"/{n}.jpg", FINE) for n in range(12)]
    with Downloader(Gate(50.0)) as downloader, ThreadPoolExecutor(6) as pool:
        bodies = list(pool.map(lambda url: fetch(downloader, url), urls))
    assert bodies == [FINE.body] * 12
    # 12 turns are at least 11/50 s apart; what the network adds to one end or takes from the other is little.
    assert host.requests[-1][1] - host.requests[0][1] > 0.15


def test_a_gate_that_is_far_away_holds_up_no_download_under_way(host: ImageHost) -> None:
    asked, arrived = threading.Event(), threading.Event()

    class Far(Watched):
        far = True

        def reserve(self) -> float:
            if self.turns:
                asked.set()
                assert arrived.wait(30), "the first download stood still while the gate was asked for the second"
            return super().reserve()

    urls = [host.url("/a.jpg", Answer(FINE.body, until=asked)), host.url("/b.jpg", FINE)]
    with Downloader(Far()) as downloader, ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(fetch, downloader, url) for url in urls)
        assert first.result(timeout=60) == FINE.body
        arrived.set()
        assert second.result(timeout=60) == FINE.body


@pytest.mark.parametrize("path", ["/a/../b c.jpg", "/%7Ea.jpg", "/é.jpg", "/a.jpg#here", "/.a.jpg", "/a//b.jpg"])
def test_every_url_is_asked_for_as_requests_writes_it(host: ImageHost, path: str) -> None:
    with Downloader(Gate(None), attempts=1) as downloader:
        for one in ("/first_of_its-host~1.jpg", path):
            with pytest.raises(Missing):
                downloader.run(downloader.fetch(host.url(one), Tally()))
    written = requests.Request("GET", host.url(path)).prepare().path_url
    assert [asked for asked, _ in host.requests] == ["/first_of_its-host~1.jpg", written]
