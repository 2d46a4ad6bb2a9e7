"""Nodes near each other: a gang goes into one rack if it can, else under one switch, else over as few of both as possible."""

from collections import Counter
from collections.abc import Hashable, Sequence

from dcops.domain.planning.cluster import Node


class Topology:
    """Where each node stands. Nodes are named by their index."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._rack = _numbered([(node.switch, node.rack) for node in nodes])
        self._switch = _numbered([node.switch for node in nodes])

    def closest(self, candidates: list[int], wanted: int) -> tuple[int, ...] | None:
        """Choose so many of the candidates, or None if there are too few."""
        if len(candidates) < wanted:
            return None
        racks = Counter(map(self._rack.__getitem__, candidates))
        switches = Counter(map(self._switch.__getitem__, candidates))
        for place, sizes in ((self._rack, racks), (self._switch, switches)):
            fitting = [(size, number) for number, size in sizes.items() if size >= wanted]
            if fitting:  # the tightest, so that large places stay whole for large gangs
                _, tightest = min(fitting)
                candidates = [i for i in candidates if place[i] == tightest]
                break

        def fullest_first(i: int) -> tuple[int, int, int, int]:
            switch, rack = self._switch[i], self._rack[i]
            return -switches[switch], switch, -racks[rack], rack

        return tuple(sorted(candidates, key=fullest_first)[:wanted])


def _numbered(places: Sequence[Hashable]) -> list[int]:
    """Give each place a number, in the order they are met."""
    numbers = {place: number for number, place in enumerate(dict.fromkeys(places))}
    return [numbers[place] for place in places]
