"""Who is entitled to how much: quotas with borrowing, and usage that is forgotten by half-lives.

A project may always use its `nominal` GPUs. What others leave unused it may borrow, up to its `ceiling`, and has to give back:
a job that stays inside its project's nominal share may take GPUs from a project above its own. Whoever reclaims ends at or
below its share, so two projects can never take from each other in a circle.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log2

from dcops.domain.planning.workload import Running


@dataclass(frozen=True, slots=True)
class Quota:
    """GPUs a project may hold at once. `used` is its decayed past use in GPU-seconds, `weight` its part of the fleet."""

    nominal: float = float("inf")
    ceiling: float = float("inf")
    weight: float = 1.0
    used: float = 0.0

    @property
    def share(self) -> int:
        """How much of its part the project had lately, in doublings of a GPU-hour: projects with less go first."""
        return int(log2(1 + self.used / self.weight / 3_600))


UNBOUNDED = Quota()


def decayed(used: float, elapsed_s: float, half_life_s: float) -> float:
    """Return past use after some time, in the unit it came in: half is forgotten every half-life."""
    return float(used * 0.5 ** (elapsed_s / half_life_s))


class Ledger:
    """GPUs held by each project while a plan is made."""

    def __init__(self, quotas: Mapping[str, Quota], running: Iterable[Running]) -> None:
        self._quotas = quotas
        self._held: Counter[str] = Counter()
        for run in running:
            self._held[run.job.project] += run.job.gpus

    def quota(self, project: str) -> Quota:
        """The project's quota, without bounds if nobody set one."""
        return self._quotas.get(project, UNBOUNDED)

    def held(self, project: str) -> int:
        """GPUs the project holds."""
        return self._held[project]

    def allows(self, project: str, gpus: int) -> bool:
        """Whether the project stays within its ceiling with so many GPUs more."""
        return self._held[project] + gpus <= self.quota(project).ceiling

    def owns(self, project: str, gpus: int) -> bool:
        """Whether the project stays within its nominal share with so many GPUs more: it need not borrow."""
        return self._held[project] + gpus <= self.quota(project).nominal

    def take(self, project: str, gpus: int) -> None:
        """The project gets so many GPUs."""
        self._held[project] += gpus

    def give(self, project: str, gpus: int) -> None:
        """The project loses so many GPUs."""
        self._held[project] -= gpus
