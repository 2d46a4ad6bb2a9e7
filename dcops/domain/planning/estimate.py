"""How much longer a job may run, learnt from those that finished."""

from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass

_FEW = 5  # fewer longer-lived examples than this say nothing; then the job is expected to double its age


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in seconds, as a person would give it: at least, likely, at most (80 of 100 times)."""

    low_s: float
    likely_s: float
    high_s: float


UNKNOWN = Span(60.0, 3_600.0, 86_400.0)


class History:
    """Run times of finished jobs, by likeness. Each likeness remembers its newest `depth` jobs."""

    def __init__(self, depth: int = 512) -> None:
        self._depth = depth
        self._sorted: dict[str, list[float]] = {}
        self._newest: dict[str, deque[float]] = {}

    def observe(self, likeness: str, ran_s: float) -> None:
        """Remember that a job of this likeness took so long."""
        known = self._sorted.setdefault(likeness, [])
        newest = self._newest.setdefault(likeness, deque())
        if len(newest) == self._depth:
            known.pop(bisect_right(known, newest.popleft()) - 1)
        insort(known, ran_s)
        newest.append(ran_s)

    def remaining(self, likeness: str, ran_s: float) -> Span:
        """Return how much longer a job lasts that has run so long: the 20th, 50th and 80th percentile of those that got as far."""
        known = self._sorted.get(likeness, ())
        first = bisect_right(known, ran_s)
        left = len(known) - first
        if left < _FEW:
            return Span(ran_s / 4, ran_s, ran_s * 4) if ran_s > UNKNOWN.low_s else UNKNOWN
        low, likely, high = (known[first + int(left * part)] - ran_s for part in (0.2, 0.5, 0.8))
        return Span(low, likely, high)
