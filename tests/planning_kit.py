"""Small fleets and jobs for tests of the planner, and the checks that hold of every plan."""

from collections import Counter
from collections.abc import Iterable, Sequence

from dcops.domain.planning.cluster import Gpu, Node, View
from dcops.domain.planning.decisions import Plan
from dcops.domain.planning.fairness import Ledger, Quota
from dcops.domain.planning.order import Standing, outranks, rank_running, rank_waiting
from dcops.domain.planning.policy import DEFAULT, Policy
from dcops.domain.planning.workload import PLAIN, Job, Kind, Needs, Running, Shape, Slot

NOW = 1_000_000.0


def nodes(count: int, gpus: int = 8, per_rack: int = 4, kind: Kind = PLAIN) -> tuple[Node, ...]:
    return tuple(
        Node(
            i,
            f"node-{i}",
            tuple(Gpu(100 * i + k) for k in range(gpus)),
            kind,
            rack=f"rack-{i // per_rack}",
            switch=f"switch-{i // (2 * per_rack)}",
        )
        for i in range(count)
    )


def job(
    number: int, gpus: int = 1, *, nodes: int = 1, needs: Needs | None = None, **facts: object
) -> Job:
    """A job that wants so many GPUs on each of so many nodes, submitted a minute ago unless said otherwise."""
    return Job(
        number, Shape(nodes, gpus, needs or Needs()), **({"submitted_at": NOW - 60} | facts)
    )


def running(
    what: Job, *places: tuple[int, Iterable[int]], since: float = 3_600.0, stopping: bool = False
) -> Running:
    """The job on GPUs (node, positions on it), running for so many seconds."""
    slots = tuple(Slot(node, tuple(100 * node + k for k in gpus)) for node, gpus in places)
    return Running(what, NOW - since, slots, stopping)


def placed(plan: Plan) -> dict[int, dict[int, int]]:
    """job -> node -> how many GPUs."""
    return {p.job: {slot.node: len(slot.gpus) for slot in p.slots} for p in plan.places}


def preempted(plan: Plan) -> dict[int, int]:
    """job that goes -> job it goes for."""
    return {p.job: p.by for p in plan.preempts}


def waiting(plan: Plan) -> dict[int, str]:
    """job -> what it lacks."""
    return {w.job: w.shortage.lack.value for w in plan.waits}


def check_plan(view: View, queue: Sequence[Job], plan: Plan, policy: Policy = DEFAULT) -> None:
    """Raise AssertionError unless the plan keeps every promise of the planner."""
    check_one_action_each(queue, plan)
    check_gpus(view, plan)
    check_gangs(view, queue, plan)
    check_quotas(view, queue, plan)
    check_preemptions(view, queue, plan, policy)


def check_one_action_each(queue: Sequence[Job], plan: Plan) -> None:
    acted = Counter([p.job for p in plan.places] + [w.job for w in plan.waits])
    assert acted == Counter(j.id for j in queue)
    assert [w.place for w in plan.waits] == list(range(1, len(plan.waits) + 1))


def check_gpus(view: View, plan: Plan) -> None:
    """Each GPU is given at most once, exists on that node, is usable and open, and was free."""
    may_give = {
        (node.id, gpu.id)
        for node in view.nodes
        for gpu in node.gpus
        if gpu.usable and node.state == "open"
    }
    held = {(s.node, gpu) for run in view.running for s in run.slots for gpu in s.gpus}
    given = [(s.node, gpu) for p in plan.places for s in p.slots for gpu in s.gpus]
    assert len(given) == len(set(given))
    assert set(given) <= may_give - held


def check_gangs(view: View, queue: Sequence[Job], plan: Plan) -> None:
    """All or nothing, on different nodes that offer what is needed, without overbooking CPUs or memory."""
    jobs, fleet = {j.id: j for j in queue}, {node.id: node for node in view.nodes}
    cpus = Counter({node.id: node.kind.cpus for node in view.nodes})
    for run in view.running:
        cpus.subtract({slot.node: run.job.shape.needs.cpus for slot in run.slots})
    for place in plan.places:
        shape = jobs[place.job].shape
        assert [len(slot.gpus) for slot in place.slots] == [shape.gpus_per_node] * shape.nodes
        assert len({slot.node for slot in place.slots}) == shape.nodes
        assert all(shape.needs.met_by(fleet[slot.node].kind) for slot in place.slots)
        for slot in place.slots:
            cpus[slot.node] -= shape.needs.cpus
            assert cpus[slot.node] >= 0 or not shape.needs.cpus


def check_quotas(view: View, queue: Sequence[Job], plan: Plan) -> None:
    """No project is brought over its ceiling, counting GPUs still to be vacated for its jobs."""
    jobs = {j.id: j for j in queue}
    held = Counter()
    for run in view.running:
        held[run.job.project] += run.job.gpus
    started = Counter()
    for place in plan.places:
        started[jobs[place.job].project] += jobs[place.job].gpus
    gone = {p.job for p in plan.preempts}
    for run in view.running:
        if run.job.id in gone:
            held[run.job.project] -= run.job.gpus
    for project, gpus in started.items():
        assert held[project] + gpus <= view.quotas.get(project, Quota()).ceiling


def check_preemptions(view: View, queue: Sequence[Job], plan: Plan, policy: Policy) -> None:
    """Only preemptible jobs past their minimum run go, each once, for a waiting job that stands higher."""
    runs, jobs = {run.job.id: run for run in view.running}, {j.id: j for j in queue}
    making_room = {w.job for w in plan.waits if w.shortage.lack == "making room"}
    ledger = Ledger(view.quotas, view.running)
    assert len(plan.preempts) == len({p.job for p in plan.preempts}) <= policy.max_preemptions
    for order in plan.preempts:
        run = runs[order.job]
        assert policy.preempts
        assert run.job.preemptible
        assert not run.stopping
        assert NOW - run.started_at >= policy.min_run_s
        assert order.by in making_room
        waits = rank_waiting(jobs[order.by], NOW, ledger, policy)
        runs_at = rank_running(run, NOW, ledger, policy)
        assert outranks(
            Standing(waits.demotion, False, waits.band),
            Standing(runs_at.demotion, runs_at.borrows, runs_at.band),
        )
