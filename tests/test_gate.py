"""The gate keeps its rate whoever asks, and a pause holds for all."""

import random
from email.utils import formatdate

import pytest

from pipeline.gate import LONGEST_PAUSE, Gate, Gates, retry_after
from tests.clock import Clock


def turns(gate: Gate, clock: Clock, askers: int, seconds: float, oversleep: float = 0.0) -> list[float]:
    """When `askers`, each asking again as soon as it had its turn, got turns. Deterministic: they live on `clock`."""
    dice = random.Random(7)
    end = clock.now + seconds
    wakes = [clock.now] * askers
    taken = []
    while (now := min(wakes)) < end:
        asker = wakes.index(now)
        clock.now = now
        wait = gate.reserve()
        if wait == 0.0:
            taken.append(now)
        wakes[asker] = now + wait + dice.uniform(0.0, oversleep) + 1e-6
    return taken


@pytest.mark.parametrize("rate", [0.5, 1.0, 3.0, 10.0, 77.7])
@pytest.mark.parametrize("askers", [1, 4, 64])
def test_no_window_sees_more_than_the_rate_and_one(rate: float, askers: int) -> None:
    clock = Clock()
    taken = turns(Gate(rate, clock), clock, askers, 60.0, oversleep=0.05)
    for first, start in enumerate(taken):
        within = sum(1 for turn in taken[first:] if turn <= start + 5.0)
        assert within <= 5 * rate + 1


def test_the_rate_is_reached() -> None:
    clock = Clock()
    assert len(turns(Gate(10.0, clock), clock, 4, 60.0)) == pytest.approx(600, abs=2)


def test_idle_time_earns_no_burst() -> None:
    clock = Clock()
    gate = Gate(2.0, clock)
    clock.now += 3600
    assert gate.reserve() == 0.0
    assert gate.reserve() == pytest.approx(0.5)


def test_a_pause_holds_back_those_already_waiting() -> None:
    clock = Clock()
    gate = Gate(1.0, clock)
    assert gate.reserve() == 0.0
    waiting = gate.reserve()
    gate.pause(30.0)
    clock.now += waiting
    assert gate.reserve() == pytest.approx(29.0)


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    clock = Clock()
    gate = Gate(None, clock)
    gate.pause(30.0)
    gate.pause(1.0)
    assert gate.reserve() == pytest.approx(30.0)


def test_after_a_pause_the_turns_come_one_by_one() -> None:
    clock = Clock()
    gate = Gate(1.0, clock)
    gate.pause(10.0)
    assert turns(gate, clock, 16, 13.5) == pytest.approx([10.0, 11.0, 12.0, 13.0], abs=0.01)


def test_without_a_rate_only_pauses_hold() -> None:
    clock = Clock()
    gate = Gate(None, clock)
    assert [gate.reserve() for _ in range(100)] == [0.0] * 100
    gate.pause(5.0)
    assert gate.reserve() == pytest.approx(5.0)
    clock.now += 5.0
    assert gate.reserve() == 0.0


def test_no_pause_lasts_for_days() -> None:
    clock = Clock()
    gate = Gate(None, clock)
    gate.pause(1e9)
    assert gate.reserve() == pytest.approx(LONGEST_PAUSE)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("120", 120.0),
        (" 3 ", 3.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("99999999", LONGEST_PAUSE),
        (formatdate(1_700_000_090, usegmt=True), 90.0),
        (formatdate(1_600_000_000, usegmt=True), 0.0),
        ("Tue, 99 Foo 2023 22:14:50 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, now=lambda: 1_700_000_000.0) == seconds


def test_a_pause_at_one_gate_is_a_pause_at_all() -> None:
    clock = Clock()
    api, images, other = (Gate(10, clock) for _ in range(3))
    gates = Gates()
    gates.join("api", api)
    gates.join("images", images)
    api.pause(60)
    assert images.reserve() == 60
    images.pause(100)
    assert api.reserve() == 100
    assert other.reserve() == 0.0


def test_two_who_ask_one_host_share_its_gate_and_the_lower_rate() -> None:
    clock = Clock()
    first, second = Gate(10, clock), Gate(2, clock)
    gates = Gates()
    assert gates.join("api", first) is first
    assert gates.join("api", second) is first and first.rate == 2
    assert first.reserve() == 0.0
    assert first.reserve() == 0.5
