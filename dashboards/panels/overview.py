"""The overview panel: tiles, the fleet map in one metric, what needs attention, the newest events, the busiest hosts."""

from typing import Any

import numpy as np

from dashboards.live_state import FleetView, Floats, Grid
from dashboards.panels.attention import make_attention, make_events
from dashboards.panels.cells import fresh, marks, rounded, values
from dashboards.panels.tiles import make_tiles, totals

HOST_ROWS = 12
HOST_METRICS = (
    "cpu_percent", "memory_used_bytes", "memory_available_bytes", "cpu_pressure_percent", "io_pressure_percent",
    "network_rx_bytes_per_s", "network_tx_bytes_per_s", "load_1m",
)  # fmt: skip


def frame(view: FleetView, metric: str) -> dict[str, Any]:
    """What changes every second. Cells are whole numbers in the scale's unit, in the order of `layout`."""
    column, scale = values(view, metric)
    return {
        "panel": "overview",
        "metric": metric,
        "as_of_us": view.now_us,
        "layout": view.grid.version,
        "values": rounded(column),
        "marks": marks(view),
        "scale": {"minimum": scale.minimum, "maximum": scale.maximum, "unit": scale.unit},
        "tiles": make_tiles(view),
        "totals": totals(view),
        "attention": make_attention(view),
        "events": make_events(view),
        "hosts": hosts(view),
    }


def layout(grid: Grid) -> list[dict[str, Any]]:
    """The seats behind the cells: sent in a snapshot, and again whenever `layout` of a frame names another version."""
    return [
        {
            "name": node.name,
            "state": node.state,
            "simulated": node.simulated,
            "gpus": [gpu.index for gpu in node.gpus],
            "model": node.gpus[0].model if node.gpus else "",
        }
        for node in grid.seats
    ]


def snapshot(view: FleetView, metric: str) -> dict[str, Any]:
    """A frame with all a page needs to start: the seats and the trends of the tiles."""
    return frame(view, metric) | {
        "nodes": layout(view.grid),
        "trends": {name: list(points) for name, points in view.trends.items()},
    }


def hosts(view: FleetView) -> list[dict[str, Any]]:
    """The hosts with most CPU in use, silent ones last."""
    return host_rows(view)[:HOST_ROWS]


def host_rows(view: FleetView) -> list[dict[str, Any]]:
    """Every host's newest numbers, the busiest first, silent ones last."""
    live = fresh(view, view.host.at_us)
    columns = {metric: view.host.values(metric) for metric in HOST_METRICS}
    busy = np.where(live, np.nan_to_num(columns["cpu_percent"], nan=-1.0), -2.0)
    return [
        _host(view, columns, position, bool(live[position]))
        for position in np.argsort(-busy, kind="stable").tolist()
    ]


def _host(
    view: FleetView, columns: dict[str, Floats], position: int, live: bool
) -> dict[str, Any]:
    node = view.grid.seats[position]
    row: dict[str, Any] = {
        name: None if np.isnan(column[position]) else round(float(column[position]), 2)
        for name, column in columns.items()
    }
    used, free = row["memory_used_bytes"], row.pop("memory_available_bytes")
    row["memory_total_bytes"] = None if used is None or free is None else used + free
    return row | {
        "name": node.name, "state": str(node.state), "simulated": node.simulated, "gpus": len(node.gpus),
        "model": node.gpus[0].model if node.gpus else "", "at_us": max(int(view.host.at_us[position]), view.last_heard_us.get(node.id, 0)), "live": live,
    }  # fmt: skip
