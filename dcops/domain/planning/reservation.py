"""Nodes kept for the oldest blocked gangs, so that small jobs cannot starve a large one by slipping in for ever.

Others may use a kept node as long as they are expected to end before the gang can start.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

from dcops.domain.planning.room import Amount, Room
from dcops.domain.planning.workload import Job, Running, Shape


class Keeper:
    """Finds where and when a blocked gang will start, and keeps the nodes for it."""

    def __init__(
        self, room: Room, running: Iterable[Running], ends_at: Callable[[Running], float]
    ) -> None:
        self._room = room
        self._ends: dict[int, list[tuple[float, int, Amount]]] = defaultdict(list)
        for run in running:
            end = ends_at(run)
            for slot in run.slots:
                leaves = (end, run.job.id, room.given_back(run, slot))
                self._ends[room.index[slot.node]].append(leaves)
        for runs in self._ends.values():
            runs.sort()

    def keep(self, job: Job, now: float) -> float | None:
        """Keep the nodes that can take the gang soonest. Return when, or None if no set of nodes can."""
        ready = sorted(
            (when, i)
            for i in self._room.able(job.shape)
            if i not in self._room.kept and (when := self._ready(job.shape, i, now)) is not None
        )[: job.shape.nodes]
        if len(ready) < job.shape.nodes:
            return None
        starts = ready[-1][0]
        self._room.kept.update({i: starts for _, i in ready})
        return starts

    def _ready(self, shape: Shape, i: int, now: float) -> float | None:
        """When the node can take one part of the gang, or None if others than jobs are in its way."""
        lacking, when = self._room.lacking(shape, i), now
        for ends_at, _, given_back in self._ends.get(i, ()):
            if lacking.nothing:
                break
            lacking, when = lacking.less(given_back), ends_at
        return when if lacking.nothing else None
