"""Reads for the pages and the live state that no single app answers, as the server itself where it feeds all viewers."""

import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings

from dashboards.live_state import EventLine, Feed, NodeSeat, Refused
from dcops.access.actor import system
from dcops.domain.metrics import SampleTable
from dcops.fleet import queries as fleet
from dcops.telemetry import queries as telemetry

RECENT_EVENTS = 200
RECENT_REFUSED = 50
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
        return event_lines(limit=RECENT_EVENTS)

    def refused(self, now: datetime) -> Sequence[Refused]:
        """Batches put in quarantine lately."""
        return [
            Refused(micros(entry.at), entry.node_id, entry.reason)
            for entry in telemetry.quarantine_recent(RECENT_REFUSED)
        ]

    def energy_today_kwh(self, now: datetime) -> float | None:
        """Energy of all GPUs since midnight."""
        return telemetry.energy_today_kwh(start_of_day(now), now)


def micros(at: datetime) -> int:
    """µs since 1970."""
    return round(at.timestamp() * 1_000_000)


def event_lines(**criteria: Any) -> list[EventLine]:
    """Stored events as the pages show them; criteria as of telemetry.queries.recent_events."""
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
        for event in telemetry.recent_events(**criteria)
    ]


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node says about itself beside its samples, and what was lost or refused."""

    processes: Sequence[Any]
    findings: Sequence[Any]
    gaps: Sequence[Any]
    refused: Sequence[Any]


def node_report(node_id: int, start: datetime, end: datetime) -> NodeReport:
    """Processes, findings, gaps and quarantined batches of one node."""
    told = telemetry.node_states([node_id]).get(node_id)
    return NodeReport(
        processes=told.processes if told else (),
        findings=told.findings if told else (),
        gaps=telemetry.gaps(node_id, start, end),
        refused=[
            entry
            for entry in telemetry.quarantine_recent(RECENT_REFUSED)
            if entry.node_id == node_id
        ],
    )
