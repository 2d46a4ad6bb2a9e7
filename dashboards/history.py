"""The trends of the minutes before this process started, for fleets small enough to read subject by subject."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import numpy as np

from dashboards.live_state import TREND_S, Floats, Grid
from dcops.domain.metrics import GPU_SAMPLE, NODE_SAMPLE, SampleTable

MAX_SUBJECTS = 48
GPU_METRICS = ("utilization_percent", "tensor_active_ratio", "power_average_w", "temperature_c")
NODE_METRICS = (
    "cpu_percent", "load_1m", "memory_used_bytes", "memory_available_bytes", "cpu_pressure_percent", "memory_pressure_percent",
    "io_pressure_percent", "network_rx_bytes_per_s", "network_tx_bytes_per_s", "disk_read_bytes_per_s", "disk_write_bytes_per_s",
)  # fmt: skip

# Reads TREND_S values of each metric, one a second up to the given time: metric -> float64[TREND_S], NaN for gaps.
Read = Callable[[SampleTable, int, Sequence[str], datetime, datetime], dict[str, Floats]]


def past_trends(grid: Grid, now: datetime, read: Read) -> dict[str, Floats]:
    """The trends of tiles.totals for the last TREND_S seconds; nothing for a large fleet."""
    gpus = [int(gpu) for gpu in grid.gpu_ids if gpu >= 0]
    nodes = [node.id for node in grid.seats]
    if len(gpus) + len(nodes) > MAX_SUBJECTS or not nodes:
        return {}
    gpu = _stack(GPU_SAMPLE, gpus, GPU_METRICS, now, read) if gpus else {}
    host = _stack(NODE_SAMPLE, nodes, NODE_METRICS, now, read)
    return _since_first((_of_gpus(gpu) if gpus else {}) | _of_hosts(host))


def _since_first(trends: dict[str, Floats]) -> dict[str, Floats]:
    """Leave out the seconds before anything was known: a young fleet's trends fill their charts."""
    known = np.flatnonzero(~np.isnan(np.stack(list(trends.values()))).all(axis=0))
    start = int(known[0]) if len(known) else TREND_S
    return {name: points[start:] for name, points in trends.items()}


def _stack(
    table: SampleTable, ids: Sequence[int], metrics: Sequence[str], now: datetime, read: Read
) -> dict[str, Floats]:
    start = now - timedelta(seconds=TREND_S)
    found = [read(table, subject, metrics, start, now) for subject in ids]
    return {name: np.stack([columns[name] for columns in found]) for name in metrics}


def _total(rows: Floats) -> Floats:
    summed: Floats = np.where(np.isnan(rows).all(axis=0), np.nan, np.nansum(rows, axis=0))
    return summed


def _mean(rows: Floats) -> Floats:
    count = (~np.isnan(rows)).sum(axis=0)
    averaged: Floats = np.where(count == 0, np.nan, np.nansum(rows, axis=0) / np.maximum(count, 1))
    return averaged


def _of_gpus(gpu: dict[str, Floats]) -> dict[str, Floats]:
    heat = gpu["temperature_c"]
    hottest = np.where(
        np.isnan(heat).all(axis=0), np.nan, np.nan_to_num(heat, nan=-273.0).max(axis=0)
    )
    return {
        "utilization": _mean(gpu["utilization_percent"]),
        "tensor": _mean(100 * gpu["tensor_active_ratio"]),
        "power": _total(gpu["power_average_w"]),
        "hottest": hottest,
    }


def _of_hosts(host: dict[str, Floats]) -> dict[str, Floats]:
    used = _total(host["memory_used_bytes"])
    return {
        "cpu": _mean(host["cpu_percent"]),
        "load": _total(host["load_1m"]),
        "memory": 100 * used / (used + _total(host["memory_available_bytes"])),
        "pressure": _mean(host["cpu_pressure_percent"]),
        "memory_pressure": _mean(host["memory_pressure_percent"]),
        "io_pressure": _mean(host["io_pressure_percent"]),
        "network": _total(host["network_rx_bytes_per_s"] + host["network_tx_bytes_per_s"]),
        "disk": _total(host["disk_read_bytes_per_s"] + host["disk_write_bytes_per_s"]),
    }
