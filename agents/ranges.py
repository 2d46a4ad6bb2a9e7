"""Sets of record numbers as disjoint inclusive ranges: what is acknowledged, lost or on its way."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]


class RangeSet:
    """Whole numbers kept as sorted, disjoint, non-adjacent inclusive ranges. Each operation costs O(ranges) at worst."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._lasts, strict=True)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    def __contains__(self, number: int) -> bool:
        position = bisect_right(self._firsts, number) - 1
        return position >= 0 and number <= self._lasts[position]

    def count(self) -> int:
        """How many numbers are in the set."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def add(self, first: int, last: int) -> None:
        """Add first..last; nothing if last < first."""
        if last < first:
            return
        begin = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def remove(self, first: int, last: int) -> None:
        """Take first..last out of the set."""
        begin = bisect_left(self._lasts, first)
        end = bisect_right(self._firsts, last)
        if last < first or begin >= end:
            return
        kept = [
            (low, high)
            for low, high in ((self._firsts[begin], first - 1), (last + 1, self._lasts[end - 1]))
            if low <= high
        ]
        self._firsts[begin:end] = [low for low, _ in kept]
        self._lasts[begin:end] = [high for _, high in kept]

    def within(self, first: int, last: int) -> Iterator[Range]:
        """The parts of the set inside first..last, ascending."""
        for position in range(bisect_left(self._lasts, first), bisect_right(self._firsts, last)):
            yield max(first, self._firsts[position]), min(last, self._lasts[position])

    def missing(self, first: int, last: int) -> Iterator[Range]:
        """The parts of first..last outside the set, ascending."""
        cursor = first
        for low, high in self.within(first, last):
            if cursor < low:
                yield cursor, low - 1
            cursor = high + 1
        if cursor <= last:
            yield cursor, last

    def covers(self, first: int, last: int) -> bool:
        """Whether all of first..last is in the set (True for an empty range)."""
        return next(self.missing(first, last), None) is None
