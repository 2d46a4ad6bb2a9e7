"""The trends of the minutes before this process started."""

from datetime import UTC, datetime

import numpy as np

from dashboards.history import MAX_SUBJECTS, past_trends
from dashboards.live_state import TREND_S, make_grid
from tests.integration.dashboards.fleet import node

NOW = datetime(2026, 1, 31, 14, 0, tzinfo=UTC)


def reader(values):
    """Read one value for the last seconds: metric -> (seconds known, value)."""

    def read(table, subject_id, metrics, start, end):
        assert (end - start).total_seconds() == TREND_S
        columns = {}
        for name in metrics:
            known, value = values.get(name, (0, 0.0))
            columns[name] = np.concatenate(
                [np.full(TREND_S - known, np.nan), np.full(known, value)]
            )
        return columns

    return read


def test_a_young_fleets_trends_begin_with_its_first_sample():
    found = past_trends(
        make_grid([node(1, "a")], "v"),
        NOW,
        reader({"cpu_percent": (30, 12.0), "load_1m": (20, 2.0)}),
    )
    assert len(found["cpu"]) == 30
    assert np.isnan(found["load"][:10]).all()
    assert (found["load"][10:] == 2).all()


def test_gpus_are_summed_and_averaged_and_a_gap_stays_a_gap():
    grid = make_grid([node(1, "a", 2)], "v")
    found = past_trends(
        grid, NOW, reader({"power_average_w": (5, 300.0), "utilization_percent": (3, 50.0)})
    )
    assert found["power"].tolist() == [600.0] * 5
    assert found["utilization"][2:].tolist() == [50.0] * 3
    assert np.isnan(found["utilization"][:2]).all()
    assert np.isnan(found["hottest"]).all()


def test_a_large_fleet_is_not_read_subject_by_subject():
    def read(*arguments):
        raise AssertionError(arguments)

    assert past_trends(make_grid([node(1, "a", MAX_SUBJECTS)], "v"), NOW, read) == {}


def test_nothing_known_is_nothing_shown():
    found = past_trends(make_grid([node(1, "a")], "v"), NOW, reader({}))
    assert all(len(points) == 0 for points in found.values())
