"""What needs a person, in sentences: what, where, since when, and what to do next."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from dashboards.live_state import EventLine, FleetView
from dashboards.panels.cells import faults, fresh, slowed
from dashboards.units import digits, duration
from dcops.domain.metrics import RECOVERY_ACTIONS
from dcops.domain.xid import XIDS

ATTENTION_LIMIT = 12
EVENT_WINDOW_US = 3600 * 1_000_000
_ORDER = {"bad": 0, "warn": 1, "info": 2}


class Line(TypedDict):
    """One sentence with a level (bad, warn, info), a line of context, a link and a time (µs, 0 for now)."""

    level: str
    text: str
    detail: str
    href: str
    at_us: int


def line(level: str, text: str, detail: str = "", href: str = "", at_us: int = 0) -> Line:
    """Build one line."""
    return Line(level=level, text=text, detail=detail, href=href, at_us=at_us)


def where(view: FleetView, event: EventLine) -> tuple[str, str]:
    """Name the place of an event and link to its page."""
    if event.gpu_id is not None and event.gpu_id in view.grid.by_gpu:
        node, gpu = view.grid.by_gpu[event.gpu_id]
        return _("%(node)s GPU %(index)s") % {"node": node.name, "index": gpu.index}, reverse(
            "gpu", args=[gpu.uuid]
        )
    if event.node_id is not None and event.node_id in view.grid.by_node:
        name = view.grid.by_node[event.node_id].name
        return name, reverse("node", args=[name])
    return _("the fleet"), reverse("events")


def headline(event: EventLine) -> str:
    """An event in a few words: what the code of an XID means, or the message itself."""
    if event.kind == "xid" and event.code in XIDS:
        return _("Xid %(code)s: %(title)s") % {"code": event.code, "title": _(XIDS[event.code][1])}
    return event.message


def make_attention(view: FleetView) -> list[Line]:
    """All that needs a person, the worst first, cut at a screenful."""
    found = [
        *_waiting(view),
        *_silent(view),
        *_faulty(view),
        *_slow(view),
        *_critical(view),
        *_refused(view),
    ]
    found.sort(key=lambda entry: (_ORDER[entry["level"]], -entry["at_us"]))
    return found[:ATTENTION_LIMIT]


def make_events(view: FleetView, limit: int = 8) -> list[Line]:
    """The newest events as lines."""
    levels = {"critical": "bad", "warning": "warn"}
    lines = []
    for event in view.events[:limit]:
        place, href = where(view, event)
        lines.append(
            line(levels.get(event.level, "info"), headline(event), place, href, event.at_us)
        )
    return lines


def _waiting(view: FleetView) -> Iterator[Line]:
    for node in view.grid.seats:
        href = reverse("node", args=[node.name])
        if node.state == "pending":
            yield line(
                "info",
                _("%s asks to join") % node.name,
                _("its data is kept; approve it under Nodes"),
                href,
            )
        elif node.state == "quarantined":
            yield line(
                "bad",
                _("%s is quarantined") % node.name,
                _("its identity was used by two machines; check which one is real"),
                href,
            )


def _silent(view: FleetView) -> Iterator[Line]:
    young = fresh(view, view.host.at_us)
    for position, node in enumerate(view.grid.seats):
        if young[position] or node.state != "approved":
            continue
        href = reverse("node", args=[node.name])
        at_us = max(int(view.host.at_us[position]), view.last_heard_us.get(node.id, 0))
        if at_us == 0:
            yield line(
                "warn",
                _("%s has not sent anything yet") % node.name,
                _("on the node, run dcops-agent doctor"),
                href,
            )
        else:
            ago = duration((view.now_us - at_us) / 1e6)
            gpus = (
                ngettext("%s GPU is unseen", "%s GPUs are unseen", len(node.gpus))
                % digits(len(node.gpus))
                if node.gpus
                else ""
            )
            yield line(
                "bad",
                _("%(node)s has been silent for %(ago)s") % {"node": node.name, "ago": ago},
                gpus,
                href,
                at_us,
            )


def _faulty(view: FleetView) -> Iterator[Line]:
    asked = view.health.values("recovery_action")
    live = fresh(view, view.gpu.at_us)
    for cell in np.flatnonzero(faults(view) & live).tolist():
        node, gpu = view.grid.by_gpu[int(view.grid.gpu_ids[cell])]
        action = 0 if np.isnan(asked[cell]) else int(asked[cell])
        if 0 < action < len(RECOVERY_ACTIONS):
            place = _("%(node)s GPU %(index)s") % {"node": node.name, "index": gpu.index}
            text = _("%(place)s: the driver asks to %(action)s") % {
                "place": place,
                "action": RECOVERY_ACTIONS[action],
            }
            yield line("bad", text, gpu.model, reverse("gpu", args=[gpu.uuid]))


def _slow(view: FleetView) -> Iterator[Line]:
    by_node: dict[int, list[int]] = defaultdict(list)
    for cell in np.flatnonzero(
        slowed(view) & view.grid.is_gpu & fresh(view, view.gpu.at_us)
    ).tolist():
        by_node[int(view.grid.node_index[cell])].append(cell)
    for position, cells in by_node.items():
        node = view.grid.seats[position]
        count = len(cells)
        text = ngettext(
            "%(count)s GPU of %(node)s is slowed down by heat or hardware",
            "%(count)s GPUs of %(node)s are slowed down by heat or hardware",
            count,
        )
        indexes = ", ".join(
            str(view.grid.by_gpu[int(view.grid.gpu_ids[c])][1].index) for c in cells[:8]
        )
        yield line(
            "warn",
            text % {"count": count, "node": node.name},
            _("GPU %s") % indexes,
            reverse("node", args=[node.name]),
        )


def _critical(view: FleetView) -> Iterator[Line]:
    seen: set[tuple[int | None, int | None, str]] = set()
    for event in view.events:
        key = (event.node_id, event.gpu_id, event.kind)
        if event.level != "critical" or event.at_us < view.now_us - EVENT_WINDOW_US or key in seen:
            continue
        seen.add(key)
        place, href = where(view, event)
        yield line("bad", f"{place}: {headline(event)}", "", href, event.at_us)


def _refused(view: FleetView) -> Iterator[Line]:
    by_node: dict[int | None, list[int]] = defaultdict(list)
    for entry in view.refused:
        by_node[entry.node_id].append(entry.at_us)
    for node_id, times in by_node.items():
        node = view.grid.by_node.get(node_id) if node_id is not None else None
        reason = next(entry.reason for entry in view.refused if entry.node_id == node_id)
        text = ngettext(
            "%(count)s batch of %(node)s could not be read",
            "%(count)s batches of %(node)s could not be read",
            len(times),
        )
        href = reverse("node", args=[node.name]) if node else reverse("events")
        yield line(
            "warn",
            text % {"count": len(times), "node": node.name if node else _("an unknown node")},
            reason,
            href,
            max(times),
        )
