"""The bytes behind an HTTP URL: paced, under a deadline, and asked for again where that may help. Knows no tables."""

import asyncio
import itertools
import logging
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

import aiohttp
import requests
import yarl

from pipeline import __version__
from pipeline.gate import Pacer, retry_after
from pipeline.photo import UserError

log = logging.getLogger(__name__)

CHUNK = 1 << 18  # bytes
REDIRECTS = (301, 302, 303, 307, 308)
LONGEST_WAIT = 60.0  # seconds between two attempts, where the host asks for no longer
MAX_REDIRECTS = 5
DOWN = 50  # so many URLs in a row given up: the host is down, and the others are not asked for time and again
# A URL that requests would leave as it is, up to the host in a group: telling that is cheaper than having it look.
PLAIN = re.compile(r"(https?://[a-z0-9:.-]+)(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
PLACEHOLDER = "photo_unavailable"  # the file Flickr redirects to where there is no picture any more

P = ParamSpec("P")
T = TypeVar("T")


class Missing(Exception):
    """There is nothing at the URL, or a placeholder: the picture has moved, or is gone."""


class DownloadError(Exception):
    """The picture could not be had. `reason` is a key of photo.REASONS; the text is one line without secrets."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _Fault(DownloadError):
    """An attempt that failed and may be followed by another."""

    def __init__(self, reason: str, detail: str, *, busy: bool = False, pause: float | None = None) -> None:
        super().__init__(reason, detail)
        self.busy = busy  # the host asks everybody to slow down
        self.pause = pause  # seconds it asks for


@dataclass
class Tally:
    """What one photo took."""

    requests: int = 0
    bytes: int = 0
    waiting: float = 0.0  # seconds before the gate
    downloading: float = 0.0
    resting: float = 0.0  # between attempts
    decoding: float = 0.0

    def seconds_spent(self) -> float:
        """What counts against the deadline: waiting for others does not."""
        return self.downloading + self.resting


def is_retryable(status: int | None, error: BaseException | None) -> bool:
    """Whether the same request may succeed a little later, by the HTTP status it got or the error it ended in."""
    if status is not None:
        return status in (408, 425, 429) or status >= 500
    # An invalid proxy URL is the user's environment, not the picture: not to be held against it for ever.
    if isinstance(error, (requests.exceptions.InvalidURL, aiohttp.InvalidURL)):
        return isinstance(error, requests.exceptions.InvalidProxyURL)
    return isinstance(error, (OSError, aiohttp.ClientError))  # RequestException is an OSError


@dataclass(frozen=True)
class Route:
    """What requests to a host need beside their URL, as arguments of aiohttp's: headers, proxy, certificates."""

    headers: dict[str, str]
    proxy: str | None
    ssl: ssl.SSLContext | bool


def find_route(session: requests.Session, url: str) -> Route:
    """The way to the host of `url`, by what requests knows of the environment: proxies, certificates, passwords in
    .netrc. It takes longer than a request, so that it is done once a host. Raises RequestException, UserError."""
    request = session.prepare_request(requests.Request("GET", url))
    assert request.url
    around = session.merge_environment_settings(request.url, {}, None, None, None)
    proxy = requests.utils.select_proxy(request.url, around["proxies"])
    if proxy and proxy.lower().startswith("socks"):
        raise UserError(
            "the environment names a SOCKS proxy, through which pictures cannot be fetched: use an HTTP one"
        )
    if proxy and not urlsplit(proxy := requests.utils.prepend_scheme_if_needed(proxy, "http")).hostname:
        raise requests.exceptions.InvalidProxyURL("not a valid proxy URL")
    if urlsplit(request.url).scheme == "http":
        return Route(dict(request.headers), proxy, True)
    bundle = around["verify"] if isinstance(around["verify"], str) else requests.utils.DEFAULT_CA_BUNDLE_PATH
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(**{"capath" if Path(bundle).is_dir() else "cafile": bundle})
    return Route(dict(request.headers), proxy, context)


class Downloader:
    """Downloads side by side over kept-alive connections, on an event loop in a thread of its own. A context manager.

    One thread serves all: many that each read from a socket of their own would spend more time on giving way to one
    another than on reading.
    """

    def __init__(
        self,
        gate: Pacer,
        *,
        connections: int = 16,
        timeout: float = 30.0,
        deadline: float = 180.0,
        attempts: int = 4,
        backoff: float = 1.0,
        max_bytes: int = 200_000_000,
        contact: str | None = None,
    ) -> None:
        """`timeout`: seconds of silence. `deadline`: seconds for all that a Tally counts but the waits before the gate.
        `backoff`: seconds before the second attempt, doubled for each one more. `contact`: how the host can reach us.
        """
        self._gate = gate
        self._timeout = timeout
        self._deadline = deadline
        self._attempts = attempts
        self._backoff = backoff
        self._max_bytes = max_bytes
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"tintype/{__version__}" + (f" ({contact})" if contact else "")
        self._session.headers["Accept-Encoding"] = "identity"  # pictures are compressed already
        self._routes: dict[str, Route] = {}  # by scheme and host
        self._connections = connections
        self._thread = threading.Thread(target=self._serve, name="download", daemon=True)
        self._lives = threading.Event()
        self._stillborn: BaseException | None = None
        self._stopped = False
        self._given_up = 0  # URLs in a row

    def __enter__(self) -> "Downloader":
        self._thread.start()
        self._lives.wait()
        if self._stillborn:
            raise self._stillborn
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._session.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns or raises, run on the loop while this thread waits; CancelledError once stopped.

        It may start tasks and use `asyncio.to_thread`, which has as many threads as there are connections. All log for
        the part that this thread is at.
        """
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        """End all that is under way on the loop: whoever waits for it gets CancelledError at once."""
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._stopped = True
        for task in asyncio.all_tasks() - {self._life}:
            task.cancel()

    def _serve(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:  # such as too many open files: for whoever waits for the loop
            if self._lives.is_set():
                raise
            self._stillborn = error
            self._lives.set()

    async def _live(self) -> None:
        """What the loop's thread does from start to end."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(self._connections, "fetch"))
        self._life = asyncio.current_task()
        self._ended = asyncio.Event()
        self._next_in_line = asyncio.Lock()  # one asks the gate, which may be far away; the others queue here
        connector = aiohttp.TCPConnector(limit=self._connections)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, read_bufsize=CHUNK) as self._client:
            # Else it would ask again, past the gate, where a kept-alive connection is closed on it.
            self._client._retry_connection = False
            self._lives.set()
            await self._ended.wait()
            await asyncio.gather(*asyncio.all_tasks() - {self._life}, return_exceptions=True)  # they were cancelled

    async def fetch(self, url: str, tally: Tally) -> bytes:
        """The whole body, at least one byte. Raises Missing, DownloadError.

        Being told to slow down is no failed attempt: only the deadline ends that, after the pause that was asked for.
        """
        failed = 0
        least = 0.1  # seconds for an attempt
        for attempt in itertools.count():
            try:
                body = await self._attempt(url, tally, least)
            except _Fault as fault:
                wait = self._wait(attempt) if fault.pause is None else fault.pause
                if fault.busy:
                    log.warning("%s: %s; all wait %.1f s", urlsplit(url).hostname, fault, wait)
                    await self._ask_gate(self._gate.pause, wait)
                down = self._given_up >= DOWN
                failed += down or not fault.busy
                left = self._deadline - tally.seconds_spent()
                if failed >= (1 if down else self._attempts) or left < (0 if fault.busy else wait):
                    self._given_up += 1
                    raise
                # A pause that was asked for may take all the time there was: what comes after it is given a chance.
                least = self._timeout if fault.busy and fault.pause else 0.1
                tally.resting += wait
                await asyncio.sleep(wait)
            except (Missing, DownloadError):
                self._given_up = 0
                raise
            else:
                self._given_up = 0
                return body
        raise AssertionError

    def _wait(self, attempt: int) -> float:
        """Seconds before the next attempt: half to all of a doubling span, lest all clients come back at once."""
        return min(LONGEST_WAIT, self._backoff * 2.0 ** min(attempt, 30)) * random.uniform(0.5, 1.0)

    async def _turn(self, tally: Tally) -> None:
        """Wait before the gate."""
        started = time.monotonic()
        async with self._next_in_line:
            if self._stopped:
                raise asyncio.CancelledError
            while (early := await self._ask_gate(self._gate.reserve)) > 0:
                await asyncio.sleep(early)
        tally.waiting += time.monotonic() - started

    async def _ask_gate(self, ask: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """What the gate answers: in a thread where it is far away, lest all wait for the answer."""
        return await asyncio.to_thread(ask, *given, **named) if self._gate.far else ask(*given, **named)

    async def _attempt(self, url: str, tally: Tally, least: float) -> bytes:
        """One request, and one more for each redirect. Raises Missing, DownloadError, _Fault."""
        for _ in range(1 + MAX_REDIRECTS):
            await self._turn(tally)
            tally.requests += 1
            left = max(least, self._deadline - tally.seconds_spent())
            started = time.monotonic()
            try:
                # Redirects are requests as well, and each must pass the gate.
                answer = await self._ask(url, started + left, tally)
            except (OSError, ValueError, aiohttp.ClientError) as error:
                raise _fault(url, error) from None
            finally:
                tally.downloading += time.monotonic() - started
            if isinstance(answer, bytes):
                return answer
            url = _redirected(url, answer)
        raise DownloadError("refused", f"more than {MAX_REDIRECTS} redirects")

    def _address(self, url: str) -> tuple[str, Route]:
        """The URL to ask for, as requests would write it, and the way to its host. Raises RequestException."""
        plain = PLAIN.fullmatch(url)
        if plain and (route := self._routes.get(plain[1])):
            return url, route
        request = requests.PreparedRequest()
        request.prepare_url(url, None)
        assert request.url
        parts = urlsplit(request.url)
        host = f"{parts.scheme}://{parts.netloc}"
        if host not in self._routes:
            self._routes[host] = find_route(self._session, request.url)
        # Credentials are among the headers.
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        return bare, self._routes[host]

    async def _ask(self, url: str, ends: float, tally: Tally) -> bytes | str:
        """The body, or where a redirect leads to."""
        address, route = self._address(url)
        silence = min(self._timeout, ends - time.monotonic())
        async with self._client.get(
            yarl.URL(address, encoded=True),
            headers=route.headers,
            proxy=route.proxy,
            ssl=route.ssl,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=silence, sock_read=silence),
        ) as response:
            if response.status in REDIRECTS and "Location" in response.headers:
                return response.headers["Location"]
            return await self._body(response, ends, tally)

    async def _body(self, response: aiohttp.ClientResponse, ends: float, tally: Tally) -> bytes:
        status = response.status
        if status in (404, 410):
            raise Missing(f"HTTP status {status}")
        if is_retryable(status, None):
            pause = retry_after(response.headers.get("Retry-After"))
            # A 503 may be one picture's own trouble, unless it says for how long: it must not stop all the others.
            busy = status == 429 or (status == 503 and pause is not None)
            raise _Fault("server_error", f"HTTP status {status}", busy=busy, pause=pause)
        if not 200 <= status < 300:
            raise DownloadError("refused", f"HTTP status {status}")
        chunks = []
        size = 0
        while chunk := await response.content.readany():
            tally.bytes += len(chunk)
            chunks.append(chunk)
            size += len(chunk)
            if size > self._max_bytes:
                raise DownloadError("too_large", f"more than {self._max_bytes:,} bytes")
            if time.monotonic() > ends:
                raise _Fault("unreachable", f"{size:,} bytes and no end when time was up")
        if not size:
            raise _Fault("truncated", "no bytes at all")
        return b"".join(chunks)


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads. Raises Missing where that is a placeholder, DownloadError where it leaves HTTP."""
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
    except ValueError:
        raise DownloadError("refused", "redirected to what is no valid URL") from None
    if PLACEHOLDER in parts.path.rsplit("/", 1)[-1]:
        raise Missing(f"redirected to the placeholder {PLACEHOLDER}")
    if parts.scheme not in ("http", "https"):
        raise DownloadError("refused", f"redirected to a {parts.scheme}: address")
    return target


def _fault(url: str, error: Exception) -> DownloadError:
    """What an error on the way means. Never its own text, which quotes the URL with all that may be signed in it."""
    if not is_retryable(None, error):
        return DownloadError("refused", "not a valid URL")
    root: BaseException = error
    while inner := root.__cause__ or root.__context__:
        root = inner
    reason = "truncated" if isinstance(error, aiohttp.ClientPayloadError) else "unreachable"
    return _Fault(reason, f"{type(root).__name__} from {urlsplit(url).hostname}")
