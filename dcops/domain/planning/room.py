"""Free GPUs, kept in buckets of nodes by how many they have free, so that the tightest fit is found without looking at all."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dcops.domain.planning.cluster import Node, Readiness
from dcops.domain.planning.topology import Topology
from dcops.domain.planning.workload import Job, Needs, Running, Shape, Slot


class Amount(NamedTuple):
    """So much of one node: what a part of a gang lacks there, or what a job that leaves gives back."""

    gpus: int
    cpus: int
    memory: int

    @property
    def nothing(self) -> bool:
        """Whether nothing is lacking any more."""
        return self.gpus <= 0 and self.cpus <= 0 and self.memory <= 0

    def less(self, other: "Amount") -> "Amount":
        """What is left to find when so much is given back."""
        return Amount(self.gpus - other.gpus, self.cpus - other.cpus, self.memory - other.memory)


class Room:
    """What is free while a plan is made. Nodes are named by their index in `nodes`."""

    def __init__(self, nodes: tuple[Node, ...], running: Iterable[Running]) -> None:
        self.nodes = nodes
        self.index = {node.id: i for i, node in enumerate(nodes)}
        self.kept: dict[int, float] = {}  # node -> when an older gang wants it
        self._topology = Topology(nodes)
        self._cpus = [node.kind.cpus for node in nodes]
        self._memory = [node.kind.memory for node in nodes]
        kinds = {kind: k for k, kind in enumerate(dict.fromkeys(node.kind for node in nodes))}
        self._kinds = tuple(kinds)
        self._kind_of = [kinds[node.kind] for node in nodes]
        self._met: dict[Needs, tuple[bool, ...]] = {}
        self._unusable = {gpu.id for node in nodes for gpu in node.gpus if not gpu.usable}
        self._usable = [len(_free_gpus(node, self._unusable)) for node in nodes]
        taken = self._unusable | self._claim_all(running)
        self._free = [_free_gpus(node, taken) for node in nodes]
        self._buckets: list[list[int]] = [
            [] for _ in range(1 + max(map(len, self._free), default=0))
        ]
        for i, free in enumerate(self._free):
            if nodes[i].state is Readiness.OPEN:
                self._buckets[len(free)].append(i)

    def _claim_all(self, running: Iterable[Running]) -> set[int]:
        taken: set[int] = set()
        for run in running:
            for slot in run.slots:
                taken.update(slot.gpus)
                self._charge(self.index[slot.node], run.job.shape.needs, 1)
        return taken

    def _charge(self, i: int, needs: Needs, sign: int) -> None:
        self._cpus[i] -= sign * needs.cpus
        self._memory[i] -= sign * needs.memory

    def free(self, i: int) -> int:
        """GPUs of a node that can be given away; 0 on a closed node."""
        return len(self._free[i])

    def lacking(self, shape: Shape, i: int) -> Amount:
        """What the node lacks for one part of the gang."""
        needs = shape.needs
        return Amount(
            shape.gpus_per_node - len(self._free[i]),
            needs.cpus - self._cpus[i],
            needs.memory - self._memory[i],
        )

    def given_back(self, run: Running, slot: Slot) -> Amount:
        """What a job gives back on one node. GPUs that became unusable under it do not come free."""
        needs = run.job.shape.needs
        usable = len(slot.gpus) - len(self._unusable.intersection(slot.gpus))
        return Amount(usable, needs.cpus, needs.memory)

    def suited(self, needs: Needs) -> list[int]:
        """Return the nodes, open or not, that while empty offer what is asked of any one node."""
        met = self._met_by(needs)
        return [i for i, kind in enumerate(self._kind_of) if met[kind]]

    def able(self, shape: Shape) -> list[int]:
        """Return the open nodes that, while empty, could run one part of the gang."""
        return [i for i in self.suited(shape.needs) if self._usable[i] >= shape.gpus_per_node]

    def _met_by(self, needs: Needs) -> tuple[bool, ...]:
        """Which kinds of node offer what is asked."""
        if needs not in self._met:
            self._met[needs] = tuple(needs.met_by(kind) for kind in self._kinds)
        return self._met[needs]

    def is_kept(self, i: int, ends_at: float) -> bool:
        """Whether an older gang wants the node before a job that ends then is gone."""
        return self.kept.get(i, ends_at) < ends_at

    def candidates(self, shape: Shape, ends_at: float) -> Iterator[int]:
        """Yield the nodes that can take one part of the gang now, tightest first. A node kept for an older gang takes what ends in time."""
        needs, met = shape.needs, self._met_by(shape.needs)
        for bucket in self._buckets[shape.gpus_per_node :]:
            for i in bucket:
                if (
                    met[self._kind_of[i]]
                    and self._hosts(needs, i)
                    and not self.is_kept(i, ends_at)
                ):
                    yield i

    def _hosts(self, needs: Needs, i: int) -> bool:
        return needs.cpus <= self._cpus[i] and needs.memory <= self._memory[i]

    def find(self, shape: Shape, ends_at: float) -> tuple[int, ...] | None:
        """Return nodes for the whole gang, or None: the tightest node for one part, else the fewest racks and switches."""
        candidates = self.candidates(shape, ends_at)
        if shape.nodes == 1:
            tightest = next(candidates, None)
            return None if tightest is None else (tightest,)
        return self._topology.closest(list(candidates), shape.nodes)

    def take(self, job: Job, chosen: tuple[int, ...]) -> tuple[Slot, ...]:
        """Give the job its GPUs on the chosen nodes, as far as they are free."""
        return tuple(self._take(i, job.shape) for i in chosen)

    def _take(self, i: int, shape: Shape) -> Slot:
        free = self._free[i]
        old = self._buckets[len(free)]
        del old[bisect_left(old, i)]
        given, self._free[i] = free[: shape.gpus_per_node], free[shape.gpus_per_node :]
        insort(self._buckets[len(self._free[i])], i)
        self._charge(i, shape.needs, 1)
        return Slot(self.nodes[i].id, given)


def _free_gpus(node: Node, taken: set[int]) -> tuple[int, ...]:
    if node.state is not Readiness.OPEN:
        return ()
    return tuple(gpu.id for gpu in node.gpus if gpu.id not in taken)
