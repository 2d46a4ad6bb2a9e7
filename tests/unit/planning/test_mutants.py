"""The suite has teeth: ten planted faults, each seen by the checks or by an example."""

from collections.abc import Callable

import pytest

from dcops.domain.planning import order, placement, preemption
from dcops.domain.planning.cluster import View
from dcops.domain.planning.fairness import Ledger, Quota
from dcops.domain.planning.placement import plan
from dcops.domain.planning.preemption import Eviction, Victims
from dcops.domain.planning.reservation import Keeper
from dcops.domain.planning.room import Room
from dcops.domain.planning.topology import Topology
from dcops.domain.planning.workload import Needs, Slot
from tests.planning_kit import NOW, check_plan, job, nodes, placed, preempted, running, waiting

DAY = 86_400.0
SATED = {"ran_s": 10 * DAY, "submitted_at": NOW - 10 * DAY - 60}


def sound() -> None:
    """Situations that between them touch every rule; raises AssertionError if one is broken."""
    full = View(
        nodes(2),
        (
            running(job(1, 8, **SATED), (0, range(8))),
            running(job(2, 8, **SATED), (1, range(8)), since=60),
        ),
    )
    queue = [job(10, 8), job(11, 4)]
    got = plan(full, queue, NOW)
    check_plan(full, queue, got)
    assert preempted(got) == {1: 10}

    owned = View(
        nodes(1),
        (running(job(1, 4, **SATED, project="b"), (0, range(4))),),
        {"a": Quota(0, 4), "b": Quota(8)},
    )
    queue = [job(10, 3, project="a"), job(11, 3, project="a"), job(12)]
    got = plan(owned, queue, NOW)
    check_plan(owned, queue, got)
    assert waiting(got)[11] == "quota"

    kept = View(nodes(2), (running(job(1, 8, preemptible=False), (0, range(8))),))
    assert not placed(plan(kept, [job(10, 8, nodes=2, submitted_at=NOW - DAY), job(11, 4)], NOW))

    racks = View(nodes(8), (running(job(1, 8), (0, range(8))),))
    assert set(placed(plan(racks, [job(10, 8, nodes=4)], NOW))[10]) == {4, 5, 6, 7}

    tight = View(nodes(2), (running(job(1, 6), (1, range(6))),))
    assert placed(plan(tight, [job(10, 2)], NOW)) == {10: {1: 2}}

    picky = [job(10, needs=Needs(model="H200"))]
    check_plan(tight, picky, plan(tight, picky, NOW))
    assert waiting(plan(tight, picky, NOW)) == {10: "hardware"}

    equals = [job(12), job(11), job(10, submitted_at=NOW - 90)]
    assert list(placed(plan(View(nodes(1, gpus=2)), equals, NOW))) == [10, 11]

    leaving = View(nodes(1), (running(job(1, 8, **SATED), (0, range(8)), stopping=True),))
    assert not plan(leaving, [job(10, 8)], NOW).preempts


def test_without_a_fault_nothing_is_seen() -> None:
    sound()


def given_twice(room: Room, i: int, shape) -> Slot:
    return Slot(room.nodes[i].id, room._free[i][: shape.gpus_per_node])


def half_a_gang(topology: Topology, candidates: list[int], wanted: int) -> tuple[int, ...]:
    return tuple(candidates[:wanted])


def nobody_remembered(victims: Victims, run) -> None:
    """The GPUs of a victim are promised to everybody."""


def loosest(room: Room, shape, ends_at: float):
    return reversed([i for bucket in room._buckets[shape.gpus_per_node :] for i in bucket])


def without_number(job_, now, ledger, policy):
    return order.rank(job_, job_.ran_s, now, False, 0, policy)._replace(
        submitted_at=0.0, id=-job_.id
    )


def more_than_needed(victims: Victims, job_, ends_at, yields) -> Eviction | None:
    runs = {v.run.job.id: v.run for held in victims._by_node.values() for v in held.values()}
    return Eviction(tuple(range(job_.shape.nodes)), tuple(runs.values())) if runs else None


MUTANTS: dict[str, tuple[object, str, Callable[..., object]]] = {
    "a GPU is given twice": (Room, "_take", given_twice),
    "racks are ignored": (Topology, "closest", half_a_gang),
    "a ceiling is ignored": (Ledger, "allows", lambda *_: True),
    "needs are ignored": (Needs, "met_by", lambda *_: True),
    "the loosest node is taken": (Room, "candidates", loosest),
    "ties go the wrong way": (placement, "rank_waiting", without_number),
    "everybody yields": (preemption.Victims, "find", more_than_needed),
    "the minimum run is ignored": (placement._Desk, "_interruptible", lambda *_: True),
    "nothing is kept": (Keeper, "keep", lambda *_: None),
    "nobody outranks": (placement, "outranks", lambda *_: False),
}


@pytest.mark.parametrize("fault", MUTANTS)
def test_a_planted_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[fault])
    with pytest.raises((AssertionError, KeyError)):
        sound()
