"""The overview: the page one opens in the morning and keeps open."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import get_language, ngettext
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from dashboards.frames import PanelKey, frame, state
from dashboards.panels.cells import METRICS
from dashboards.units import digits
from dcops import clock
from dcops.access.actor import Action, of_request, require

FEW_NODES = 2


def metric_labels() -> list[tuple[str, str]]:
    """The metrics of the map and their names."""
    names = {
        "utilization": _("Utilization"),
        "tensor": _("Tensor"),
        "power": _("Power"),
        "temperature": _("Temperature"),
        "memory": _("Memory"),
        "health": _("Health"),
    }
    return [(metric, names[metric]) for metric in METRICS]


def trend_charts(*, has_gpus: bool) -> list[dict[str, str]]:
    """The charts under the map: of the GPUs, or of the host where there is none."""
    if has_gpus:
        return [
            {"title": _("GPU power"), "names": "power", "unit": "W"},
            {"title": _("Utilization"), "names": "utilization,tensor", "unit": "%"},
        ]
    return [
        {"title": _("CPU and memory"), "names": "cpu,memory", "unit": "%"},
        {"title": _("Network and disk"), "names": "network,disk", "unit": "B/s"},
        {
            "title": _("Pressure: time stalled"),
            "names": "pressure,memory_pressure,io_pressure",
            "unit": "%",
        },
        {"title": _("Load, 1 min"), "names": "load", "unit": ""},
    ]


@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    """GET /"""
    require(of_request(request), Action.VIEW)
    metric = request.GET.get("metric", METRICS[0])
    metric = metric if metric in METRICS else METRICS[0]
    view = state().view(clock.now())
    gpus, nodes = int(view.grid.is_gpu.sum()), len(view.grid.seats)
    size = ngettext("%s node", "%s nodes", nodes) % digits(nodes)
    if gpus:
        size += " · " + ngettext("%s GPU", "%s GPUs", gpus) % digits(gpus)
    return render(request, "pages/overview.html", {
        "metric": metric,
        "metrics": metric_labels(),
        "snapshot": frame(PanelKey("overview", "", metric, get_language() or "en"), view, "snapshot"),
        "size": size,
        "charts": trend_charts(has_gpus=gpus > 0),
        "few_nodes": nodes <= FEW_NODES,
        "simulated": any(node.simulated for node in view.grid.seats),
    })  # fmt: skip
