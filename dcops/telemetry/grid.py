"""Points on a regular grid: which step a window gets, and how readings fall into its buckets. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from dcops.telemetry.rows import I8

F8 = np.float64
Source = Literal["raw", "minute", "hour"]
SOURCE_STEP_S: dict[Source, int] = {"raw": 1, "minute": 60, "hour": 3600}
RAW_SPAN_S = 26 * 3600
MINUTE_SPAN_S = 15 * 86400
STEPS_S = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    90,
    120,
    180,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
)
STATISTICS = ("avg", "min", "max", "last")


@dataclass(frozen=True, slots=True)
class Grid:
    """`count` buckets of `step_s` seconds from `start_us`, aligned to whole steps since 1970."""

    step_s: int
    start_us: int
    count: int

    @property
    def t_us(self) -> npt.NDArray[I8]:
        """int64[count]: the start of each bucket, µs."""
        return self.start_us + np.arange(self.count, dtype=I8) * (self.step_s * 1_000_000)

    @property
    def end_us(self) -> int:
        """The end of the last bucket."""
        return self.start_us + self.count * self.step_s * 1_000_000


@dataclass(frozen=True, slots=True)
class Readings:
    """Statistics of one metric, each over some span that starts at t_us; a single reading is its own min, max and mean."""

    t_us: npt.NDArray[I8]
    low: npt.NDArray[F8]
    high: npt.NDArray[F8]
    mean: npt.NDArray[F8]
    last: npt.NDArray[F8]
    weight: npt.NDArray[F8]


def choose(
    span_s: float, age_s: float, raw_s: float, minute_s: float, step_s: int | None = None
) -> Source:
    """Where to read a window of this length whose oldest moment is `age_s` old, given how long each tier is kept.

    A step of a minute or an hour that was asked for is served by the rollup of that length.
    """
    if span_s <= RAW_SPAN_S and age_s <= raw_s and (step_s is None or step_s < 3600):
        return "raw"
    if span_s <= MINUTE_SPAN_S and age_s <= minute_s and (step_s is None or step_s < 3600):
        return "minute"
    return "hour"


def fit(start_us: int, end_us: int, max_points: int, smallest_s: int) -> Grid:
    """The finest grid over [start, end) with at most max_points buckets of at least smallest_s."""
    for step in (smallest_s, *(step for step in STEPS_S if step > smallest_s)):
        grid = _aligned(start_us, end_us, step)
        if grid.count <= max_points:
            return grid
    # Beyond the list: whole days, as many as it takes. Alignment may cost one bucket.
    days = max(
        1,
        ceil((end_us - start_us) / 86_400_000_000 / max(max_points - 1, 1)),
        ceil(smallest_s / 86_400),
    )
    grid = _aligned(start_us, end_us, days * 86_400)
    while grid.count > max_points:
        days *= 2
        grid = _aligned(start_us, end_us, days * 86_400)
    return grid


def _aligned(start_us: int, end_us: int, step_s: int) -> Grid:
    step = step_s * 1_000_000
    first = start_us // step
    return Grid(step_s, first * step, max(1, -(-end_us // step) - first))


def gather(parts: Sequence[Readings]) -> Readings:
    """Several readings of one metric as one, by time."""
    t_us = np.concatenate([p.t_us for p in parts]) if parts else np.empty(0, I8)
    order = np.argsort(t_us, kind="stable")

    def joined(name: str) -> npt.NDArray[F8]:
        return (
            np.concatenate([getattr(p, name) for p in parts])[order] if parts else np.empty(0, F8)
        )

    return Readings(
        t_us[order], *(joined(name) for name in ("low", "high", "mean", "last", "weight"))
    )


def aggregate(grid: Grid, readings: Readings, *, averaged: bool) -> dict[str, npt.NDArray[F8]]:
    """avg, min, max and last in each bucket, NaN where there is nothing. What cannot be averaged shows its last value."""
    columns = {name: np.full(grid.count, np.nan) for name in STATISTICS}
    inside = (
        (readings.t_us >= grid.start_us) & (readings.t_us < grid.end_us) & (readings.weight > 0)
    )
    t_us = readings.t_us[inside]
    if not len(t_us):
        return columns
    bucket = (t_us - grid.start_us) // (grid.step_s * 1_000_000)
    starts = np.flatnonzero(np.concatenate([[True], bucket[1:] != bucket[:-1]]))
    filled = bucket[starts]
    columns["min"][filled] = np.minimum.reduceat(readings.low[inside], starts)
    columns["max"][filled] = np.maximum.reduceat(readings.high[inside], starts)
    columns["last"][filled] = readings.last[inside][np.append(starts[1:], len(t_us)) - 1]
    if averaged:
        weight = readings.weight[inside]
        total = np.add.reduceat(readings.mean[inside] * weight, starts)
        columns["avg"][filled] = total / np.add.reduceat(weight, starts)
    else:
        columns["avg"] = columns["last"].copy()
    return columns
