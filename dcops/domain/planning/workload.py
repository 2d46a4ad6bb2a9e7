"""What a job asks for and what a running one holds."""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Kind:
    """What a job may ask about a node. Memory in bytes; labels and taints are words such as `zone=b`."""

    model: str = ""
    gpu_memory: int = 0
    cpus: int = 0
    memory: int = 0
    labels: frozenset[str] = frozenset()
    taints: frozenset[str] = frozenset()


PLAIN = Kind()


@dataclass(frozen=True, slots=True)
class Needs:
    """What each node of a job must offer, besides the number of GPUs. Empty or 0 asks for nothing."""

    model: str = ""
    gpu_memory: int = 0
    cpus: int = 0
    memory: int = 0
    labels: frozenset[str] = frozenset()
    tolerates: frozenset[str] = frozenset()

    def met_by(self, kind: Kind) -> bool:
        """Whether a node of this kind, while empty, offers all of it."""
        return (
            self.model in ("", kind.model)
            and self.gpu_memory <= kind.gpu_memory
            and self.cpus <= kind.cpus
            and self.memory <= kind.memory
            and self.labels <= kind.labels
            and kind.taints <= self.tolerates
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """A gang: so many nodes, the same number of GPUs on each, all at once or not at all."""

    nodes: int
    gpus_per_node: int
    needs: Needs = Needs()

    @property
    def gpus(self) -> int:
        """GPUs of all nodes together."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True)
class Job:
    """A job as the planner knows it. `ran_s` is what its earlier attempts ran; `likeness` names jobs expected to last alike."""

    id: int
    shape: Shape
    submitted_at: float
    project: str = ""
    priority: int = 0
    preemptible: bool = True
    ran_s: float = 0.0
    time_limit_s: float = float("inf")
    likeness: str = ""

    @cached_property
    def gpus(self) -> int:
        """GPUs of all nodes together."""
        return self.shape.gpus


@dataclass(frozen=True, slots=True)
class Slot:
    """GPUs of one node given to one rank of a job."""

    node: int
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """A job and the GPUs it holds. A stopping one was already told to go; its GPUs come free without another word."""

    job: Job
    started_at: float
    slots: tuple[Slot, ...]
    stopping: bool = False

    def ran_s(self, now: float) -> float:
        """Seconds run, earlier attempts included."""
        return self.job.ran_s + now - self.started_at


def shape_for(gpus: int, node_gpus: int, needs: Needs | None = None) -> Shape:
    """Return the smallest gang of equal parts with at least so many GPUs: 8 -> 1x8, 12 -> 2x6, 13 -> 2x7 on nodes of 8."""
    nodes = -(-gpus // node_gpus)
    return Shape(nodes, -(-gpus // nodes), needs or Needs())
