"""Replay of a job trace in virtual time, with the very planner that runs the real fleet.

The planner never sees a duration: only what a job has had so far, and the run times of jobs that finished before. Stopping is
immediate here; what an interruption costs is added to the work that remains.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dcops.domain.planning.cluster import Gpu, Node, View
from dcops.domain.planning.decisions import Plan
from dcops.domain.planning.estimate import History
from dcops.domain.planning.placement import plan
from dcops.domain.planning.policy import DEFAULT, Policy
from dcops.domain.planning.workload import Job, Running, shape_for


@dataclass(frozen=True, slots=True)
class Traced:
    """One row of a trace: when it was submitted (s), what it asked for and how long it runs undisturbed (s)."""

    submit_s: float
    job_id: str
    gpus: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Setup:
    """The imagined fleet: one pool of equal nodes, how often is decided, and what an interruption costs by size, in seconds."""

    nodes: int
    gpus_per_node: int = 8
    policy: Policy = DEFAULT
    every_s: float = 60.0
    preempt_cost_s: float = 40.0
    preempt_cost_gang_s: float = 60.0

    def cost_s(self, gpus: int) -> float:
        """Seconds added to a job's remaining work when it is interrupted."""
        return self.preempt_cost_s if gpus <= self.gpus_per_node else self.preempt_cost_gang_s


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a job. Its wait is all the time it was not running."""

    traced: Traced
    ended_s: float
    waited_s: float
    preempted: int

    @property
    def completion_s(self) -> float:
        """Job completion time: from submission to end."""
        return self.ended_s - self.traced.submit_s


@dataclass(slots=True)
class _Life:
    """A job on its way through the replay."""

    traced: Traced
    job: Job
    left_s: float
    run: Running | None = None
    ran_s: float = 0.0
    preempted: int = 0


class Replay:
    """The state of a replay. `step` decides once and returns the jobs that finished since the last time."""

    def __init__(self, trace: Sequence[Traced], setup: Setup) -> None:
        self._setup = setup
        self._nodes = fleet(setup.nodes, setup.gpus_per_node)
        self._lives = [
            _Life(row, self._job(i, row), row.duration_s)
            for i, row in enumerate(sorted(trace, key=lambda row: row.submit_s))
        ]
        self._arrived = 0
        self._queue: dict[int, Job] = {}
        self._running: dict[int, Running] = {}
        self._ends: list[tuple[float, int, float]] = []  # end, job, start of that attempt
        self._history = History()

    def _job(self, i: int, row: Traced) -> Job:
        shape = shape_for(row.gpus, self._setup.gpus_per_node)
        return Job(i, shape, row.submit_s, likeness=str(row.gpus))

    def run(self) -> Iterator[Finished]:
        """Yield every job as it finishes. A job that can never run is never yielded."""
        now = self._next(0.0)
        while now is not None:
            yield from self._finish(now)
            self._arrive(now)
            self._decide(now)
            now = self._next(now)

    def _next(self, now: float) -> float | None:
        """The next time to decide: a whole number of rounds, not before anything happens."""
        every = self._setup.every_s
        if self._queue and self._running and self._setup.policy.preempts:
            return now + every
        events = [end for end, _, _ in self._ends[:1]]
        events += [life.traced.submit_s for life in self._lives[self._arrived : self._arrived + 1]]
        return max(now, -(-min(events) // every) * every) if events else None

    def _arrive(self, now: float) -> None:
        while (
            self._arrived < len(self._lives) and self._lives[self._arrived].traced.submit_s <= now
        ):
            self._queue[self._arrived] = self._lives[self._arrived].job
            self._arrived += 1

    def _finish(self, now: float) -> Iterator[Finished]:
        while self._ends and self._ends[0][0] <= now:
            ended, i, started = heapq.heappop(self._ends)
            run = self._running.get(i)
            if run is None or run.started_at != started:
                continue  # that attempt was interrupted
            del self._running[i]
            life = self._lives[i]
            ran_s = life.job.ran_s + ended - started
            self._history.observe(life.job.likeness, ran_s)
            yield Finished(
                life.traced, ended, ended - life.traced.submit_s - ran_s, life.preempted
            )

    def _decide(self, now: float) -> None:
        """Plan and apply until nobody has to be interrupted any more."""
        while self._queue:
            view = View(self._nodes, tuple(self._running.values()), history=self._history)
            made = plan(view, tuple(self._queue.values()), now, self._setup.policy)
            self._apply(made, now)
            if not made.preempts:
                return

    def _apply(self, made: Plan, now: float) -> None:
        for placed in made.places:
            job = self._queue.pop(placed.job)
            self._running[job.id] = Running(job, now, placed.slots)
            heapq.heappush(self._ends, (now + self._lives[job.id].left_s, job.id, now))
        for preempted in made.preempts:
            self._interrupt(self._running.pop(preempted.job), now)

    def _interrupt(self, run: Running, now: float) -> None:
        life = self._lives[run.job.id]
        life.job = replace(run.job, ran_s=run.ran_s(now))
        life.left_s += self._setup.cost_s(run.job.gpus) - (now - run.started_at)
        life.preempted += 1
        self._queue[run.job.id] = life.job


def fleet(nodes: int, gpus_per_node: int) -> tuple[Node, ...]:
    """Equal nodes, without racks."""
    return tuple(
        Node(i, f"node-{i}", tuple(Gpu(i * gpus_per_node + k) for k in range(gpus_per_node)))
        for i in range(nodes)
    )


@dataclass(frozen=True, slots=True)
class Report:
    """What a replay shows. Times in seconds; utilization is the part of all GPU time, first submission to last end, spent on jobs' own work."""

    jobs: int
    mean_jct_s: float
    median_jct_s: float
    p99_jct_s: float
    p999_jct_s: float
    mean_wait_s: float
    median_wait_s: float
    p99_wait_s: float
    p999_wait_s: float
    utilization: float
    preemptions: int
    makespan_s: float


def simulate(trace: Sequence[Traced], setup: Setup) -> Report:
    """Replay the trace to its end. Every job must fit the fleet."""
    done = list(Replay(trace, setup).run())
    return report(done, setup.nodes * setup.gpus_per_node)


def report(done: Sequence[Finished], gpus: int) -> Report:
    """Sum up finished jobs, at least one."""
    times = sorted(job.completion_s for job in done)
    waits = sorted(job.waited_s for job in done)
    makespan = max(job.ended_s for job in done) - min(job.traced.submit_s for job in done)
    work = sum(job.traced.duration_s * job.traced.gpus for job in done)
    return Report(
        jobs=len(done),
        mean_jct_s=sum(times) / len(times),
        median_jct_s=quantile(times, 0.5),
        p99_jct_s=quantile(times, 0.99),
        p999_jct_s=quantile(times, 0.999),
        mean_wait_s=sum(waits) / len(waits),
        median_wait_s=quantile(waits, 0.5),
        p99_wait_s=quantile(waits, 0.99),
        p999_wait_s=quantile(waits, 0.999),
        utilization=work / (gpus * makespan) if makespan else 0.0,
        preemptions=sum(job.preempted for job in done),
        makespan_s=makespan,
    )


def quantile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that so large a part of the ordered values does not exceed."""
    return ordered[max(0, -(-len(ordered) * part // 1).__int__() - 1)]
