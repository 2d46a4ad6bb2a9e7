"""JSON for scripts: a panel's snapshot for browsers without a WebSocket, and the columns of a chart."""

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from dashboards.frames import PanelKey, frame_bytes, state
from dashboards.timerange import BadRange, parse
from dcops import clock
from dcops.access.actor import Action, Actor, of_request, require
from dcops.domain.errors import Invalid
from dcops.domain.metrics import TABLE_BY_NAME, Kind, SampleTable
from dcops.fleet import queries as fleet
from dcops.telemetry import queries as telemetry

MAX_POINTS = 2000
DEFAULT_POINTS = 600


@require_safe
def live_panel(request: HttpRequest, panel: str) -> HttpResponse:
    """GET /live/<panel>?metric=… | ?node=… | ?gpu=…: the same snapshot a socket starts with."""
    require(of_request(request), Action.VIEW)
    subject = request.GET.get("gpu") or request.GET.get("node") or ""
    key = PanelKey(panel, subject, request.GET.get("metric", ""), get_language() or "en")
    return HttpResponse(
        frame_bytes(key, state().view(clock.now()), "snapshot", 0), content_type="application/json"
    )


@require_safe
def series(request: HttpRequest, table: str, subject: str) -> HttpResponse:
    """GET /series/<table>/<node name or GPU UUID>?metrics=a,b&range=1h&points=600: columns, null where there is a gap."""
    actor, now = of_request(request), clock.now()
    known = TABLE_BY_NAME.get(table)
    if known is None:
        raise Invalid(_("There is no such table of samples."), field="table")
    metrics = _metrics(known, request.GET.get("metrics", ""))
    try:
        chosen = parse(request.GET, now)
    except BadRange as error:
        raise Invalid(str(error), field="range") from None
    found = telemetry.series(
        known.name,
        _subject_id(actor, known, subject),
        metrics,
        chosen.start,
        chosen.end,
        _points(request),
        now,
    )
    columns = {}
    for name in metrics:
        column = found.columns[name]
        columns[name] = column["avg" if known.metric(name).kind is Kind.GAUGE else "last"].tolist()
    body = {
        "from_ms": chosen.start.timestamp() * 1000,
        "to_ms": chosen.end.timestamp() * 1000,
        "step_s": found.step_s,
        "source": found.source,
        "t_ms": (found.t_us // 1000).tolist(),
        "columns": columns,
    }
    return HttpResponse(msgspec.json.encode(body), content_type="application/json")


def _metrics(table: SampleTable, text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in table.names]
    if not names or unknown:
        raise Invalid(
            _("metrics= takes names of this table, separated by commas."), field="metrics"
        )
    return names


def _points(request: HttpRequest) -> int:
    text = request.GET.get("points", str(DEFAULT_POINTS))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_POINTS:
        raise Invalid(_("points= is a whole number from 1 to %s.") % MAX_POINTS, field="points")
    return int(text)


def _subject_id(actor: Actor, table: SampleTable, subject: str) -> int:
    if table.subject == "gpu":
        return fleet.get_gpu(actor, subject).id
    return fleet.get_node(actor, subject).id
