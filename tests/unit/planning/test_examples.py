"""What the planner does, told by small examples."""

import pytest

from dcops.domain.planning.cluster import Gpu, Node, Readiness, View
from dcops.domain.planning.decisions import sentence
from dcops.domain.planning.estimate import History
from dcops.domain.planning.fairness import Quota, decayed
from dcops.domain.planning.order import band
from dcops.domain.planning.placement import plan
from dcops.domain.planning.policy import POLICIES, Policy
from dcops.domain.planning.workload import Kind, Needs, shape_for
from tests.planning_kit import NOW, job, nodes, placed, preempted, running, waiting

HOUR, DAY = 3_600.0, 86_400.0
OLD_SERVICE = {
    "ran_s": 10 * DAY,
    "submitted_at": NOW - 10 * DAY - HOUR,
}  # had much already, waited little


def test_a_small_job_goes_to_the_tightest_node() -> None:
    view = View(nodes(3), (running(job(1, 5), (1, range(5))), running(job(2, 3), (2, range(3)))))
    assert placed(plan(view, [job(10, 2)], NOW)) == {10: {1: 2}}


def test_a_gang_gets_whole_nodes_of_one_rack() -> None:
    view = View(nodes(8), (running(job(1, 8), (0, range(8))),))
    assert placed(plan(view, [job(10, 8, nodes=4)], NOW)) == {10: dict.fromkeys((4, 5, 6, 7), 8)}


def test_a_gang_takes_the_tightest_rack_that_holds_it() -> None:
    view = View(nodes(8), (running(job(1, 8, nodes=2), (4, range(8)), (5, range(8))),))
    assert placed(plan(view, [job(10, 8, nodes=2)], NOW)) == {10: {6: 8, 7: 8}}


def test_a_gang_too_large_for_a_rack_stays_under_one_switch() -> None:
    view = View(nodes(16), (running(job(1, 8), (3, range(8))),))
    got = placed(plan(view, [job(10, 8, nodes=6)], NOW))
    assert set(got[10]) <= set(range(8))


def test_a_gang_gets_all_or_nothing() -> None:
    view = View(nodes(2), (running(job(1, 1, preemptible=False), (0, [0])),))
    got = plan(view, [job(10, 8, nodes=2)], NOW)
    assert (placed(got), waiting(got)) == ({}, {10: "gpus"})


def test_a_blocked_job_does_not_stop_the_next_one() -> None:
    view = View(nodes(1), (running(job(1, 4, preemptible=False), (0, range(4))),))
    got = plan(view, [job(10, 8), job(11, 4)], NOW)
    assert (placed(got), waiting(got)) == ({11: {0: 4}}, {10: "gpus"})


def test_equal_jobs_go_by_submission_and_then_by_number() -> None:
    queue = [job(12), job(11), job(10, submitted_at=NOW)]
    assert list(placed(plan(View(nodes(1, gpus=2)), queue, NOW))) == [11, 12]


def test_a_higher_priority_goes_first() -> None:
    queue = [job(10, 8), job(11, 8, priority=1)]
    assert placed(plan(View(nodes(1)), queue, NOW)) == {11: {0: 8}}


def test_the_job_that_had_less_goes_first() -> None:
    queue = [job(10, 8, **OLD_SERVICE), job(11, 8)]
    assert placed(plan(View(nodes(1)), queue, NOW)) == {11: {0: 8}}


def test_waiting_lifts_a_job_band_by_band() -> None:
    assert [band(400_000, days * DAY, Policy()) for days in (0, 1, 2, 3, 9)] == [3, 2, 1, 0, 0]
    assert [band(service, 0, Policy()) for service in (0, 3_599, 3_600, 18_000)] == [0, 0, 1, 2]


def test_a_new_job_interrupts_one_that_had_much() -> None:
    view = View(nodes(1), (running(job(1, 8, **OLD_SERVICE), (0, range(8))),))
    got = plan(view, [job(10, 8)], NOW)
    assert (preempted(got), waiting(got)) == ({1: 10}, {10: "making room"})


def test_the_weakest_is_interrupted_even_if_it_is_larger() -> None:
    fleet = (
        running(job(1, 4, **OLD_SERVICE), (0, range(4))),
        running(job(2, 1), (0, [4]), since=HOUR),
    )
    full = (*fleet, running(job(3, 3, preemptible=False), (0, [5, 6, 7])))
    assert preempted(plan(View(nodes(1), full), [job(10, 1)], NOW)) == {1: 10}


@pytest.mark.parametrize(
    "spared",
    [
        running(job(1, 8, **OLD_SERVICE), (0, range(8)), since=599),
        running(job(1, 8, preemptible=False, **OLD_SERVICE), (0, range(8))),
        running(job(1, 8, priority=1, **OLD_SERVICE), (0, range(8))),
        running(job(1, 8), (0, range(8)), since=10),
    ],
    ids=["just started", "not preemptible", "higher priority", "same band"],
)
def test_who_is_not_interrupted(spared) -> None:
    got = plan(View(nodes(1), (spared,)), [job(10, 8)], NOW)
    assert (preempted(got), waiting(got)) == ({}, {10: "gpus"})


def test_nobody_is_interrupted_twice_for_room_that_is_already_being_made() -> None:
    leaving = running(job(1, 8, **OLD_SERVICE), (0, range(8)), stopping=True)
    other = running(job(2, 8, **OLD_SERVICE), (1, range(8)))
    got = plan(View(nodes(2), (leaving, other)), [job(10, 8)], NOW)
    assert (preempted(got), waiting(got)) == ({}, {10: "making room"})


def test_room_made_for_one_job_is_not_given_to_the_next() -> None:
    view = View(nodes(1), (running(job(1, 4, **OLD_SERVICE), (0, range(4))),))
    got = plan(view, [job(10, 8), job(11, 4)], NOW)
    assert (placed(got), waiting(got)) == ({}, {10: "making room", 11: "gpus"})


def test_a_plan_interrupts_no_more_jobs_than_the_policy_allows() -> None:
    view = View(nodes(1), tuple(running(job(k, 1, **OLD_SERVICE), (0, [k])) for k in range(8)))
    got = plan(view, [job(10 + k) for k in range(8)], NOW, Policy(max_preemptions=3))
    assert len(got.preempts) == 3


def test_first_come_first_served_never_interrupts() -> None:
    view = View(nodes(1), (running(job(1, 8, **OLD_SERVICE), (0, range(8))),))
    assert plan(view, [job(10, 8, priority=9)], NOW, POLICIES["fifo"]).preempts == ()


def test_a_project_stops_at_its_ceiling_and_others_go_on() -> None:
    quotas = {"a": Quota(nominal=2, ceiling=3)}
    queue = [job(10, 2, project="a"), job(11, 2, project="a"), job(12, 2, project="b")]
    got = plan(View(nodes(1), quotas=quotas), queue, NOW)
    assert (set(placed(got)), waiting(got)) == ({10, 12}, {11: "quota"})
    assert "Project a may hold 1 more GPUs and this job needs 2." in sentence(got.waits[0])


def test_who_borrowed_gives_back() -> None:
    quotas = {"a": Quota(nominal=4), "b": Quota(nominal=4)}
    held = tuple(
        running(job(k, 4, project="b"), (0, range(4 * k, 4 * k + 4)), since=HOUR - k)
        for k in (0, 1)
    )
    got = plan(View(nodes(1), held, quotas), [job(10, 4, project="a", **OLD_SERVICE)], NOW)
    assert set(preempted(got).values()) == {10}
    assert len(got.preempts) == 1


def test_who_would_borrow_takes_nothing_from_those_within_their_share() -> None:
    quotas = {"a": Quota(nominal=4), "b": Quota(nominal=8)}
    held = (running(job(1, 8, project="b", **OLD_SERVICE), (0, range(8))),)
    got = plan(View(nodes(1), held, quotas), [job(10, 8, project="a")], NOW)
    assert (preempted(got), waiting(got)) == ({}, {10: "gpus"})


def test_the_project_that_used_less_lately_goes_first() -> None:
    quotas = {"a": Quota(used=1e9), "b": Quota(used=10.0)}
    queue = [job(10, 8, project="a"), job(11, 8, project="b")]
    assert placed(plan(View(nodes(1), quotas=quotas), queue, NOW)) == {11: {0: 8}}
    assert decayed(100, elapsed_s=14 * DAY, half_life_s=7 * DAY) == pytest.approx(25)


def test_nodes_are_kept_for_the_oldest_blocked_gang() -> None:
    view = View(nodes(2), (running(job(1, 8, preemptible=False), (0, range(8))),))
    queue = [job(10, 8, nodes=2, submitted_at=NOW - DAY), job(11, 4)]
    got = plan(view, queue, NOW)
    assert (placed(got), waiting(got)) == ({}, {10: "gpus", 11: "reserved"})


def test_a_job_that_ends_in_time_slips_in_before_the_gang() -> None:
    history = History()
    for _ in range(10):
        history.observe("short", 100)
        history.observe("long", 50_000)
    view = View(
        nodes(2),
        (running(job(1, 8, preemptible=False, likeness="long"), (0, range(8))),),
        history=history,
    )
    queue = [job(10, 8, nodes=2, submitted_at=NOW - DAY), job(11, 4, likeness="short"), job(12, 4)]
    got = plan(view, queue, NOW)
    assert (set(placed(got)), waiting(got)) == ({11}, {10: "gpus", 12: "reserved"})


def test_a_time_limit_lets_a_job_slip_in_too() -> None:
    view = View(nodes(2), (running(job(1, 8, preemptible=False), (0, range(8))),))
    queue = [job(10, 8, nodes=2, submitted_at=NOW - DAY), job(11, 4, time_limit_s=60)]
    assert set(placed(plan(view, queue, NOW))) == {11}


@pytest.mark.parametrize(
    ("needs", "kind"),
    [
        (Needs(model="H200"), Kind(model="A100")),
        (Needs(gpu_memory=80), Kind(gpu_memory=40)),
        (Needs(cpus=65), Kind(cpus=64)),
        (Needs(memory=2), Kind(memory=1)),
        (Needs(labels=frozenset({"zone=b"})), Kind(labels=frozenset({"zone=a"}))),
        (Needs(), Kind(taints=frozenset({"simulated"}))),
    ],
)
def test_a_job_no_node_can_run_is_told_so(needs: Needs, kind: Kind) -> None:
    got = plan(View(nodes(2, kind=kind)), [job(10, needs=needs)], NOW)
    assert waiting(got) == {10: "hardware"}
    assert got.waits[0].starts is None


def test_a_tolerated_taint_keeps_nobody_away() -> None:
    view = View(nodes(1, kind=Kind(taints=frozenset({"simulated"}))))
    assert placed(plan(view, [job(10, needs=Needs(tolerates=frozenset({"simulated"})))], NOW))


def test_cpus_of_running_jobs_are_taken() -> None:
    needs = Needs(cpus=40)
    view = View(
        nodes(1, kind=Kind(cpus=64)),
        (running(job(1, 1, needs=needs, preemptible=False), (0, [0])),),
    )
    assert waiting(plan(view, [job(10, needs=needs)], NOW)) == {10: "host"}


def test_closed_nodes_and_unusable_gpus_get_nothing() -> None:
    closed = tuple(
        Node(i, "", (Gpu(i),), state=state) for i, state in enumerate(list(Readiness)[1:])
    )
    broken = Node(9, "", (Gpu(9, usable=False),))
    got = plan(View((*closed, broken)), [job(10), job(11, 0)], NOW)
    assert waiting(got) == {10: "closed"}
    assert placed(got) == {11: {9: 0}}


def test_a_wait_says_who_holds_what_and_when_it_may_end() -> None:
    held = tuple(running(job(k, 2, preemptible=False), (k, [0, 1])) for k in range(2))
    got = plan(View(nodes(2, gpus=3), held), [job(10, 2)], NOW)
    said = sentence(got.waits[0])
    assert "Number 1 in line." in said
    assert "needs 2 GPUs together; 2 are free, but scattered" in said
    assert "Held by jobs 0, 1." in said
    assert "With 1 GPU per node it would start now." in said
    assert "Likely to start in" in said


def test_later_places_in_line_start_later() -> None:
    held = tuple(
        running(job(k, 1, preemptible=False), (0, [k]), since=60.0 * (k + 2)) for k in range(8)
    )
    waits = plan(View(nodes(1), held), [job(10 + k) for k in range(20)], NOW).waits
    likely = [w.starts.likely_s for w in waits]
    assert likely == sorted(likely)
    assert likely[0] < likely[-1]
    assert all(w.starts.low_s <= w.starts.likely_s <= w.starts.high_s for w in waits)


def test_history_speaks_of_those_that_got_as_far() -> None:
    history = History()
    for ran_s in range(100, 1_100, 100):
        history.observe("x", float(ran_s))
    assert history.remaining("x", 0).likely_s == 600
    assert history.remaining("x", 550).likely_s == 250
    assert history.remaining("x", 990).likely_s == 990  # too few got further: as long again


def test_history_forgets_the_oldest() -> None:
    history = History(depth=5)
    for ran_s in [9_000.0] * 5 + [10.0] * 5:
        history.observe("x", ran_s)
    assert history.remaining("x", 0).high_s == 10


@pytest.mark.parametrize(
    ("gpus", "shape"), [(1, (1, 1)), (8, (1, 8)), (12, (2, 6)), (13, (2, 7)), (64, (8, 8))]
)
def test_a_number_of_gpus_becomes_equal_parts(gpus: int, shape: tuple[int, int]) -> None:
    got = shape_for(gpus, 8)
    assert (got.nodes, got.gpus_per_node) == shape
