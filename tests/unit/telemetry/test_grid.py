"""Windows, steps and buckets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcops.telemetry.grid import Grid, Readings, aggregate, choose, fit, gather

DAY = 86400
MOMENT = st.integers(946_684_800, 4_102_444_800).map(lambda s: s * 1_000_000)


@given(MOMENT, st.integers(1, 3660 * DAY * 10**6), st.integers(1, 2000), st.integers(1, 40 * DAY))
def test_a_grid_covers_its_window_with_no_more_points_than_asked_for(start, span, points, step):
    grid = fit(start, start + span, points, step)
    assert 1 <= grid.count <= points
    assert grid.step_s >= step
    assert grid.start_us <= start
    assert grid.end_us >= start + span
    assert grid.start_us > start - grid.step_s * 10**6


@pytest.mark.parametrize(
    ("span_days", "age_days", "step", "source"),
    [
        (1, 1, None, "raw"),
        (1, 30, None, "minute"),
        (7, 7, None, "minute"),
        (30, 30, None, "hour"),
        (1, 1, 3600, "hour"),
        (1, 200, None, "hour"),
    ],
)
def test_the_source_follows_the_window(span_days, age_days, step, source):
    assert choose(span_days * DAY, age_days * DAY, 7 * DAY, 90 * DAY, step) == source


def readings(seconds, values):
    array = np.array(values, float)
    return Readings(np.array(seconds) * 1_000_000, array, array, array, array, np.ones(len(array)))


def test_buckets_hold_what_fell_into_them_and_gaps_stay_gaps():
    found = aggregate(
        Grid(10, 0, 4),
        gather([readings([31, 1, 9], [5, 1, 3]), readings([4, 45], [8, 9])]),
        averaged=True,
    )
    np.testing.assert_array_equal(found["avg"], [4, np.nan, np.nan, 5])
    np.testing.assert_array_equal(found["min"], [1, np.nan, np.nan, 5])
    np.testing.assert_array_equal(found["max"], [8, np.nan, np.nan, 5])
    np.testing.assert_array_equal(found["last"], [3, np.nan, np.nan, 5])


def test_a_state_shows_its_last_value_and_no_mean():
    found = aggregate(Grid(10, 0, 1), readings([1, 2], [0, 8]), averaged=False)
    assert found["avg"].tolist() == [8]


def test_means_are_weighted_by_their_readings():
    part = Readings(
        np.array([0, 60]) * 10**6,
        np.zeros(2),
        np.ones(2),
        np.array([1.0, 4.0]),
        np.ones(2),
        np.array([59.0, 1.0]),
    )
    assert aggregate(Grid(120, 0, 1), part, averaged=True)["avg"].tolist() == [
        pytest.approx(63 / 60)
    ]
