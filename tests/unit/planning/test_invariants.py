"""What holds of every plan, tried on fleets and queues nobody thought of, and on whole replays."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dcops.domain.planning.cluster import View
from dcops.domain.planning.fairness import Quota
from dcops.domain.planning.placement import plan
from dcops.domain.planning.policy import POLICIES, Policy
from dcops.domain.planning.simulate import Setup, Traced, simulate
from dcops.domain.planning.workload import Job, Kind, Needs, Running, Shape, Slot
from tests.planning_kit import NOW, check_plan, nodes

KINDS = (Kind(cpus=64), Kind(model="H200", cpus=64, labels=frozenset({"fast"})))
NEEDS = (Needs(), Needs(model="H200"), Needs(cpus=30), Needs(labels=frozenset({"fast"})))
PROJECTS = ("a", "b", "c")


@st.composite
def jobs(draw: st.DrawFn, number: int) -> Job:
    return Job(
        number,
        Shape(draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.sampled_from(NEEDS))),
        submitted_at=NOW - draw(st.integers(0, 5)) * 50_000,
        project=draw(st.sampled_from(PROJECTS)),
        priority=draw(st.integers(0, 1)),
        preemptible=draw(st.integers(0, 4)) > 0,
        ran_s=draw(st.sampled_from((0.0, 2_000.0, 200_000.0))),
        time_limit_s=draw(st.sampled_from((float("inf"), 250_000.0))),
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[View, list[Job]]:
    """Up to 8 nodes of 4 GPUs, some broken, some held; quotas are bounds on what is started, so held GPUs may exceed them."""
    fleet = tuple(
        replace(
            node,
            kind=draw(st.sampled_from(KINDS)),
            state=draw(st.sampled_from(("open",) * 5 + ("draining",))),
            gpus=tuple(replace(gpu, usable=draw(st.integers(0, 9)) > 0) for gpu in node.gpus),
        )
        for node in nodes(draw(st.integers(1, 8)), gpus=4)
    )
    held = []
    for node in fleet:
        free = [gpu.id for gpu in node.gpus]
        while free and draw(st.booleans()):
            count = draw(st.integers(1, len(free)))
            base = draw(jobs(len(held)))
            held.append(
                Running(
                    replace(base, shape=Shape(1, count)),
                    NOW - draw(st.sampled_from((0, 599, 600, 90_000))),
                    (Slot(node.id, tuple(free[:count])),),
                    draw(st.integers(0, 5)) == 0,
                )
            )
            free = free[count:]
    quotas = {
        name: Quota(nominal, nominal + draw(st.integers(0, 16)))
        for name in PROJECTS
        for nominal in [draw(st.integers(0, 16))]
    }
    queue = [draw(jobs(1_000 + k)) for k in range(draw(st.integers(0, 8)))]
    return View(fleet, tuple(held), quotas), queue


@settings(max_examples=150, deadline=None)
@given(situations(), st.sampled_from(sorted(POLICIES)))
def test_every_plan_keeps_every_promise(situation: tuple[View, list[Job]], name: str) -> None:
    view, queue = situation
    policy = replace(POLICIES[name], max_preemptions=3)
    check_plan(view, queue, plan(view, queue, NOW, policy), policy)


@settings(max_examples=50, deadline=None)
@given(situations(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_told_changes_nothing(situation, shuffled) -> None:
    view, queue = situation
    other, runs = list(queue), list(view.running)
    shuffled.shuffle(other)
    shuffled.shuffle(runs)
    again = View(view.nodes, tuple(runs), view.quotas)
    assert plan(again, other, NOW) == plan(view, queue, NOW)


def crowd(count: int) -> list[Traced]:
    """A stream of small jobs that alone would keep 2 nodes of 8 GPUs busier than they can be."""
    return [Traced(100.0 * k, f"small-{k}", 4, 450.0) for k in range(count)]


def test_nodes_kept_for_a_large_job_end_its_wait_behind_a_stream_of_small_ones() -> None:
    trace = [*crowd(150), Traced(50.0, "large", 16, 60.0)]

    def longest_wait(policy: str) -> float:
        return simulate(trace, Setup(2, policy=POLICIES[policy])).p999_wait_s

    assert longest_wait("backfill") < 3_600 + 1_000 < longest_wait("fifo")


def test_ageing_bounds_the_wait_of_a_job_that_had_much() -> None:
    trace = [
        Traced(0.0, "old", 16, 6_000.0),
        *(Traced(700.0 + 150.0 * k, f"{k}", 8, 280.0) for k in range(300)),
    ]

    def waited(promote_after_s: float) -> float:
        return simulate(
            trace, Setup(2, policy=Policy(promote_after_s=promote_after_s))
        ).p999_wait_s

    assert waited(3_600.0) < waited(1e9)


def test_every_job_of_a_replay_ends_once_and_takes_at_least_its_work() -> None:
    trace = crowd(60)
    report = simulate(trace, Setup(2))
    assert report.jobs == 60
    assert report.mean_jct_s >= 450.0
    assert 0 < report.utilization <= 1
    assert simulate(trace, Setup(2)) == report


def test_an_interruption_costs_what_the_setup_says() -> None:
    trace = [Traced(0.0, "long", 8, 10_000.0), Traced(5_000.0, "short", 8, 60.0)]
    free = simulate(trace, Setup(1, preempt_cost_s=0.0))
    dear = simulate(trace, Setup(1, preempt_cost_s=40.0))
    assert (free.preemptions, dear.preemptions) == (1, 1)
    assert dear.makespan_s == free.makespan_s + 40.0
