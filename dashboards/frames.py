"""From a panel's name to its bytes: the same function serves the sockets, the polling fallback and the first paint."""

from functools import cache
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.utils import translation
from django.utils.translation import gettext as _

from dashboards.live_state import FleetView, LiveState
from dashboards.panels import overview
from dashboards.panels.cells import METRICS
from dashboards.panels.subject import gpu_frame, node_frame
from dashboards.panels.tiles import totals
from dashboards.source import Database
from dcops.domain.errors import NotFound


class PanelKey(NamedTuple):
    """What makes two viewers' panels the same: panel, its subject (node name or GPU UUID), metric, language."""

    panel: str
    subject: str
    metric: str
    language: str


@cache
def state() -> LiveState:
    """This process's live state."""
    return LiveState(Database(), settings.TELEMETRY["silent_after_s"], totals)


def frame(key: PanelKey, view: FleetView, kind: str) -> dict[str, Any]:
    """A panel's data as a snapshot or an update. Raises NotFound for a panel, metric or subject that is not there."""
    if key.panel == "overview" and key.metric in METRICS:
        make = overview.snapshot if kind == "snapshot" else overview.frame
        return make(view, key.metric)
    if key.panel == "node":
        for node in view.grid.seats:
            if node.name == key.subject:
                return node_frame(view, node)
    if key.panel == "gpu":
        for node, gpu in view.grid.by_gpu.values():
            if gpu.uuid == key.subject:
                return gpu_frame(view, node, gpu)
    raise NotFound(_("There is no such panel."))


def frame_bytes(key: PanelKey, view: FleetView, kind: str, seq: int) -> bytes:
    """The same as JSON, numbered, in the panel's language. A subject that went away becomes an empty update."""
    with translation.override(key.language):
        try:
            made = frame(key, view, kind)
        except NotFound:
            if kind == "snapshot":
                raise
            made = {"panel": key.panel, "gone": True}
    return msgspec.json.encode({"type": kind, "seq": seq, **made})
