"""All events, newest first, in a range and by level."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from dashboards.frames import state
from dashboards.pages.ranges import range_context
from dashboards.panels.attention import headline, where
from dashboards.source import event_lines
from dcops import clock
from dcops.access.actor import Action, of_request, require

LIMIT = 500


@require_safe
def events(request: HttpRequest) -> HttpResponse:
    """GET /events/"""
    require(of_request(request), Action.VIEW)
    now = clock.now()
    chosen, picker = range_context(request, now, default="24h")
    level = request.GET.get("level", "")
    view = state().view(now)
    found = event_lines(LIMIT, start=chosen.start, end=chosen.end)
    rows = [
        (event, headline(event), *where(view, event))
        for event in found
        if level in ("", event.level)
    ]
    levels = [
        ("", _("All")),
        ("critical", _("Critical")),
        ("warning", _("Warning")),
        ("info", _("Information")),
    ]
    return render(request, "pages/events.html", picker | {
        "rows": rows, "level": level, "levels": levels, "full": len(found) == LIMIT, "limit": LIMIT,
    })  # fmt: skip
