"""What the planner may say about a job, and how it says why one waits.

Whoever applies a plan may refuse any part of it; the next plan is made from what is then true.
"""

from dataclasses import dataclass
from enum import StrEnum

from dcops.domain.planning.estimate import Span
from dcops.domain.planning.workload import Slot


class Lack(StrEnum):
    """What keeps a job waiting."""

    HARDWARE = "hardware"  # no node could ever take it
    CLOSED = "closed"  # nodes that could are drained, lost, in maintenance, or have unusable GPUs
    QUOTA = "quota"  # its project holds all it may
    GPUS = "gpus"  # too few GPUs are free on nodes that fit
    FRAGMENTED = "fragmented"  # enough are free, but not together
    HOST = "host"  # GPUs are free, but CPUs or memory of their nodes are not
    RESERVED = "reserved"  # free GPUs are kept for an older gang
    MAKING_ROOM = "making room"  # GPUs for it are being vacated


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a job waits, shared by all that wait for the same: GPUs wanted and to be had, and the jobs in the way.

    `holders` are the largest few of `holders_in_all`. `fits_now` is the largest gang of as many nodes that would start at
    once, in GPUs per node; 0 if none would.
    """

    lack: Lack
    wanted: int
    available: int
    holders: tuple[int, ...] = ()
    holders_in_all: int = 0
    fits_now: int = 0
    project: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Start the job on these GPUs."""

    job: int
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Preempt:
    """Stop the running job `job` so that `by` can start."""

    job: int
    by: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Leave the job in the queue: number `place` in line, likely to start after `starts` (None: never as things are)."""

    job: int
    shortage: Shortage
    place: int
    starts: Span | None


@dataclass(frozen=True, slots=True)
class Plan:
    """One action for every queued job, and the running jobs to interrupt for them. In order of the line."""

    places: tuple[Place, ...]
    preempts: tuple[Preempt, ...]
    waits: tuple[Wait, ...]


def sentence(wait: Wait) -> str:
    """Say why a job waits, when it may start and what would start it now."""
    said = _WORDS[wait.shortage.lack].format(short=wait.shortage)
    return " ".join(
        filter(
            None,
            (
                f"Number {wait.place} in line. {said}",
                _holders(wait.shortage),
                _advice(wait.shortage),
                _start(wait.starts),
            ),
        )
    )


_WORDS = {
    Lack.HARDWARE: "No node can ever run it: ask for less, or for another model, memory or label.",
    Lack.CLOSED: "The nodes that could run it are drained, in maintenance, lost or have unusable GPUs.",
    Lack.QUOTA: "Project {short.project} may hold {short.available} more GPUs and this job needs {short.wanted}.",
    Lack.GPUS: "It needs {short.wanted} GPUs and {short.available} are free on nodes that fit.",
    Lack.FRAGMENTED: "It needs {short.wanted} GPUs together; {short.available} are free, but scattered over nodes.",
    Lack.HOST: "GPUs are free, but not enough CPUs or memory beside them.",
    Lack.RESERVED: "GPUs are free, but kept for an older job that needs whole nodes.",
    Lack.MAKING_ROOM: "GPUs are being vacated for it.",
}


def _holders(short: Shortage) -> str:
    if not short.holders:
        return ""
    named = ", ".join(str(job) for job in short.holders)
    others = short.holders_in_all - len(short.holders)
    return f"Held by job{'s' if short.holders_in_all > 1 else ''} {named}{f' and {others} more' if others else ''}."


def _advice(short: Shortage) -> str:
    if not short.fits_now or short.lack not in (Lack.GPUS, Lack.FRAGMENTED):
        return ""
    return f"With {short.fits_now} GPU{'s' if short.fits_now > 1 else ''} per node it would start now."


def _start(starts: Span | None) -> str:
    if starts is None:
        return ""
    return f"Likely to start in {duration(starts.likely_s)} ({duration(starts.low_s)} to {duration(starts.high_s)})."


def duration(seconds: float) -> str:
    """A time as people say it, in its largest fitting unit."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
