"""What every page needs: navigation, theme, version, and the words that scripts say, translated here."""

from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _

import dashboards
from dcops.domain.metrics import CLOCK_EVENT_REASONS

THEMES = ("auto", "light", "dark")
THEME_COOKIE = "dcops_theme"


def theme_of(request: HttpRequest) -> str:
    """The chosen theme; `auto` follows the system."""
    chosen = request.COOKIES.get(THEME_COOKIE, "auto")
    return chosen if chosen in THEMES else "auto"


def navigation(path: str) -> list[dict[str, Any]]:
    """The main menu, with the page one is on marked."""
    overview, nodes, events = reverse("overview"), reverse("nodes"), reverse("events")
    return [
        {
            "label": _("Overview"),
            "icon": "layout-grid",
            "href": overview,
            "current": path == overview,
        },
        {
            "label": _("Nodes"),
            "icon": "server",
            "href": nodes,
            "current": path.startswith((nodes, "/gpus/")),
        },
        {
            "label": _("Events"),
            "icon": "scroll-text",
            "href": events,
            "current": path.startswith(events),
        },
    ]


def words() -> dict[str, Any]:
    """Everything a script says. `{name}` is filled in by the script."""
    return {
        "live": _("live, 1 s"),
        "polling": _("polling, every 2 s"),
        "lost": _("no connection, last update {time}"),
        "signed_out": _("signed out; reload to sign in"),
        "gpu": _("GPU {index}"),
        "host": _("host"),
        "well": _("well"),
        "slowed": _("slowed down"),
        "fault": _("fault"),
        "stale": _("stale"),
        "no_data": _("no data"),
        "waiting": _("waits for approval"),
        "simulated": _("simulated"),
        "ago": _("{span} ago"),
        "just_now": _("now"),
        "node": _("Node"),
        "value": _("Value"),
        "state": _("State"),
        "model": _("Model"),
        "utilization": _("Utilization"),
        "tensor": _("Tensor"),
        "power": _("Power"),
        "temperature": _("Temperature"),
        "memory": _("Memory"),
        "health": _("Health"),
        "cpu": _("CPU"),
        "network": _("Network"),
        "disk": _("Disk"),
        "pressure": _("CPU pressure"),
        "memory_pressure": _("memory pressure"),
        "io_pressure": _("I/O pressure"),
        "load": _("Load"),
        "no_series": _("No data in this range."),
        "series_failed": _("The chart's data could not be loaded. It is tried again."),
        "events": _("Events"),
        "limit": _("limit"),
        "last_sample": _("Last sample {time}, {span} ago"),
        "copied": _("Copied"),
        "reasons": {str(bit): _(name) for bit, name in CLOCK_EVENT_REASONS.items()},
    }


def shell(request: HttpRequest) -> dict[str, Any]:
    """Context of base.html."""
    return {
        "nav": navigation(request.path),
        "theme": theme_of(request),
        "version": dashboards.VERSION,
        "words": words(),
    }
