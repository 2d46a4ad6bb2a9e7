"""The node and GPU panels: the newest rows of one node, with names, ready for numbers and charts."""

from typing import Any

import numpy as np

from dashboards.live_state import Columns, FleetView, GpuSeat, NodeSeat
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, NODE_SAMPLE, SampleTable

Row = dict[str, float | None]


def row(columns: Columns, position: int, table: SampleTable) -> Row:
    """One subject's newest values by metric name; None for missing."""
    found: Row = {}
    for metric in table.metrics:
        value = float(columns.values(metric.name)[position])
        found[metric.name] = None if np.isnan(value) else round(value, 4)
    return found


def gpu_entry(view: FleetView, gpu: GpuSeat) -> dict[str, Any]:
    """One GPU's newest rows."""
    ids = np.array([gpu.id], np.int32)
    sample, health = view.gpu.only(ids), view.health.only(ids)
    at_us = int(sample.at_us[0])
    return {
        "uuid": gpu.uuid,
        "index": gpu.index,
        "model": gpu.model,
        "at_us": at_us,
        "live": at_us >= view.now_us - view.silent_after_s * 1_000_000,
        "sample": row(sample, 0, GPU_SAMPLE),
        "health": row(health, 0, GPU_HEALTH),
    }


def node_frame(view: FleetView, node: NodeSeat) -> dict[str, Any]:
    """The node panel: host row and a row per GPU."""
    host = view.host.only(np.array([node.id], np.int32))
    at_us = int(host.at_us[0])
    return {
        "panel": "node",
        "node": node.name,
        "state": node.state,
        "as_of_us": view.now_us,
        "layout": view.grid.version,
        "at_us": at_us,
        "live": at_us >= view.now_us - view.silent_after_s * 1_000_000,
        "host": row(host, 0, NODE_SAMPLE),
        "gpus": [gpu_entry(view, gpu) for gpu in node.gpus],
    }


def gpu_frame(view: FleetView, node: NodeSeat, gpu: GpuSeat) -> dict[str, Any]:
    """The GPU panel."""
    return {
        "panel": "gpu",
        "node": node.name,
        "as_of_us": view.now_us,
        "layout": view.grid.version,
        **gpu_entry(view, gpu),
    }
