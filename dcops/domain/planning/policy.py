"""The few numbers that make one planner behave as different schedulers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """How to order and when to interrupt.

    service_limits: GPU-seconds at which a job sinks into the next band; none means first come, first served.
    promote_after_s: every so many seconds of waiting lift a job by one band.
    preempts: whether a waiting job may interrupt a running one of a lower band, class or entitlement.
    min_run_s: an attempt is left alone for so long.
    grace_s: how long an interrupted job has to leave.
    max_preemptions: how many jobs one plan may interrupt.
    reservations: for how many of the oldest blocked gangs nodes are kept, once they waited reserve_after_s.
    """

    service_limits: tuple[float, ...] = (3_600, 18_000, 360_000)
    promote_after_s: float = 86_400.0
    preempts: bool = True
    min_run_s: float = 600.0
    grace_s: float = 60.0
    max_preemptions: int = 64
    reservations: int = 4
    reserve_after_s: float = 3_600.0


DEFAULT = Policy()
POLICIES = {
    "service": DEFAULT,
    "fifo": Policy(service_limits=(), preempts=False, reservations=0),
    "backfill": Policy(service_limits=(), preempts=False),
}
