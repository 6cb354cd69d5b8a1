"""How the demo's server misbehaves on demand: which call or photo, which fault, and at which of its attempts.

The faults are those that users of Flickr met, or that hosts in general show. A plan is a pure function, so that what a
seeded one will do can be told beforehand, and is the same however often the client is killed.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

PAGE = b"<!DOCTYPE html><html><head><title>Flickr</title></head><body>This photo is no longer here.</body></html>"
BUSY = b"<!DOCTYPE html><html><head><title>429 Too Many Requests</title></head><body></body></html>"
PLACEHOLDER = "/images/photo_unavailable.png"
HTML, JSON = "text/html; charset=utf-8", "application/json"


@dataclass(frozen=True)
class Fault:
    """What is answered in place of the truth; as it stands, the truth itself.

    `body` takes the place of the true one, `edit` changes a call's true answer in place.
    """

    status: int = HTTPStatus.OK
    content_type: str | None = None  # None: the true one
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    edit: Callable[[dict[str, Any]], None] | None = None
    half: bool = False  # only half of the body is there, and said to be all
    short: bool = False  # more of it is announced than comes
    reset: bool = False  # no answer at all: the connection is reset
    stale: bool = False  # well answered, but the connection, said to be kept, is closed behind the client's back
    silence: float = 0.0  # seconds before the answer
    drip: float = 0.0  # seconds between bytes


Plan = Callable[[str, int], Fault | None]  # (a photo's number or `method parameter`, attempt from 1 on) → fault


def failure(code: object, message: str = "as the plan has it") -> Fault:
    """Flickr's own way to fail: HTTP 200 and `stat: fail`."""
    said = json.dumps({"stat": "fail", "code": code, "message": message})
    return Fault(content_type=JSON, body=said.encode())


def status(code: int, retry_after: str | None = None) -> Fault:
    """An HTTP status with a web page; 429 is how Flickr limits rates, of its API too."""
    headers = (("Retry-After", retry_after),) if retry_after is not None else ()
    return Fault(code, HTML, headers, BUSY if code == HTTPStatus.TOO_MANY_REQUESTS else PAGE)


RESET = Fault(reset=True)
STALE = Fault(stale=True)
SHORT = Fault(short=True)  # cut off on the way
HALF = Fault(half=True)  # cut off by a proxy that calls it whole
EMPTY = Fault(body=b"")
WEB_PAGE = Fault(content_type=HTML, body=PAGE)
JSON_PAGE = Fault(content_type=JSON, body=b'{"stat":"fail","code":105,"message":"Service currently unavailable"}')
MISSING = Fault(HTTPStatus.NOT_FOUND, HTML, body=b"")
REDIRECTED = Fault(HTTPStatus.FOUND, HTML, (("Location", PLACEHOLDER),), b"")


def listed(faults: Mapping[str, tuple[Fault, int | None]]) -> Plan:
    """A plan that names its targets: (fault, how many attempts it lasts; None: for ever)."""

    def plan(target: str, attempt: int) -> Fault | None:
        fault, lasts = faults.get(target, (None, None))
        return fault if lasts is None or attempt <= lasts else None

    return plan


@dataclass(frozen=True)
class Share:
    """A fault that meets a share of the photos; `lasting` of these at every attempt, others up to `most` times."""

    name: str
    share: float
    fault: Fault
    lasting: float
    most: int = 2


def seeded(seed: int, shares: tuple[Share, ...]) -> Plan:
    """Each photo is met by one of the faults, or by none, as the dice of the seed and its number have it."""

    def plan(target: str, attempt: int) -> Fault | None:
        found = met_by(seed, shares, target)
        return found[0].fault if found and (found[1] is None or attempt <= found[1]) else None

    return plan


def met_by(seed: int, shares: tuple[Share, ...], target: str) -> tuple[Share, int | None] | None:
    """The fault that meets a photo in this seeded plan, and how many attempts it lasts; None: none does."""
    if not target.isdigit():
        return None  # calls of the API are too few to leave to dice
    dice = random.Random(f"{seed} {target}")
    rolled = dice.random()
    for share in shares:
        if rolled < share.share:
            return share, None if dice.random() < share.lasting else dice.randint(1, share.most)
        rolled -= share.share
    return None
