"""Reads for the pages and the live state that no single app answers, as the server itself where it feeds all viewers."""

import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from django.conf import settings

from dashboards.history import past_trends
from dashboards.live_state import TREND_S, EventLine, Feed, Floats, Grid, NodeSeat, Refused
from dcops.access.actor import system
from dcops.domain.metrics import SampleTable
from dcops.fleet import queries as fleet
from dcops.telemetry import queries as telemetry

RECENT_EVENTS = 200
RECENT_REFUSED = 50
RECENT_GAPS = 50
REFUSED_WITHIN = timedelta(hours=24)
_ACTOR = system("live pages")


def start_of_day(now: datetime) -> datetime:
    """Midnight in the site's time zone."""
    local = now.astimezone(zoneinfo.ZoneInfo(settings.TIME_ZONE))
    return local.replace(hour=0, minute=0, second=0, microsecond=0)


class Database:
    """The source of a running server."""

    def seats(self) -> Sequence[NodeSeat]:
        """Every node with its GPUs."""
        return fleet.seats(_ACTOR)

    def latest(self, table: SampleTable, now: datetime) -> Feed:
        """Newest rows of a table."""
        return telemetry.latest(table, now)

    def events(self, now: datetime) -> Sequence[EventLine]:
        """The newest events, newest first."""
        return event_lines(RECENT_EVENTS)

    def refused(self, now: datetime) -> Sequence[Refused]:
        """Batches put in quarantine lately."""
        return refused_batches(now - REFUSED_WITHIN)

    def last_heard_us(self) -> Mapping[int, int]:
        """When each node was last heard, µs since 1970, by node id."""
        return {node_id: micros(at) for node_id, at in telemetry.last_received().items()}

    def past_trends(self, grid: Grid, now: datetime) -> Mapping[str, Sequence[float | None]]:
        """What the trends were before this process started."""
        found = past_trends(grid, now, _read_seconds)
        return {
            name: [None if np.isnan(v) else float(f"{v:.5g}") for v in points]
            for name, points in found.items()
        }

    def energy_today_kwh(self, now: datetime) -> float | None:
        """Energy of all GPUs since midnight."""
        return telemetry.energy_today_kwh(start_of_day(now), now)


def _read_seconds(
    table: SampleTable, subject_id: int, metrics: Sequence[str], start: datetime, end: datetime
) -> dict[str, Floats]:
    found = telemetry.series(table.name, subject_id, metrics, start, end, TREND_S, end)
    columns = {name: found.columns[name]["avg"] for name in metrics}
    # The grid is aligned to whole seconds and may hold one bucket less or more at its ends.
    return {
        name: np.concatenate([np.full(TREND_S, np.nan), column])[-TREND_S:]
        for name, column in columns.items()
    }


def micros(at: datetime) -> int:
    """µs since 1970."""
    return round(at.timestamp() * 1_000_000)


def event_lines(
    limit: int,
    *,
    node_id: int | None = None,
    gpu_id: int | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[EventLine]:
    """Stored events as the pages show them, newest first."""
    found = telemetry.recent_events(limit, node_id=node_id, gpu_id=gpu_id, start=start, end=end)
    return [
        EventLine(
            micros(event.at),
            event.severity,
            event.kind,
            event.message,
            event.code,
            event.node_id,
            event.gpu_id,
        )
        for event in found
    ]


def refused_batches(since: datetime, node_id: int | None = None) -> list[Refused]:
    """Quarantined batches after a moment, newest first."""
    found = telemetry.quarantine_recent(RECENT_REFUSED, node_id=node_id)
    return [
        Refused(micros(entry.at), entry.node_id, entry.reason)
        for entry in found
        if entry.at >= since
    ]


@dataclass(frozen=True, slots=True)
class Lost:
    """Records of a node that are lost for good."""

    at_us: int
    records: int
    reason: str


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node says about itself beside its samples, and what was lost or refused."""

    processes: Sequence[dict[str, Any]]
    findings: Sequence[dict[str, Any]]
    gaps: Sequence[Lost]
    refused: Sequence[Refused]


def node_report(node_id: int, start: datetime, end: datetime) -> NodeReport:
    """Processes and findings as told last, gaps and quarantined batches of the range."""
    told = telemetry.node_states([node_id]).get(node_id)
    gaps = [
        Lost(micros(gap.received_at), gap.last_seq - gap.first_seq + 1, gap.reason)
        for gap in telemetry.gaps(RECENT_GAPS, node_id=node_id)
        if start <= gap.received_at <= end
    ]
    return NodeReport(
        processes=told.processes if told else (),
        findings=told.findings if told else (),
        gaps=gaps,
        refused=refused_batches(start, node_id),
    )
