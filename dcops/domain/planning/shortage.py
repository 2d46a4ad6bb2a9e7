"""Finding out what a job lacks, and who has it."""

from collections.abc import Sequence

from dcops.domain.planning.decisions import Lack, Shortage
from dcops.domain.planning.fairness import Ledger
from dcops.domain.planning.room import Room
from dcops.domain.planning.workload import Job, Running

_NAMED = 3
_AT_ONCE = float("-inf")  # as if it ended before any older gang wants its nodes


def of_quota(job: Job, ledger: Ledger, running: Sequence[Running]) -> Shortage:
    """The project is at its ceiling: what it may still have, and its jobs that hold the rest."""
    left = max(0, int(ledger.quota(job.project).ceiling) - ledger.held(job.project))
    own = [run for run in running if run.job.project == job.project]
    return _told(Lack.QUOTA, job, left, own, project=job.project)


def of_nodes(job: Job, room: Room, running: Sequence[Running]) -> Shortage:
    """No set of nodes has room: whether they never could, are closed, taken, scattered or kept."""
    per_node = job.shape.gpus_per_node
    suited = [i for i in room.suited(job.shape.needs) if len(room.nodes[i].gpus) >= per_node]
    able = room.able(job.shape)
    if len(suited) < job.shape.nodes:
        return Shortage(Lack.HARDWARE, job.gpus, 0)
    if len(able) < job.shape.nodes:
        return Shortage(Lack.CLOSED, job.gpus, 0)
    free = sorted((room.free(i) for i in able), reverse=True)
    ids = {room.nodes[i].id for i in able}
    holding = [run for run in running if any(slot.node in ids for slot in run.slots)]
    return _told(
        _lack(job, room, free), job, sum(free), holding, fits_now=free[job.shape.nodes - 1]
    )


def _lack(job: Job, room: Room, free: list[int]) -> Lack:
    """Name what is missing, given the free GPUs of the nodes that could run the job, most first."""
    if free[job.shape.nodes - 1] < job.shape.gpus_per_node:
        return Lack.FRAGMENTED if sum(free) >= job.gpus else Lack.GPUS
    if len(list(room.candidates(job.shape, _AT_ONCE))) < job.shape.nodes:
        return Lack.HOST
    return Lack.RESERVED


def _told(
    lack: Lack,
    job: Job,
    available: int,
    holding: list[Running],
    *,
    fits_now: int = 0,
    project: str = "",
) -> Shortage:
    largest = sorted(holding, key=lambda run: (-run.job.gpus, run.job.id))[:_NAMED]
    return Shortage(
        lack,
        wanted=job.gpus,
        available=available,
        holders=tuple(run.job.id for run in largest),
        holders_in_all=len(holding),
        fits_now=fits_now,
        project=project,
    )
