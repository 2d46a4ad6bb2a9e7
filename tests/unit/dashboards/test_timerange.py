"""The range of a page lives in its URL."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest

from dashboards.timerange import PRESETS, BadRange, parse

NOW = datetime(2026, 1, 31, 14, 0, tzinfo=UTC)


def test_no_range_is_the_last_15_minutes():
    chosen = parse({}, NOW)
    assert (chosen.end - chosen.start, chosen.end, chosen.key) == (
        timedelta(minutes=15),
        NOW,
        "15m",
    )


@pytest.mark.parametrize("key", [preset.key for preset in PRESETS])
def test_a_preset_reads_back_from_its_own_query(key):
    chosen = parse({"range": key}, NOW)
    assert parse(dict(parse_qsl(chosen.query)), NOW) == chosen


def test_fixed_ends_read_back_from_their_own_query():
    chosen = parse({"from": "2026-01-30T08:00", "to": "2026-01-30T09:30"}, NOW)
    assert (chosen.key, chosen.end - chosen.start) == ("", timedelta(minutes=90))
    assert parse(dict(parse_qsl(chosen.query)), NOW) == chosen


@pytest.mark.parametrize(
    "params",
    [
        {"range": "1y"},
        {"range": ""},
        {"from": "yesterday"},
        {"from": "2026-01-31T15:00"},
        {"from": "2020-01-01T00:00"},
        {"from": "2026-01-30T09:00", "to": "2026-01-30T09:00"},
    ],
)
def test_a_range_that_cannot_be_says_what_to_write(params):
    with pytest.raises(BadRange, match=r"range|time"):
        parse(params, NOW)
