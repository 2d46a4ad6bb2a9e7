"""The planner: a pure function from what is, what is wanted and the time to what should be done.

Jobs are taken in the order of `order.py`. Each gets GPUs if it fits; else GPUs of jobs it outranks; else it waits, with the
reason, and once it waited long, with nodes kept for it. No clock, no chance: the same view gives the same plan.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from functools import cached_property

from dcops.domain.planning import shortage
from dcops.domain.planning.cluster import View
from dcops.domain.planning.decisions import Lack, Place, Plan, Preempt, Shortage, Wait
from dcops.domain.planning.fairness import Ledger
from dcops.domain.planning.order import Rank, Standing, outranks, rank_running, rank_waiting
from dcops.domain.planning.outlook import Outlook
from dcops.domain.planning.policy import DEFAULT, Policy
from dcops.domain.planning.preemption import Class, Eviction, Victims
from dcops.domain.planning.reservation import Keeper
from dcops.domain.planning.room import Room
from dcops.domain.planning.workload import Job, Running

_NEVER = float("inf")


def plan(view: View, queue: Sequence[Job], now: float, policy: Policy = DEFAULT) -> Plan:
    """Decide about every queued job: place it, make room for it, or say why it waits."""
    desk = _Desk(view, now, policy)
    for rank, job in sorted((desk.rank(job), job) for job in queue):
        desk.decide(rank, job)
    return Plan(tuple(desk.places), tuple(desk.preempts), tuple(desk.waits))


class _Desk:
    """One plan in the making."""

    def __init__(self, view: View, now: float, policy: Policy) -> None:
        self.places: list[Place] = []
        self.preempts: list[Preempt] = []
        self.waits: list[Wait] = []
        self._view, self._now, self._policy = view, now, policy
        self._room = Room(view.nodes, view.running)
        self._ledger = Ledger(view.quotas, view.running)
        self._outlook = Outlook(view, now, policy.grace_s)
        self._kept_from: list[float] = []  # when each gang with kept nodes wants them
        self._reservations_left = policy.reservations
        self._known: dict[Hashable, Shortage] = {}

    def rank(self, job: Job) -> Rank:
        """The job's place in the order."""
        return rank_waiting(job, self._now, self._ledger, self._policy)

    def decide(self, rank: Rank, job: Job) -> None:
        """Give the job exactly one action."""
        if not self._ledger.allows(job.project, job.gpus):
            self._wait(job, self._quota_shortage(job))
            return
        ends_by = self._outlook.ends_by(job) if self._kept_from else _NEVER
        borrows = not self._ledger.owns(job.project, job.gpus)
        claim = Standing(rank.demotion, borrows, rank.band)
        alike = (job.shape, claim, bisect_left(self._kept_from, ends_by))
        short = self._known.get(alike) or self._try(job, claim, ends_by)
        if short is not None:
            if short.lack is not Lack.MAKING_ROOM:
                self._known[alike] = short
                self._keep_nodes(job, short)
            self._wait(job, short)

    def _try(self, job: Job, claim: Standing, ends_by: float) -> Shortage | None:
        """Place the job or make room for it. Return why not yet, or None if it is placed."""
        if (nodes := self._room.find(job.shape, ends_by)) is not None:
            self._ledger.take(job.project, job.gpus)
            self.places.append(Place(job.id, self._room.take(job, nodes)))
            return None
        if (eviction := self._eviction(job, claim, ends_by)) is not None:
            return self._evict(job, eviction)
        return shortage.of_nodes(job, self._room, self._view.running)

    def _eviction(self, job: Job, claim: Standing, ends_by: float) -> Eviction | None:
        found = self._victims.find(job, ends_by, lambda kind: self._yields(kind, claim))
        if found is None:
            return None
        orders = sum(not run.stopping for run in found.victims)
        return found if orders <= self._policy.max_preemptions - len(self.preempts) else None

    def _yields(self, kind: Class, claim: Standing) -> bool:
        """Whether running jobs of this class make way for a waiting one."""
        borrows = not self._ledger.owns(kind.project, 0)
        return kind.stopping or outranks(claim, Standing(kind.demotion, borrows, kind.band))

    def _interruptible(self, run: Running) -> bool:
        return (
            self._policy.preempts
            and run.job.preemptible
            and self._now - run.started_at >= self._policy.min_run_s
        )

    def _evict(self, job: Job, eviction: Eviction) -> Shortage:
        """Order the victims out and put the job's name on the nodes."""
        for run in eviction.victims:
            self._victims.remove(run)
            if not run.stopping:
                self._ledger.give(run.job.project, run.job.gpus)
                self.preempts.append(Preempt(run.job.id, job.id))
        self._ledger.take(job.project, job.gpus)
        self._room.take(job, eviction.nodes)
        leaving = tuple(run.job.id for run in eviction.victims)
        return Shortage(Lack.MAKING_ROOM, job.gpus, 0, leaving[:3], len(leaving))

    def _keep_nodes(self, job: Job, short: Shortage) -> None:
        """Keep nodes for a job that has waited long, if it is among the first such."""
        waited_s = self._now - job.submitted_at - job.ran_s
        if (
            self._reservations_left
            and waited_s >= self._policy.reserve_after_s
            and short.lack in (Lack.GPUS, Lack.FRAGMENTED, Lack.RESERVED)
        ):
            self._reservations_left -= 1
            starts = self._keeper.keep(job, self._now)
            if starts is not None:
                insort(self._kept_from, starts)

    def _wait(self, job: Job, short: Shortage) -> None:
        starts = self._outlook.starts(job, short)
        self.waits.append(Wait(job.id, short, len(self.waits) + 1, starts))

    def _quota_shortage(self, job: Job) -> Shortage:
        key = (job.project, job.gpus, self._ledger.held(job.project))
        if key not in self._known:
            self._known[key] = shortage.of_quota(job, self._ledger, self._view.running)
        return self._known[key]

    @cached_property
    def _victims(self) -> Victims:
        may = (run for run in self._view.running if run.stopping or self._interruptible(run))
        return Victims(
            ((rank_running(run, self._now, self._ledger, self._policy), run) for run in may),
            self._room,
        )

    @cached_property
    def _keeper(self) -> Keeper:
        return Keeper(self._room, self._view.running, self._outlook.leaves_at)
