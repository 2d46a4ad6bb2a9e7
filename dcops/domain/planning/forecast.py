"""When a waiting job may start: how long until the running ones have freed enough for it and for all before it."""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from dcops.domain.planning.estimate import Span


class _Curve:
    """GPUs come free over time."""

    def __init__(self, ends: Iterable[tuple[float, int]]) -> None:
        ordered = sorted(ends)
        self._after = [after for after, _ in ordered]
        self._freed = list(accumulate(gpus for _, gpus in ordered))

    def until(self, gpus: int) -> float:
        """Seconds until so many are free. Beyond what runs now, what starts is taken to last as long."""
        if gpus <= 0 or not self._freed:
            return 0.0
        rounds, rest = divmod(gpus, self._freed[-1])
        partial = self._after[bisect_left(self._freed, rest)] if rest else 0.0
        return rounds * self._after[-1] + partial


class Forecast:
    """Built once per plan from the GPUs each running job holds and how much longer it may take."""

    def __init__(self, remaining: Iterable[tuple[Span, int]]) -> None:
        spans = list(remaining)
        self._low = _Curve((span.low_s, gpus) for span, gpus in spans)
        self._likely = _Curve((span.likely_s, gpus) for span, gpus in spans)
        self._high = _Curve((span.high_s, gpus) for span, gpus in spans)

    def starts(self, gpus: int) -> Span:
        """Return when so many GPUs more have come free."""
        return Span(self._low.until(gpus), self._likely.until(gpus), self._high.until(gpus))
