"""The registry of metrics is what wire, columns, rollups and exports are generated from."""

import re

import pytest

from dcops.domain.metrics import TABLES, Kind, Metric, SampleTable

METRICS = [(table, metric) for table in TABLES for metric in table.metrics]
UNIT_SUFFIXES = {
    "W": "_w", "mJ": "_mj", "°C": "_c", "%": "_percent", "ratio": "_ratio", "B": "_bytes", "B/s": "_bytes_per_s",
    "MHz": "_mhz", "ns": "_ns", "s": "_s", "rpm": "_rpm",
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_presence_bits_fit_64(table: SampleTable) -> None:
    assert len(table.metrics) <= 64
    assert len(set(table.names)) == len(table.names)


@pytest.mark.parametrize(("table", "metric"), METRICS, ids=lambda item: getattr(item, "name", ""))
def test_a_name_carries_its_unit(table: SampleTable, metric: Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    if metric.unit in UNIT_SUFFIXES:
        assert metric.name.endswith(UNIT_SUFFIXES[metric.unit])


@pytest.mark.parametrize(("table", "metric"), METRICS, ids=lambda item: getattr(item, "name", ""))
def test_bounds_fit_the_column(table: SampleTable, metric: Metric) -> None:
    bits = {"int2": 15, "int4": 31, "int8": 63}.get(metric.column)
    assert metric.minimum < metric.maximum
    if bits is not None:
        assert -(2**bits) <= metric.minimum
        assert metric.maximum <= 2**bits - 1


def test_dcgm_ids_and_names_are_unique() -> None:
    exported = [metric.dcgm for _, metric in METRICS if metric.dcgm]
    assert len({item.field_id for item in exported}) == len(exported)
    assert len({item.name for item in exported}) == len(exported)


def test_counters_are_integers() -> None:
    assert all(metric.column != "float4" for _, metric in METRICS if metric.kind is not Kind.GAUGE)


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(KeyError):
        TABLES[0].metric("power_kw")
