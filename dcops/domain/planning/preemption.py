"""Which running jobs to interrupt for a waiting one: of those it outranks, past their minimum run, the weakest first."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from typing import NamedTuple

from dcops.domain.planning.order import Rank
from dcops.domain.planning.room import Amount, Room
from dcops.domain.planning.workload import Job, Running


class Class(NamedTuple):
    """What decides whether a running job yields to a waiting one."""

    demotion: int
    band: int
    project: str
    stopping: bool


_NOBODY = (-(2**31), 0, 0)


@dataclass(frozen=True, slots=True)
class Eviction:
    """Nodes for a gang once the victims are gone. Those already stopping need no order any more."""

    nodes: tuple[int, ...]
    victims: tuple[Running, ...]


@dataclass(frozen=True, slots=True)
class _Victim:
    """A running job on one node, what it would give back there, and how much it would claim back."""

    kind: Class
    strength: tuple[int, int, int]
    run: Running
    gives: Amount


@dataclass(frozen=True, slots=True)
class _Clearing:
    """What it takes to clear one node. The weakest victims go first, whoever they work for; then the fewest GPUs disturbed.

    Were it the other way round, a strong victim would at once take the place of a weaker one, which costs twice.
    """

    strength: tuple[int, int, int]
    disturbed: int
    node: int
    victims: tuple[Running, ...] = ()

    @property
    def cost(self) -> tuple[tuple[int, int, int], int, int]:
        """The smaller the better; no two are equal."""
        return self.strength, self.disturbed, self.node


class Victims:
    """Running jobs that may be interrupted, by node, the first to go first."""

    def __init__(self, running: Iterable[tuple[Rank, Running]], room: Room) -> None:
        self._room = room
        self._by_node: dict[int, dict[int, _Victim]] = defaultdict(dict)
        for rank, run in sorted(
            running, key=lambda pair: (pair[1].stopping, pair[0]), reverse=True
        ):
            kind = Class(rank.demotion, rank.band, run.job.project, run.stopping)
            strength = (-rank.demotion, -rank.borrows, -rank.band) if not run.stopping else _NOBODY
            for slot in run.slots:
                victim = _Victim(kind, strength, run, room.given_back(run, slot))
                self._by_node[room.index[slot.node]][run.job.id] = victim

    def find(self, job: Job, ends_at: float, yields: Callable[[Class], bool]) -> Eviction | None:
        """Return the cheapest way to make room for the whole gang by jobs of the classes that yield to it, or None."""
        clearings = [*self._clear_already(job, ends_at), *self._clearings(job, ends_at, yields)]
        if len(clearings) < job.shape.nodes:
            return None
        chosen = nsmallest(job.shape.nodes, clearings, key=lambda clearing: clearing.cost)
        victims = {run.job.id: run for clearing in chosen for run in clearing.victims}
        return Eviction(tuple(clearing.node for clearing in chosen), tuple(victims.values()))

    def remove(self, run: Running) -> None:
        """Its GPUs are promised: nobody else may count on them in this plan."""
        for slot in run.slots:
            del self._by_node[self._room.index[slot.node]][run.job.id]

    def _clear_already(self, job: Job, ends_at: float) -> Iterator[_Clearing]:
        return (_Clearing(_NOBODY, 0, i) for i in self._room.candidates(job.shape, ends_at))

    def _clearings(
        self, job: Job, ends_at: float, yields: Callable[[Class], bool]
    ) -> Iterator[_Clearing]:
        answers: dict[Class, bool] = {}
        for i in self._room.able(job.shape):
            willing: list[_Victim] = []
            for victim in self._by_node.get(i, {}).values():
                if victim.kind not in answers:
                    answers[victim.kind] = yields(victim.kind)
                if answers[victim.kind]:
                    willing.append(victim)
            if willing and not self._room.is_kept(i, ends_at):
                yield from self._clear(i, job, willing)

    def _clear(self, i: int, job: Job, willing: list[_Victim]) -> Iterator[_Clearing]:
        """Take victims until the node has room for one part of the gang; yield nothing if they are not enough."""
        lacking, disturbed, taken = self._room.lacking(job.shape, i), 0, 0
        while taken < len(willing) and not lacking.nothing:
            victim = willing[taken]
            lacking = lacking.less(victim.gives)
            disturbed += 0 if victim.kind.stopping else victim.run.job.gpus
            taken += 1
        if taken and lacking.nothing:
            strongest = willing[taken - 1].strength
            yield _Clearing(strongest, disturbed, i, tuple(v.run for v in willing[:taken]))
