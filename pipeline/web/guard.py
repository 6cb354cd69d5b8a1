"""What stands before every route: who may ask, how much they may send, and what browsers may do with the answer.

Plain ASGI, so that a body that is too long is refused while it comes.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "tintype"  # and the port: servers of one host share its cookies
BODY_S = 30  # that a body may take to come
LINGER_S = 2  # that the rest of a refused body is read and thrown away
FORM_BYTES = 1 << 16  # of a form around a picture
OWN_NAMES = ("localhost", "127.0.0.1", "::1")
OWN_SITE = ("same-origin", "none")  # what browsers say of requests by our own page, and of typed addresses
PAGES = ("/", "/photo/")  # where links of others may lead
ENDS = 503, "the server was told to stop"
BUSY = 503, "too many send pictures at once: try again in a moment"
SAFE = ("GET", "HEAD", "OPTIONS")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Refused(Exception):
    """A body that is longer, or comes more slowly, than it may."""


class Guard:
    """An ASGI application before another.

    Without a `token` only this machine asks, and is to ask by one of its own names: another name that leads here is a
    page from elsewhere that reaches for what it may not see (DNS rebinding). With one, all must know it: as
    `Authorization: Bearer`, or once as `?token=`, which sets a cookie. Pages of others may link to our pages and ask
    for nothing else: how long an answer takes would tell them what a `where` finds.
    """

    def __init__(self, app: ASGIApp, token: str | None, picture_bytes: int, uploads: int) -> None:
        self.app = app
        self.uploads = uploads  # that may be taken in at a time; one that is read holds memory, and then a thread
        self.taking = 0
        self.key = None if token is None else hashlib.sha256(token.encode()).hexdigest()
        self.most = picture_bytes + FORM_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = _headers(scope["headers"])
        body = _Counted(receive, self.most)
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": guarded(message["headers"])}
            await send(message)

        async def answer_unless_refused(message: Message) -> None:
            if body.refused is None or begun:
                await answer(message)

        refused = self._refused(scope, headers)
        if refused is None and self.key is not None and not self._knows(scope, headers):
            given = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token", "")
            if scope["method"] in SAFE and self._is_key(given):
                return await _welcome(scope, answer, self.key)
            refused = (401, "this archive needs a token: Authorization: Bearer TOKEN, or once ?token=TOKEN")
        if refused:
            return await _refuse(body, answer, *refused)
        sends = scope["method"] not in SAFE
        if sends and self.taking >= self.uploads:
            return await _pass_over(body, answer)
        self.taking += sends
        # Whoever reads a form takes our refusal in the middle of it for a damaged form: that answer is not sent.
        try:
            await self.app(scope, body, answer_unless_refused)
        except Refused:
            if begun:
                raise
        except asyncio.CancelledError:  # uvicorn was told to stop, and takes what comes of that for a fault
            return None if begun else await _refuse(body, answer, *ENDS)
        finally:
            self.taking -= sends
        if body.refused and not begun:
            await _refuse(body, answer, *body.refused)

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """(status, reason) of a request that nobody may make, or None."""
        host = headers.get("host", "")
        if self.key is None and _hostname(host) not in OWN_NAMES:
            return 421, "this server answers to localhost alone: another name, or a proxy before it, needs --token"
        if headers.get("sec-fetch-site", "none") not in OWN_SITE and not _opens_page(scope, headers):
            return 403, "only the page of this server may ask it anything"
        if scope["method"] not in SAFE:
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != host:
                return 403, "only the page of this server may send it anything"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self.most:
            return 413, f"more than {self.most:,} bytes"
        return None

    def _knows(self, scope: Scope, headers: dict[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_key(
            given.strip().encode("latin-1").decode("utf-8", "surrogateescape")
        ):
            return True
        # By hand: Python's own parser gives up at the first cookie that is not to its taste, and others set those.
        cookies = (cookie.strip().partition("=") for cookie in headers.get("cookie", "").split(";"))
        known = (self.key or "").encode()
        return any(name == _cookie(scope) and hmac.compare_digest(value.encode(), known) for name, _, value in cookies)

    def _is_key(self, token: str) -> bool:
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        return self.key is not None and hmac.compare_digest(given, self.key)


class _Counted:
    """What a request sends, as far as it may."""

    def __init__(self, receive: Receive, most: int) -> None:
        self.receive = receive
        self.left = self.most = most
        self.done = False
        self.refused: tuple[int, str] | None = None  # status, reason
        self.until = asyncio.get_running_loop().time() + BODY_S

    async def __call__(self) -> Message:
        if self.done:  # what is awaited now is the end of the connection
            return await self.receive()
        try:
            async with asyncio.timeout_at(self.until):
                message = await self.receive()
        except TimeoutError:
            self.refused = 408, f"it took more than {BODY_S} s to come"
            raise Refused from None
        self.left -= len(message.get("body", b""))
        self.done = not message.get("more_body", False)
        if self.left < 0:
            self.refused = 413, f"more than {self.most:,} bytes"
            raise Refused
        return message

    async def pass_over(self) -> None:
        """Read what is still sent, for a while, and not without end: a connection closed before that is reset, and
        its answer lost."""
        read = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self.done and read < self.most:
                    message = await self.receive()
                    read += len(message.get("body", b""))
                    self.done = not message.get("more_body", False)


def guarded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers of an answer, with those that all have. What does not say so is asked for again each time."""
    names = {name for name, _ in _HEADERS}
    kept = [(name, value) for name, value in headers if name.lower() not in names]
    if not any(name.lower() == b"cache-control" for name, _ in kept):
        kept.append((b"cache-control", b"private, no-cache"))
    return [*kept, *_HEADERS]


def _headers(given: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in given}


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _cookie(scope: Scope) -> str:
    return f"{COOKIE}-{scope['server'][1]}"


def _opens_page(scope: Scope, headers: dict[str, str]) -> bool:
    """Whether somebody follows a link, or is sent along one, to a page."""
    navigates = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    path: str = scope["path"]
    return navigates and scope["method"] in SAFE and (path == PAGES[0] or path.startswith(PAGES[1:]))


async def _pass_over(body: "_Counted", send: Send) -> None:
    """Refuse a body that nobody has time for, after it came, none of it kept: who still sends hears no answer."""
    with contextlib.suppress(Refused):
        while not body.done:
            await body()
    await _refuse(body, send, *(body.refused or BUSY))


async def _welcome(scope: Scope, send: Send, key: str) -> None:
    """The cookie, and the same address without the token."""
    query = [pair for pair in parse_qsl(scope["query_string"].decode("latin-1")) if pair[0] != "token"]
    path = "/" + quote(scope["path"]).lstrip("/")  # two slashes would lead to another host
    headers = {
        "location": f"{path}?{urlencode(query)}" if query else path,
        "set-cookie": f"{_cookie(scope)}={key}; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000",
        "cache-control": "no-store",
    }
    await _send(send, 303, b"", headers)


async def _refuse(body: "_Counted", send: Send, status: int, error: str) -> None:
    await body.pass_over()
    headers = {"content-type": "application/json", "connection": "close"}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 503:
        headers["retry-after"] = "1"
    await _send(send, status, json.dumps({"error": error}, ensure_ascii=False).encode(), headers)


async def _send(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    headers["content-length"] = str(len(body))
    told = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
