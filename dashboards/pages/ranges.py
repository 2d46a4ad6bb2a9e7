"""The range picker's context, shared by the node, GPU and event pages."""

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext as _

from dashboards.timerange import DEFAULT, PRESETS, BadRange, TimeRange, parse


def range_context(
    request: HttpRequest, now: datetime, default: str = DEFAULT.key
) -> tuple[TimeRange, dict[str, Any]]:
    """The page's range and the picker's context. A range that cannot be read shows the default and says so."""
    problem = ""
    try:
        chosen = parse({"range": default, **request.GET.dict()}, now)
    except BadRange as error:
        chosen, problem = parse({}, now), str(error)
    names = {
        "15m": _("15 min"), "1h": _("1 h"), "6h": _("6 h"), "24h": _("24 h"), "7d": _("7 d"), "30d": _("30 d"),
    }  # fmt: skip
    return chosen, {
        "range": chosen,
        "presets": [(preset.key, names[preset.key]) for preset in PRESETS],
        "range_problem": problem,
    }
