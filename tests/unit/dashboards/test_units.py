"""Numbers as a person reads them."""

import math

import pytest

from dashboards.units import UNKNOWN, duration, figure


@pytest.mark.parametrize(
    ("number", "unit", "shown"),
    [
        (0, "W", "0 W"),
        (512.4, "W", "512 W"),
        (938_000, "W", "938 kW"),
        (1_130_000, "Wh", "1.13 MWh"),
        (80 * 2**30, "B", "80 GiB"),
        (58.13 * 2**30, "B", "58.1 GiB"),
        (1536, "B/s", "1.50 KiB/s"),
        (0.784, "ratio", "78.4 %"),
        (4.27, "%", "4.3 %"),
        (99.6, "%", "100 %"),
        (1184, "", "1,184"),
        (26.14, "°C", "26.1 °C"),
        (0x4, "bits", "4"),
    ],
)
def test_a_reading_is_a_short_figure_with_its_unit(number, unit, shown):
    assert str(figure(number, unit)) == shown


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_missing_reading_is_a_dash_and_never_zero(missing):
    assert figure(missing, "W").value == UNKNOWN
    assert "0" not in str(figure(missing, "B"))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7500, "2 h 05 min"),
        (273_600, "3 d 4 h"),
        (-5, "0 s"),
    ],
)
def test_a_span_is_its_two_largest_parts(seconds, shown):
    assert duration(seconds) == shown
