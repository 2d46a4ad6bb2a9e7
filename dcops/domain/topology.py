"""Nodes near each other: a gang goes into one rack if it can, else under one switch, else over as few of both as possible."""

from collections import defaultdict
from collections.abc import Callable, Sequence

from dcops.domain.cluster import Node


def closest(nodes: Sequence[Node], candidates: list[int], wanted: int) -> tuple[int, ...] | None:
    """Choose so many of the candidates (indices into `nodes`, best first), or None if there are too few."""
    if len(candidates) < wanted:
        return None
    by_rack = _grouped(candidates, lambda i: (nodes[i].switch, nodes[i].rack))
    by_switch = _grouped(candidates, lambda i: (nodes[i].switch,))
    for groups in (by_rack, by_switch):
        fitting = [(len(group), name) for name, group in groups.items() if len(group) >= wanted]
        if fitting:  # the tightest, so that large places stay whole for large gangs
            return tuple(_fullest_racks_first(nodes, groups[min(fitting)[1]])[:wanted])
    spread = sorted(by_switch.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(i for _, group in spread for i in _fullest_racks_first(nodes, group))[:wanted]


def _grouped(
    candidates: list[int], domain: Callable[[int], tuple[str, ...]]
) -> dict[tuple[str, ...], list[int]]:
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i in candidates:
        groups[domain(i)].append(i)
    return groups


def _fullest_racks_first(nodes: Sequence[Node], group: list[int]) -> list[int]:
    racks = _grouped(group, lambda i: (nodes[i].rack,))
    ordered = sorted(racks.items(), key=lambda item: (-len(item[1]), item[0]))
    return [i for _, rack in ordered for i in rack]
