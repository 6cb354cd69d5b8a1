"""Calls of Flickr's API: paced, tried again where that may help, and refused in one clear line where it cannot.

https://www.flickr.com/services/api/ says what the methods answer, and little of how they fail. flickrapi signs the
calls; what it makes of failures (seen with 2.4.0) is turned here into a `Fault` that `is_retryable` judges.
"""

import io
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import requests
import urllib3
from flickrapi import FlickrAPI, FlickrError

from pipeline import __version__
from pipeline.gate import Pacer, retry_after
from pipeline.photo import TryLater, UserError

LOG = logging.getLogger(__name__)
for chatty in ("oauthlib", "requests_oauthlib", "flickrapi"):
    logging.getLogger(chatty).setLevel(logging.WARNING)  # their DEBUG tells keys and signed headers

TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds of silence while reading
BODY_S = 120.0  # seconds for a whole answer: one that drips is never silent for long
TRIES = 10
DEADLINE = 300.0  # seconds for all the tries of a call, not counting the pauses that Flickr asks for
LONGEST_WAIT = 60.0  # seconds between tries where Flickr asks for no pause

_UNAVAILABLE = {0, 10, 105, 201}  # "not currently available", in several wordings
_KEY_REFUSED = {95, 96, 97, 98, 99, 100}
_OUR_BUG = {111, 112}  # format unknown, method unknown

T = TypeVar("T")


class Fault(Exception):
    """A call that brought no usable answer.

    `code` is Flickr's own (`stat: fail`), `status` the HTTP status where it is not 200, `pause` the seconds it asks us
    to wait. Without code or status there was no answer, or none that could be read.
    """

    def __init__(
        self, detail: str, *, code: int | None = None, status: int | None = None, pause: float | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.pause = pause


class Refused(UserError):
    """Flickr's final no to a call, with its code: 1 is a user, album or photo not found, 5 a user deleted."""

    def __init__(self, line: str, code: int | None) -> None:
        super().__init__(line)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray carries it from the one who asks Flickr to the others."""
        return Refused, (str(self), self.code)


def is_retryable(fault: Fault) -> bool:
    """Whether the same call may succeed a little later."""
    if fault.code is not None:
        return fault.code in _UNAVAILABLE
    if fault.status is not None:
        return fault.status == 429 or fault.status >= 500
    return True


class Client:
    """One key's connection to the API. Threads may share it: they wait for each other, so a pause pauses them all."""

    def __init__(
        self,
        key: str,
        secret: str,
        *,
        api_url: str,
        gate: Pacer,
        contact: str | None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`contact`, a URL or e-mail address, tells Flickr whom to ask about these calls."""
        # The defaults write an SQLite file under HOME, and remember failures for five minutes.
        self._api = FlickrAPI(key, secret, format="parsed-json", store_token=False, cache=False, timeout=TIMEOUT)
        self._api.REST_URL = api_url
        session = requests.Session()
        session.headers["User-Agent"] = f"tintype/{__version__}" + (f" ({contact})" if contact else "")
        session.hooks["response"] += [_refuse_status, _read_whole]
        self._api.flickr_oauth.session = session  # else one is shared by all instances in the process
        self._secrets = (key, secret)
        self._gate = gate
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()

    def call(self, method: str, read: Callable[[dict[str, Any]], T], **parameters: str | int) -> T:
        """What `read` finds in the answer to `flickr.<method>`; `read` raises ValueError for an answer that lacks it.

        Raises Refused where Flickr says no, TryLater where no try within the deadline had a usable answer.
        """
        with self._lock:
            deadline = self._clock() + DEADLINE
            attempt = 0
            while True:
                attempt += 1
                while (early := self._gate.reserve()) > 0:
                    self._sleep(early)
                try:
                    return self._ask(method, read, parameters)
                except Fault as fault:
                    if not is_retryable(fault):
                        raise _refusal(method, fault) from None
                    deadline += fault.pause or 0.0
                    wait = _backoff(attempt) if fault.pause is None else fault.pause
                    if attempt == TRIES or self._clock() + wait > deadline:
                        raise TryLater(
                            f"no usable answer to flickr.{method} in {attempt} tries ({fault}): run again later"
                        ) from None
                    LOG.warning("flickr.%s: %s; trying again in %.0f s", method, fault, wait)
                    if fault.status == 429 or fault.pause is not None:
                        self._gate.pause(wait)
                    self._sleep(wait)

    def _ask(self, method: str, read: Callable[[dict[str, Any]], T], parameters: dict[str, str | int]) -> T:
        try:
            answer = self._api.do_flickr_call(f"flickr.{method}", **parameters)
        except FlickrError as error:  # stat: fail
            raise Fault(self._redacted(str(error)), code=error.code) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            # Not its text, which may hold the URL with what was asked.
            raise Fault(f"no answer: {type(error).__name__}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            # flickrapi, parsing: no JSON or no UTF-8; a failure without a code; a code that is no number; no object.
            raise Fault("an answer that is not Flickr's JSON") from None
        if answer.get("stat") != "ok":
            raise Fault("an answer without a status")  # flickrapi takes it for a success
        try:
            return read(answer)
        except ValueError as error:
            raise Fault(f"an answer without what was asked for: {error}") from None

    def _redacted(self, text: str) -> str:
        """Flickr's words without our key, which its refusals quote."""
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


def connect(*, api_url: str, gate: Pacer, contact: str | None) -> Client:
    """A client for the key in FLICKR_API_KEY and FLICKR_API_SECRET; UserError where one of them is missing."""
    for name in ("FLICKR_API_KEY", "FLICKR_API_SECRET"):
        if not os.environ.get(name):
            raise UserError(
                f"{name} is not set: put a Flickr API key and its secret into FLICKR_API_KEY and FLICKR_API_SECRET "
                "(https://www.flickr.com/services/apps/create/; a new key needs a Flickr Pro account)"
            )
    key, secret = os.environ["FLICKR_API_KEY"], os.environ["FLICKR_API_SECRET"]
    return Client(key, secret, api_url=api_url, gate=gate, contact=contact)


def _refuse_status(response: requests.Response, **_: object) -> None:
    """Raise on any status but 200, as it comes in.

    Only here can it be seen. Later, flickrapi logs the body, which may hold the key, and forgets the status; and
    requests follows a redirect with the question left out.
    """
    if response.status_code != 200:
        pause = retry_after(response.headers.get("Retry-After"))
        raise Fault(f"HTTP status {response.status_code}", status=response.status_code, pause=pause)


def _read_whole(response: requests.Response, **_: object) -> None:
    """Read the body, within BODY_S. requests' own timeout begins anew with each byte."""
    ends = time.monotonic() + BODY_S
    body = bytearray()
    while chunk := response.raw.read1(1 << 16, decode_content=True):
        body += chunk
        if time.monotonic() > ends:
            response.close()
            raise Fault(f"{len(body):,} bytes and no end in {BODY_S:.0f} s")
    response.raw = io.BytesIO(body)


def _backoff(attempt: int) -> float:
    """Seconds to wait after this try: 1, 2, 4, …, each half to all of it, so that clients do not come back together."""
    return min(LONGEST_WAIT, 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def _refusal(method: str, fault: Fault) -> Refused:
    assert fault.code not in _OUR_BUG, fault
    if fault.code in _KEY_REFUSED or fault.status in (401, 403):
        line = f"Flickr refuses the key ({fault}): check FLICKR_API_KEY and FLICKR_API_SECRET"
    elif fault.status is not None:
        line = f"flickr.{method}: {fault} where Flickr's API was expected: check api_url, or a proxy on the way"
    else:
        line = f"Flickr refuses flickr.{method} ({fault})"
    return Refused(line, fault.code)
