"""A GPU: its numbers now, charts with its limits and events, identity, health counters, processes."""

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from dashboards.charts.specs import Chart, chart, gpu_lines
from dashboards.frames import PanelKey, frame, state
from dashboards.pages.ranges import range_context
from dashboards.panels.attention import headline
from dashboards.source import event_lines, node_report
from dcops import clock
from dcops.access.actor import of_request
from dcops.domain.errors import NotFound
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, SampleTable
from dcops.fleet import queries as fleet

EVENTS = 40
NUMBERS = (
    "utilization_percent", "tensor_active_ratio", "sm_active_ratio", "dram_active_ratio", "memory_used_bytes", "power_average_w",
    "power_limit_w", "temperature_c", "memory_temperature_c", "temperature_margin_c", "sm_clock_mhz", "memory_clock_mhz",
    "pcie_rx_bytes_per_s", "pcie_tx_bytes_per_s", "nvlink_rx_bytes_per_s", "nvlink_tx_bytes_per_s", "fan_speed_percent",
    "performance_state",
)  # fmt: skip


def gpu_charts(gpu: Any) -> list[Chart]:
    """The charts of a GPU page; `gpu` is a fleet GPU with its limits."""
    uuid, hundred = gpu.uuid, 100.0
    return [
        chart("utilization", _("Utilization"), "%", gpu_lines(
            uuid, ("utilization_percent", _("kernel running"), 1), ("sm_active_ratio", _("SM active"), hundred),
            ("tensor_active_ratio", _("tensor active"), hundred), ("dram_active_ratio", _("memory bandwidth"), hundred),
        ), maximum=100),
        chart("power", _("Power"), "W", gpu_lines(
            uuid, ("power_average_w", _("1 s average"), 1), ("power_instant_w", _("instant"), 1), ("power_limit_w", _("limit in force"), 1),
        ), [(gpu.power_limit_max_w, _("highest limit"))]),
        chart("temperature", _("Temperature"), "°C", gpu_lines(
            uuid, ("temperature_c", _("GPU"), 1), ("memory_temperature_c", _("memory"), 1),
        ), [(gpu.temperature_slowdown_c, _("slowdown")), (gpu.temperature_shutdown_c, _("shutdown"))]),
        chart("memory", _("Memory"), "B", gpu_lines(
            uuid, ("memory_used_bytes", _("used"), 1), ("memory_reserved_bytes", _("reserved"), 1),
        ), [(gpu.memory_total_bytes, _("installed"))]),
        chart("clocks", _("Clocks"), "MHz", gpu_lines(
            uuid, ("sm_clock_mhz", _("SM"), 1), ("memory_clock_mhz", _("memory"), 1),
        ), [(gpu.sm_clock_max_mhz, _("highest SM clock"))]),
        chart("links", _("PCIe and NVLink"), "B/s", gpu_lines(
            uuid, ("pcie_rx_bytes_per_s", _("PCIe in"), 1), ("pcie_tx_bytes_per_s", _("PCIe out"), 1),
            ("nvlink_rx_bytes_per_s", _("NVLink in"), 1), ("nvlink_tx_bytes_per_s", _("NVLink out"), 1),
        )),
    ]  # fmt: skip


def numbers(
    table: SampleTable, row: dict[str, float | None], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Labelled readings of a table; what this GPU does not report is left out."""
    return [
        {
            "name": name,
            "label": _(table.metric(name).label),
            "value": row.get(name),
            "unit": table.metric(name).unit,
        }
        for name in names
        if row.get(name) is not None
    ]


@require_safe
def by_seat(request: HttpRequest, name: str, index: int) -> HttpResponse:
    """GET /nodes/<name>/gpus/<index>/: to the GPU that sits there now."""
    actor = of_request(request)
    for gpu in fleet.gpus_of(actor, fleet.get_node(actor, name)):
        if gpu.index == index:
            return HttpResponseRedirect(reverse("gpu", args=[gpu.uuid]))
    raise NotFound(_("This node has no such GPU now."))


@require_safe
def gpu(request: HttpRequest, uuid: str) -> HttpResponse:
    """GET /gpus/<uuid>/"""
    actor, now = of_request(request), clock.now()
    found = fleet.get_gpu(actor, uuid)
    chosen, picker = range_context(request, now)
    snapshot = _snapshot(uuid)
    events = event_lines(EVENTS, gpu_id=found.id, start=chosen.start, end=chosen.end)
    report = node_report(found.node.id, chosen.start, chosen.end)
    return render(request, "pages/gpu.html", picker | {
        "gpu": found,
        "node": found.node,
        "snapshot": snapshot,
        "numbers": numbers(GPU_SAMPLE, snapshot["sample"], NUMBERS) if snapshot else [],
        "health": numbers(GPU_HEALTH, snapshot["health"], GPU_HEALTH.names) if snapshot else [],
        "charts": gpu_charts(found),
        "events": [(event, headline(event)) for event in events],
        "event_marks": [[event.at_us // 1000, event.level, headline(event)] for event in events],
        "processes": [process for process in report.processes if process["gpu_uuid"] == uuid],
    })  # fmt: skip


def _snapshot(uuid: str) -> dict[str, Any] | None:
    """The GPU's live panel; None for one that no node holds now."""
    view = state().view(clock.now())
    try:
        return frame(PanelKey("gpu", uuid, "", get_language() or "en"), view, "snapshot")
    except NotFound:
        return None
