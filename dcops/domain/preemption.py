"""Which running jobs to interrupt for a waiting one: those it outranks, past their minimum run, the least work disturbed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from typing import NamedTuple

from dcops.domain.order import Rank
from dcops.domain.room import Room
from dcops.domain.workload import Job, Running


class Class(NamedTuple):
    """What decides whether a running job yields to a waiting one."""

    demotion: int
    band: int
    project: str
    stopping: bool


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
        self._by_node: dict[int, dict[int, tuple[Class, Running]]] = defaultdict(dict)
        for rank, run in sorted(
            running, key=lambda pair: (pair[1].stopping, pair[0]), reverse=True
        ):
            entry = (Class(rank.demotion, rank.band, run.job.project, run.stopping), run)
            for slot in run.slots:
                self._by_node[room.index[slot.node]][run.job.id] = entry

    def find(self, job: Job, ends_at: float, yields: Callable[[Class], bool]) -> Eviction | None:
        """Return the cheapest way to make room for the whole gang by jobs of the classes that yield to it, or None."""
        clearings = [*self._clear_already(job, ends_at), *self._clearings(job, ends_at, yields)]
        if len(clearings) < job.shape.nodes:
            return None
        chosen = nsmallest(job.shape.nodes, clearings, key=lambda c: (c.disturbed, c.node))
        victims = {run.job.id: run for clearing in chosen for run in clearing.victims}
        return Eviction(tuple(c.node for c in chosen), tuple(victims.values()))

    def remove(self, victim: Running) -> None:
        """Its GPUs are promised: nobody else may count on them in this plan."""
        for slot in victim.slots:
            del self._by_node[self._room.index[slot.node]][victim.job.id]

    def _clear_already(self, job: Job, ends_at: float) -> Iterator[_Clearing]:
        return (_Clearing(0, i, ()) for i in self._room.candidates(job.shape, ends_at))

    def _clearings(
        self, job: Job, ends_at: float, yields: Callable[[Class], bool]
    ) -> Iterator[_Clearing]:
        answers: dict[Class, bool] = {}
        for i in self._room.able(job.shape):
            runs = []
            for kind, run in self._by_node.get(i, {}).values():
                if kind not in answers:
                    answers[kind] = yields(kind)
                if answers[kind]:
                    runs.append(run)
            if runs and not self._room.is_kept(i, ends_at):
                yield from self._clear(i, job, runs)

    def _clear(self, i: int, job: Job, runs: list[Running]) -> Iterator[_Clearing]:
        """Take victims until the node has room for one part of the gang; yield nothing if they are not enough."""
        gap = self._room.gap(job.shape, i)
        victims: list[Running] = []
        for run in runs:
            if gap.closed:
                break
            victims.append(run)
            gap = self._room.gap_without(gap, run, i)
        if gap.closed and victims:
            disturbed = sum(run.job.gpus for run in victims if not run.stopping)
            yield _Clearing(disturbed, i, tuple(victims))
