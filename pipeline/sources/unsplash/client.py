"""Calls of Unsplash's API: paced, tried again where that may help, and refused in one clear line where it cannot.

https://unsplash.com/documentation says what is answered, and how often a key may ask: 50 times an hour while its
application is a demo. Who asks more often gets 403, without a word on when to come back.
"""

import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import requests
import urllib3

from pipeline import __version__
from pipeline.gate import Pacer, retry_after
from pipeline.photo import TryLater, UserError

log = logging.getLogger(__name__)

KEY = "UNSPLASH_ACCESS_KEY"
TIMEOUT = (10.0, 30.0)  # seconds to connect, seconds of silence while reading
MOST_BYTES = 20_000_000  # of an answer: a page of thirty photos has some hundred thousand
LONGEST_WAIT = 30.0  # seconds between two tries
HOUR = 3600.0  # seconds in which a used-up limit is surely renewed
LOOK_AGAIN = 300.0  # seconds between looks whether it is

T = TypeVar("T")


class NotFound(UserError):
    """There is no such photo, or no longer."""


class Fault(Exception):
    """A call that brought no usable answer: `status` of HTTP where it is none of success, `pause` the seconds asked
    for, `spent` how many calls an hour the key is allowed, where they are used up ("" where that is not said)."""

    def __init__(
        self, detail: str, *, status: int | None = None, pause: float | None = None, spent: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.pause = pause
        self.spent = spent


def is_retryable(fault: Fault) -> bool:
    """Whether the same call may succeed a little later."""
    return fault.status is None or fault.status == 429 or fault.status >= 500


class Client:
    """One key's way to the API. Threads may share it: they wait for each other."""

    def __init__(
        self,
        key: str,
        *,
        api_url: str,
        gate: Pacer,
        deadline: float,
        patience: float,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`deadline`: seconds for all tries of a call. `patience`: seconds to wait for a limit that is used up."""
        self._api_url = api_url.rstrip("/")
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": f"tintype/{__version__}", "Accept-Version": "v1"})
        # As `auth`, or requests would put what .netrc has for the host in the header's place.
        self._session.auth = _Key(key)
        self._key = key
        self._gate = gate
        self._timeout = (min(TIMEOUT[0], deadline), min(TIMEOUT[1], deadline))
        self._deadline = deadline
        self._patience = patience
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()

    def call(self, path: str, read: Callable[[Any], T], **parameters: str | int) -> T:
        """What `read` finds in the answer at a path; `read` raises ValueError for an answer that lacks it.

        Raises UserError where Unsplash refuses, NotFound where there is nothing, TryLater where no try within the
        deadline had a usable answer, and where the key's calls are used up.
        """
        with self._lock:
            began = self._clock()
            waited = 0.0  # for the limit
            attempt = 0
            while True:
                while (early := self._gate.reserve()) > 0:
                    self._sleep(early)
                try:
                    return self._ask(path, read, parameters)
                except Fault as fault:
                    if fault.spent is not None:
                        waited += self._rest(fault, waited)
                        continue
                    if not is_retryable(fault):
                        raise _refusal(path, fault) from None
                    wait = _backoff(attempt) if fault.pause is None else fault.pause
                    attempt += 1
                    if self._clock() - began - waited + wait > self._deadline:
                        raise TryLater(
                            f"no usable answer from Unsplash in {attempt} tries ({fault}): try again later"
                        ) from None
                    log.warning("Unsplash: %s; trying again in %.0f s", fault, wait)
                    self._sleep(wait)

    def _rest(self, fault: Fault, waited: float) -> float:
        """Have all who ask wait for the key's limit; for how many seconds. Raises TryLater where that is too long."""
        wait = fault.pause or LOOK_AGAIN
        if waited + wait > self._patience:
            back = datetime.now(UTC) + timedelta(seconds=fault.pause or HOUR)
            allowed = f"{fault.spent} " if fault.spent else ""
            said = f"the {allowed}calls an hour that Unsplash allows this key are used up"
            raise TryLater(f"{said}: come back after {back:%H:%M} UTC") from None
        log.warning("Unsplash: the key's calls of this hour are used up; looking again in %.0f s", wait)
        self._gate.pause(wait)
        self._sleep(wait)
        return wait

    def _ask(self, path: str, read: Callable[[Any], T], parameters: dict[str, str | int]) -> T:
        try:
            with self._session.get(
                self._api_url + path, params=parameters, timeout=self._timeout, stream=True, allow_redirects=False
            ) as response:
                body = _whole(response, self._clock, self._deadline)
                if response.status_code != 200:
                    raise self._fault(response, body)
                answer = json.loads(body)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            # Not its text, which may hold the URL with what was asked.
            raise Fault(f"no answer: {type(error).__name__}") from None
        except ValueError:  # no JSON, or no UTF-8
            raise Fault("an answer that is not JSON") from None
        try:
            return read(answer)
        except ValueError as error:
            raise Fault(f"an answer without what was asked for: {error}") from None

    def _fault(self, response: requests.Response, body: bytes) -> Fault:
        text = " ".join(body.decode("utf-8", "replace").replace(self._key, "…")[:200].split())
        pause = retry_after(response.headers.get("Retry-After"))
        spent = None
        if response.status_code == 403 and "rate limit" in text.lower():
            spent = response.headers.get("X-Ratelimit-Limit", "")
            spent = spent if spent.isdecimal() else ""
        said = f"HTTP status {response.status_code}" + (f": {text}" if 400 <= response.status_code < 500 else "")
        return Fault(said, status=response.status_code, pause=pause, spent=spent)


class _Key(requests.auth.AuthBase):
    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Client-ID {self._key}"
        return request


def has_key() -> bool:
    """Whether the environment holds a key."""
    return bool(os.environ.get(KEY, "").strip())


def connect(*, api_url: str, gate: Pacer, deadline: float, patience: float) -> Client:
    """A client for the key in UNSPLASH_ACCESS_KEY. Raises UserError where there is none, or none that can be sent."""
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise UserError(
            f"{KEY} is not set: put the access key of an application into it "
            "(https://unsplash.com/oauth/applications; a new one is allowed 50 calls an hour)"
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"{KEY} holds what is no key: copy the access key anew")
    return Client(key, api_url=api_url, gate=gate, deadline=deadline, patience=patience)


def _whole(response: requests.Response, clock: Callable[[], float], seconds: float) -> bytes:
    """The body, within so many seconds: requests' own timeout begins anew with each byte."""
    ends = clock() + seconds
    body = bytearray()
    while chunk := response.raw.read1(1 << 16, decode_content=True):
        body += chunk
        if len(body) > MOST_BYTES or clock() > ends:
            raise Fault(f"{len(body):,} bytes and no end")
    return bytes(body)


def _backoff(attempt: int) -> float:
    """Seconds before the next try: 1, 2, 4, …, each half to all of it, so that clients do not come back together."""
    return min(LONGEST_WAIT, 2.0**attempt) * random.uniform(0.5, 1.0)


def _refusal(path: str, fault: Fault) -> UserError:
    if fault.status == 404:
        return NotFound(f"Unsplash has nothing at {path}")
    if fault.status == 401:
        return UserError(f"Unsplash refuses the key ({fault}): check {KEY}")
    if fault.status == 403:
        return UserError(f"Unsplash refuses the call ({fault}): check what the application of {KEY} is allowed")
    if fault.status in (400, 422):
        return UserError(f"Unsplash refuses what is asked ({fault}): check query and filters")
    return UserError(f"{fault} where Unsplash's API was expected: check api_url, or a proxy on the way")
