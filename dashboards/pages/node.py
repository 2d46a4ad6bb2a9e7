"""A node: its numbers now, its GPUs, charts, identity, processes, what the agent can read, gaps and events."""

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from dashboards.charts.specs import Chart, GpuLine, chart, host_lines, per_gpu
from dashboards.frames import PanelKey, frame, state
from dashboards.pages.ranges import range_context
from dashboards.panels.attention import headline
from dashboards.source import event_lines, micros, node_report
from dcops import clock
from dcops.access.actor import Action, can, of_request
from dcops.domain.metrics import NODE_SAMPLE
from dcops.domain.nodes import NodeState
from dcops.fleet import queries as fleet

EVENTS = 40
NUMBERS = (
    "cpu_percent", "load_1m", "memory_used_bytes", "memory_available_bytes", "swap_used_bytes", "cpu_pressure_percent",
    "memory_pressure_percent", "io_pressure_percent", "disk_read_bytes_per_s", "disk_write_bytes_per_s",
    "root_disk_used_percent", "network_rx_bytes_per_s", "network_tx_bytes_per_s", "infiniband_rx_bytes_per_s",
    "infiniband_tx_bytes_per_s", "cpu_temperature_c", "fan_speed_rpm", "rapl_power_w", "processes_blocked", "uptime_s",
)  # fmt: skip


def node_charts(
    name: str, gpus: Sequence[GpuLine], limit_w: float | None, memory_bytes: float | None
) -> list[Chart]:
    """The charts of a node page: GPUs first, if it has any, then the host."""
    of_gpus = [
        chart("gpu-utilization", _("GPU utilization"), "%", per_gpu(gpus, "utilization_percent"), maximum=100),
        chart("gpu-power", _("GPU power"), "W", per_gpu(gpus, "power_average_w"), [(limit_w, _("limit"))]),
        chart("gpu-temperature", _("GPU temperature"), "°C", per_gpu(gpus, "temperature_c")),
        chart("gpu-memory", _("GPU memory used"), "B", per_gpu(gpus, "memory_used_bytes")),
    ] if gpus else []  # fmt: skip
    return [
        *of_gpus,
        chart(
            "cpu",
            _("CPU"),
            "%",
            host_lines(
                name, ("cpu_percent", _("used")), ("cpu_iowait_percent", _("waiting for I/O"))
            ),
            maximum=100,
        ),
        chart(
            "memory",
            _("Memory"),
            "B",
            host_lines(name, ("memory_used_bytes", _("used")), ("swap_used_bytes", _("swap"))),
            [(memory_bytes, _("installed"))],
        ),
        chart(
            "pressure",
            _("Pressure: time stalled"),
            "%",
            host_lines(
                name,
                ("cpu_pressure_percent", _("CPU")),
                ("memory_pressure_percent", _("memory")),
                ("io_pressure_percent", _("I/O")),
            ),
        ),
        chart(
            "network",
            _("Network"),
            "B/s",
            host_lines(
                name,
                ("network_rx_bytes_per_s", _("in")),
                ("network_tx_bytes_per_s", _("out")),
                ("infiniband_rx_bytes_per_s", _("InfiniBand in")),
                ("infiniband_tx_bytes_per_s", _("InfiniBand out")),
            ),
        ),
        chart(
            "disk",
            _("Disk"),
            "B/s",
            host_lines(
                name,
                ("disk_read_bytes_per_s", _("read")),
                ("disk_write_bytes_per_s", _("written")),
            ),
        ),
        chart("load", _("Load, 1 min"), "", host_lines(name, ("load_1m", _("load")))),
    ]


def host_numbers(row: dict[str, float | None]) -> list[dict[str, Any]]:
    """The strip of numbers; what this machine does not report is left out."""
    return [
        {
            "name": name,
            "label": _(NODE_SAMPLE.metric(name).label),
            "value": row.get(name),
            "unit": NODE_SAMPLE.metric(name).unit,
        }
        for name in NUMBERS
        if row.get(name) is not None
    ]


@require_safe
def node(request: HttpRequest, name: str) -> HttpResponse:
    """GET /nodes/<name>/"""
    actor, now = of_request(request), clock.now()
    found = fleet.get_node(actor, name)
    gpus = fleet.gpus_of(actor, found)
    chosen, picker = range_context(request, now)
    lines = [GpuLine(gpu.uuid, _("GPU %s") % gpu.index) for gpu in gpus]
    limit_w = max((gpu.power_limit_max_w for gpu in gpus if gpu.power_limit_max_w), default=None)
    snapshot = _snapshot(name)
    events = event_lines(EVENTS, node_id=found.id, start=chosen.start, end=chosen.end)
    return render(request, "pages/node.html", picker | {
        "node": found,
        "gpus": gpus,
        "snapshot": snapshot,
        "numbers": host_numbers(snapshot["host"]) if snapshot else [],
        "charts": node_charts(name, lines, limit_w, found.memory_total_bytes),
        "events": [(event, headline(event)) for event in events],
        "event_marks": [[event.at_us // 1000, event.level, headline(event)] for event in events],
        "report": node_report(found.id, chosen.start, chosen.end),
        "can_administer": can(actor, Action.ADMINISTER),
        "pending": found.state in (NodeState.PENDING, NodeState.QUARANTINED),
        "last_seen_us": micros(found.last_seen_at) if found.last_seen_at else None,
    })  # fmt: skip


def _snapshot(name: str) -> dict[str, Any] | None:
    """The node's live panel; None for a revoked node, which has none."""
    view = state().view(clock.now())
    if not any(seat.name == name for seat in view.grid.seats):
        return None
    return frame(PanelKey("node", name, "", get_language() or "en"), view, "snapshot")
