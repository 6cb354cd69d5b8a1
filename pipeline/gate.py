"""How fast a host may be asked. One gate a host, shared by all who ask it, on however many machines."""

import email.utils
import math
import threading
import time
from collections.abc import Callable
from typing import ClassVar, Protocol

LONGEST_PAUSE = 3600.0  # seconds: hosts count by the hour, and one broken header must not stop a run for days


class Pacer(Protocol):
    """What asking needs of a gate: a `Gate` itself, or whatever stands for one that lives elsewhere."""

    far: ClassVar[bool]  # whether asking it takes a while

    def reserve(self) -> float: ...

    def pause(self, seconds: float) -> None: ...


class Gate:
    """A token bucket that holds a single token: w seconds see at most rate × w + 1 requests, however short w is.

    Turns are not promised ahead. Whoever is too early asks again, so that a pause holds back all who wait as well.
    """

    far: ClassVar[bool] = False

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`rate`: requests a second, None for no limit (pauses hold all the same)."""
        self.rate = rate
        self._next = -math.inf
        self._clock = clock
        self._lock = threading.Lock()
        self.company = [self]  # the gates that pause with it

    def reserve(self) -> float:
        """0.0: the turn is the caller's, who asks the host now. Else the seconds after which to call this again."""
        with self._lock:
            now = self._clock()
            if now < self._next:
                return self._next - now
            self._next = now + (1 / self.rate if self.rate else 0.0)
            return 0.0

    def pause(self, seconds: float) -> None:
        """No turn for anybody for so many seconds, here and at the gates of the company.

        A longer pause that is on already stands.
        """
        for gate in self.company:
            gate._hold(min(seconds, LONGEST_PAUSE))

    def _hold(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


class Gates:
    """The gates of a run, one a host. A host that asks for a pause pauses all: Flickr's API and images are one house.

    Two sources that share a host share its gate, and the lower of their rates.
    """

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}
        self._company: list[Gate] = []

    def join(self, host: str, gate: Gate) -> Gate:
        """The gate before a host from now on: this one, or the one that was there first."""
        first = self._gates.setdefault(host, gate)
        if first is gate:
            self._company.append(gate)
            gate.company = self._company
        elif gate.rate is not None:
            first.rate = min(gate.rate, first.rate or gate.rate)
        return first


def retry_after(header: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Seconds to wait that a Retry-After header holds, as such or as a date (RFC 9110, 10.2.3); None if neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - now()
        except ValueError:
            return None
    return min(max(seconds, 0.0), LONGEST_PAUSE) if math.isfinite(seconds) else None
