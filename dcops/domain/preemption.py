"""Which running jobs to interrupt for a waiting one: those it outranks, past their minimum run, the least work disturbed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from dcops.domain.order import Rank
from dcops.domain.room import Room
from dcops.domain.workload import Job, Running


@dataclass(frozen=True, slots=True)
class Eviction:
    """Nodes for a gang once the victims are gone. Those already stopping need no order any more."""

    nodes: tuple[int, ...]
    victims: tuple[Running, ...]


@dataclass(frozen=True, slots=True)
class _Clearing:
    """What it takes to clear one node: GPUs disturbed, of whom."""

    disturbed: int
    node: int
    victims: tuple[Running, ...]


class Victims:
    """Running jobs that may be interrupted, by node, the first to go first."""

    def __init__(self, running: Iterable[tuple[Rank, Running]], room: Room) -> None:
        self._room = room
        self._by_node: dict[int, dict[int, Running]] = defaultdict(dict)
        for _, run in sorted(running, key=lambda pair: (pair[1].stopping, pair[0]), reverse=True):
            for slot in run.slots:
                self._by_node[room.index[slot.node]][run.job.id] = run

    def find(self, job: Job, ends_at: float, may: Callable[[Running], bool]) -> Eviction | None:
        """Return the cheapest way to make room for the whole gang, or None."""
        clearings = sorted(self._clearings(job, ends_at, may), key=lambda c: (c.disturbed, c.node))
        if len(clearings) < job.shape.nodes:
            return None
        chosen = clearings[: job.shape.nodes]
        victims = {run.job.id: run for clearing in chosen for run in clearing.victims}
        return Eviction(tuple(c.node for c in chosen), tuple(victims.values()))

    def remove(self, victim: Running) -> None:
        """Its GPUs are promised: nobody else may count on them in this plan."""
        for slot in victim.slots:
            del self._by_node[self._room.index[slot.node]][victim.job.id]

    def _clearings(
        self, job: Job, ends_at: float, may: Callable[[Running], bool]
    ) -> Iterator[_Clearing]:
        for i in self._room.candidates(job.shape, ends_at):
            yield _Clearing(0, i, ())
        for i, runs in self._by_node.items():
            if self._room.open_for(job.shape, ends_at, i):
                clearing = self._clear(i, job, [run for run in runs.values() if may(run)])
                if clearing and clearing.victims:
                    yield clearing

    def _clear(self, i: int, job: Job, runs: list[Running]) -> _Clearing | None:
        """Take victims until the node has room for one part of the gang."""
        gap = self._room.gap(job.shape, i)
        victims: list[Running] = []
        for run in runs:
            if gap.closed:
                break
            victims.append(run)
            gap = self._room.gap_without(gap, run, i)
        if not gap.closed:
            return None
        return _Clearing(
            sum(run.job.gpus for run in victims if not run.stopping), i, tuple(victims)
        )
