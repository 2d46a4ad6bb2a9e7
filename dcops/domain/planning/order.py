"""Who goes first: class, entitlement, service had so far, fair share, and then the time of asking."""

from bisect import bisect_right
from typing import NamedTuple

from dcops.domain.planning.fairness import Ledger
from dcops.domain.planning.policy import Policy
from dcops.domain.planning.workload import Job, Running


class Standing(NamedTuple):
    """The part of a rank that is worth an interruption; the smaller, the stronger."""

    demotion: int  # minus the priority
    borrows: bool
    band: int


class Rank(NamedTuple):
    """A place in the order; the smaller, the earlier. The last two make it total, so equal jobs never swap."""

    demotion: int
    borrows: bool
    band: int
    share: int
    submitted_at: float
    id: int


def band(service: float, waited_s: float, policy: Policy) -> int:
    """Return the band of a job that had so many GPU-seconds, 0 the first. Waiting lifts it, so nobody waits for ever."""
    sunk = bisect_right(policy.service_limits, service)
    return max(0, sunk - int(waited_s // policy.promote_after_s))


def rank(job: Job, ran_s: float, now: float, borrows: bool, share: int, policy: Policy) -> Rank:
    """Place a job that has run for `ran_s` seconds in all."""
    waited_s = max(0.0, now - job.submitted_at - ran_s)
    level = band(ran_s * job.gpus, waited_s, policy)
    return Rank(-job.priority, borrows, level, share, job.submitted_at, job.id)


def rank_waiting(job: Job, now: float, ledger: Ledger, policy: Policy) -> Rank:
    """Place a job of the queue."""
    borrows = not ledger.owns(job.project, job.gpus)
    return rank(job, job.ran_s, now, borrows, ledger.quota(job.project).share, policy)


def rank_running(run: Running, now: float, ledger: Ledger, policy: Policy) -> Rank:
    """Place a running job among the waiting ones: it borrows if its project holds more than its own."""
    project = run.job.project
    borrows = not ledger.owns(project, 0)
    return rank(run.job, run.ran_s(now), now, borrows, ledger.quota(project).share, policy)


def outranks(waiting: Standing, running: Standing) -> bool:
    """Whether the waiting job is worth an interruption: a higher class, its own share, or a lower band. Never a mere tie-break."""
    return waiting < running
