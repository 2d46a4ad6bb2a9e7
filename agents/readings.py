"""Readings as devices give them, made fit to send: a value that cannot be true is a missing one. Pure."""

from collections.abc import Mapping

from dcops.domain.metrics import TABLES, Metric, SampleTable
from dcops.wire.rows import Reading

# "Not available" said with a number, as DCGM and drivers do: 0x7ffffff0..f4 and 0x7ffffffffffffff0..f4.
_BLANK = {2**31 - 1: 2**31 - 17, 2**63 - 1: 2**63 - 17}


def _bounds(metric: Metric) -> tuple[str, float, float]:
    high = metric.maximum
    return metric.name, metric.minimum, _BLANK.get(int(high), high)


_BOUNDS = {table.name: tuple(_bounds(metric) for metric in table.metrics) for table in TABLES}


def clean(table: SampleTable, readings: Mapping[str, Reading]) -> list[Reading]:
    """Return the readings in the order of table.metrics; what is absent, a sentinel or out of bounds is None."""
    cleaned: list[Reading] = []
    for name, low, high in _BOUNDS[table.name]:
        value = readings.get(name)
        # NaN fails both comparisons.
        cleaned.append(value if value is not None and low <= value <= high else None)
    return cleaned


def rate(now: float, before: float, elapsed_s: float) -> float | None:
    """Return the rise of a counter a second; None if it went backwards (a reset) or no time passed."""
    if now < before or elapsed_s <= 0:
        return None
    return (now - before) / elapsed_s


def wrapped_rise(now: int, before: int, span: int) -> int:
    """Return the rise of a counter that starts again at 0 after `span`, which it did at most once since `before`."""
    return now - before if now >= before else now + span - before
