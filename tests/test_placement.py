"""Where parts are worked on: as many places as there is work for, suspects alone, nothing on what is dead."""

from collections import Counter
from typing import Any

import pytest

from pipeline import placement
from pipeline.placement import Lane, Needs, Slot, places
from pipeline.work import Failure, Stage

FETCH = Stage("fetch", "photos", ("images",), print)
ANNOTATE = Stage("annotate", "images", ("captions/x",), print, device=True)
CPU_NODE, GPU_NODE = {"CPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}
GPU = Needs(placement.FETCH_CPUS, gpus=1)


def lane_of(stage: Stage) -> Lane:
    room = 2 if stage.device else 1
    return Lane(stage, lambda needs: Slot(needs, lambda part: part, room, hello="hello" if stage.device else None))


def alive(lane: Lane) -> None:
    for slot in lane.slots:
        slot.hello, slot.node = None, "a node"


@pytest.mark.parametrize(
    ("stage", "nodes", "asked", "there"),
    [
        (FETCH, [CPU_NODE, GPU_NODE], {}, {Needs(0.25): 48}),
        (FETCH, [{"CPU": 1.0}], {}, {Needs(0.25): 2}),
        (FETCH, [], {"fetchers": 7}, {Needs(0.25): 7}),
        (ANNOTATE, [CPU_NODE, GPU_NODE, GPU_NODE], {}, {GPU: 8}),
        (ANNOTATE, [CPU_NODE], {"gpus": 3}, {GPU: 3}),
        (ANNOTATE, [CPU_NODE, GPU_NODE], {"gpus": 0}, {Needs(4): 1, Needs(8): 1}),
        (ANNOTATE, [{"CPU": 0.5}, {"CPU": 1.0}, CPU_NODE, CPU_NODE], {}, {Needs(0.5): 1, Needs(4): 2}),
        (ANNOTATE, [], {"gpus": 0}, {Needs(1): 1}),  # of a cluster that grows from nothing
    ],
)
def test_places(stage: Stage, nodes: list[Any], asked: dict[str, int], there: dict[Needs, int]) -> None:
    assert places(stage, nodes, asked.get("fetchers"), asked.get("gpus")) == there


def test_as_many_actors_as_parts_and_no_more_than_places() -> None:
    lane = lane_of(ANNOTATE)
    lane.adjust(Counter({GPU: 8}))
    assert not lane.slots  # nothing to do yet
    lane.add([0, 1, 2])
    lane.adjust(Counter({GPU: 8}))
    assert len(lane.slots) == 3
    lane.add(range(3, 40))
    lane.adjust(Counter({GPU: 8}))
    lane.adjust(Counter({GPU: 8}))
    assert len(lane.slots) == 8


def test_parts_go_to_who_lives_and_to_every_one_before_a_second() -> None:
    lane = lane_of(ANNOTATE)
    lane.add(range(5))
    lane.adjust(Counter({GPU: 3}))
    assert list(lane.start()) == []  # none has said that it lives
    alive(lane)
    lane.slots[0].lost = True
    begun = [(lane.slots.index(slot), part) for _, slot, part in lane.start()]
    assert begun == [(1, 0), (2, 1), (1, 2), (2, 3)] and list(lane.ready) == [4]
    lane.adjust(Counter({GPU: 3}))
    assert len(lane.slots) == 3 and lane.slots[-1].hello == "hello"  # another in the place of the one that is lost


def test_actors_leave_when_they_were_idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(placement.time, "monotonic", lambda: now[0])
    lane = lane_of(ANNOTATE)
    lane.add([0, 1])
    lane.adjust(Counter({GPU: 2}))
    for slot in lane.slots:
        slot.idle_since = 0.0
    alive(lane)
    begun = list(lane.start())
    now[0] = 1000.0
    lane.adjust(Counter({GPU: 2}))
    begun[0][1].leave(0)
    now[0] += placement.IDLE_S
    lane.adjust(Counter({GPU: 2}))
    assert len(lane.slots) == 2
    now[0] += 1
    lane.adjust(Counter({GPU: 2}))
    assert lane.slots == [begun[1][1]]  # that one is still at work


def test_no_place_is_opened_for_parts_that_are_under_way() -> None:
    lane = lane_of(ANNOTATE)
    lane.add([0, 1])
    lane.adjust(Counter({GPU: 1}))
    alive(lane)
    assert len(list(lane.start())) == 2
    lane.adjust(Counter({GPU: 4}))
    assert len(lane.slots) == 1


def test_a_busy_place_that_is_gone_takes_no_more_parts() -> None:
    """Annotators on CPUs, when GPUs have come."""
    closed: list[Needs] = []
    lane = lane_of(ANNOTATE)
    lane.open = lambda needs: Slot(needs, lambda part: part, 2, close=lambda: closed.append(needs), hello="hello")
    lane.add(range(9))
    lane.adjust(Counter({Needs(4): 1}))
    alive(lane)
    [(_, old, first), (_, _, second)] = lane.start()
    lane.adjust(Counter({GPU: 1}))
    old.leave(first)
    assert list(lane.start()) == [] and len(lane.slots) == 2
    old.leave(second)
    lane.adjust(Counter({GPU: 1}))
    assert [slot.needs for slot in lane.slots] == [GPU] and closed == [Needs(4)]


def test_places_that_are_gone_are_left_once_they_are_empty() -> None:
    lane = lane_of(FETCH)
    lane.add(range(4))
    lane.adjust(Counter({Needs(0.25): 4}))
    begun = list(lane.start())
    for _, slot, part in begun[:3]:
        slot.leave(part)
    lane.add(range(4, 10))
    lane.adjust(Counter({Needs(0.25): 2}))
    assert len(lane.slots) == 2 and begun[3][1] in lane.slots


def test_a_suspect_is_alone_and_given_up_after_three_deaths() -> None:
    lane = lane_of(ANNOTATE)
    lane.add([7, 8])
    lane.adjust(Counter({GPU: 1}))
    alive(lane)
    assert [part for _, _, part in lane.start()] == [7, 8]
    [slot] = lane.slots
    assert [slot.leave(part) for part in (7, 8)] == [True, True]  # each had company
    assert lane.died(7, True, "ActorDiedError") is None
    assert lane.died(8, True, "ActorDiedError") is None
    for part, outcome in ((7, None), (8, "done"), (7, None), (7, Failure)):
        [(_, slot, begun)] = lane.start()
        assert begun == part and slot.leave(part) is False
        if outcome != "done":
            failure = lane.died(part, False, "ActorDiedError")
            assert (failure and type(failure)) == outcome
    assert failure and failure.part == 7 and "killed its worker 3 times while alone" in failure.error


def test_a_death_that_others_may_have_caused_does_not_count() -> None:
    lane = lane_of(FETCH)
    assert [lane.died(1, True, "NodeDiedError") for _ in range(9)] == [None] * 9
