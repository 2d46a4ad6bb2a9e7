"""A frozen picture of the fleet, as the planner sees it: nodes, their GPUs, and the jobs that hold some of them.

Times are seconds since one fixed moment, the same for everything in a view; what a GPU is worth is counted in GPU-seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from dcops.domain.planning.estimate import History
from dcops.domain.planning.fairness import Quota
from dcops.domain.planning.workload import PLAIN, Kind, Running


class Readiness(StrEnum):
    """Whether a node takes new jobs. Only an open one does; jobs already there are not touched."""

    OPEN = "open"
    DRAINING = "draining"
    MAINTENANCE = "maintenance"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. It is usable unless it is unhealthy, or dirty: something of an earlier job is left on it."""

    id: int
    usable: bool = True


@dataclass(frozen=True, slots=True)
class Node:
    """A machine: its GPUs, what kind it is, and where it stands. A switch connects racks."""

    id: int
    name: str
    gpus: tuple[Gpu, ...]
    kind: Kind = PLAIN
    rack: str = ""
    switch: str = ""
    state: Readiness = Readiness.OPEN


@dataclass(frozen=True)
class View:
    """Everything a plan is made from, besides the queue and the time. A project without a quota has no bound."""

    nodes: tuple[Node, ...]
    running: tuple[Running, ...] = ()
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    history: History = field(default_factory=History)

    @cached_property
    def gpus(self) -> int:
        """How many GPUs there are, usable or not."""
        return sum(len(node.gpus) for node in self.nodes)
