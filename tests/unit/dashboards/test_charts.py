"""Which charts a page draws, and with what."""

import pytest

from dashboards.charts.specs import PLOTLY_LINES, GpuLine, chart, host_lines, per_gpu


def gpus(count):
    return [GpuLine(f"GPU-{i}", f"GPU {i}") for i in range(count)]


@pytest.mark.parametrize(
    ("count", "engine"), [(1, "plotly"), (PLOTLY_LINES, "plotly"), (PLOTLY_LINES + 1, "uplot")]
)
def test_many_lines_are_drawn_by_uplot(count, engine):
    assert (
        chart("power", "Power", "W", per_gpu(gpus(count), "power_average_w"))["engine"] == engine
    )


def test_an_unknown_limit_is_not_drawn():
    made = chart(
        "power", "Power", "W", per_gpu(gpus(1), "power_average_w"), [(None, "a"), (700.0, "b")]
    )
    assert made["limits"] == [{"value": 700.0, "label": "b"}]


def test_a_line_of_no_metric_is_a_mistake():
    with pytest.raises(KeyError):
        host_lines("node", ("power_average_w", "Power"))
