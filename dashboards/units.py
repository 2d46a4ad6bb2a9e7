"""Numbers as a person reads them: a short figure and its unit, the same on every page. Pure; unknown is an en dash, never 0."""

import math
from dataclasses import dataclass

UNKNOWN = "\N{EN DASH}"
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DECIMAL = ("", "k", "M", "G", "T", "P")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and its unit as text."""

    value: str
    unit: str

    def __str__(self) -> str:
        return f"{self.value} {self.unit}".strip()


def known(number: float | None) -> bool:
    """True unless the reading is missing (None or NaN)."""
    return number is not None and not math.isnan(number)


def digits(number: float) -> str:
    """Three significant digits at most after a thousands separator: 1,184 · 938 · 26.1 · 4.52."""
    size = abs(number)
    places = 0 if size >= 100 or float(number).is_integer() else 1 if size >= 10 else 2
    return f"{number:,.{places}f}"


def _scaled(number: float, base: float, names: tuple[str, ...]) -> tuple[float, str]:
    step = 0
    while abs(number) >= base and step < len(names) - 1:
        number /= base
        step += 1
    return number, names[step]


def figure(number: float | None, unit: str) -> Figure:
    """Scale a reading in a registry unit (see dcops.domain.metrics) to a short figure."""
    if number is None or math.isnan(number):
        return Figure(UNKNOWN, "")
    if unit in ("B", "B/s"):
        scaled, name = _scaled(number, 1024, _BINARY)
        return Figure(digits(scaled), name + unit[1:])
    if unit in ("W", "Wh"):
        scaled, name = _scaled(number, 1000, _DECIMAL)
        return Figure(digits(scaled), name + unit)
    if unit == "ratio":
        return Figure(f"{100 * number:.1f}", "%")
    if unit == "%":
        return Figure(
            f"{number:.1f}" if number < 10 and not float(number).is_integer() else f"{number:.0f}",
            "%",
        )
    return Figure(digits(number), "" if unit in ("bits", "P") else unit)


def duration(seconds: float) -> str:
    """A span as its two largest parts: 41 s · 3 min · 2 h 05 min · 3 d 4 h."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total} s"
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{days} d {hours % 24} h"
