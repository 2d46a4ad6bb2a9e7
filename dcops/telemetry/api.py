"""Telemetry over HTTP: series, events, gaps, quarantine. Bodies are columnar and encoded once, by msgspec."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from ninja import Query, Router, Schema
from pydantic import AwareDatetime, StringConstraints

from dcops import clock
from dcops.access.actor import Action, Actor, of_request, require
from dcops.access.responses import answers
from dcops.domain.errors import Invalid
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, NODE_SAMPLE, SampleTable
from dcops.fleet import queries as fleet
from dcops.telemetry import queries

router = Router(tags=["telemetry"])

Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Points = Annotated[int, Query(ge=1, le=queries.MAX_POINTS)]
Step = Annotated[int | None, Query(ge=1, le=366 * 86400)]
Metrics = Annotated[list[Text], Query(min_length=1, max_length=64)]
From = Annotated[AwareDatetime, Query(alias="from")]
To = Annotated[AwareDatetime, Query()]
FromMaybe = Annotated[AwareDatetime | None, Query(alias="from")]
ToMaybe = Annotated[AwareDatetime | None, Query()]
OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
LONGEST = timedelta(days=3660)


class Statistics(Schema):
    """One metric at each point of the grid; null where nothing was read. States and counters have their last value as avg."""

    unit: str
    avg: list[float | None]
    min: list[float | None]
    max: list[float | None]
    last: list[float | None]


class SeriesOut(Schema):
    """Readings on a regular grid: point i covers [t[i], t[i] + step_s), t in seconds since 1970. `source`: raw, minute or hour."""

    step_s: int
    source: str
    t: list[int]
    series: dict[str, Statistics]


class EventOut(Schema):
    """Something that happened once."""

    id: int
    at: datetime
    node: str
    gpu: str | None
    gpu_index: int | None
    kind: str
    severity: str
    code: int | None
    message: str
    source: str
    simulated: bool


class EventList(Schema):
    """Events, newest first."""

    items: list[EventOut]


class GapOut(Schema):
    """Records first_seq..last_seq of a spool that are lost for good."""

    id: int
    node: str
    spool_id: str
    first_seq: int
    last_seq: int
    first_at: datetime | None
    last_at: datetime | None
    reason: str
    received_at: datetime


class GapList(Schema):
    """Gaps, newest first."""

    items: list[GapOut]


class QuarantineOut(Schema):
    """Records of one batch that could not be read, and why."""

    id: int
    at: datetime
    node: str
    spool_id: str
    first_seq: int
    records: int
    reason: str
    payload_bytes: int


class QuarantineList(Schema):
    """What could not be read, newest first."""

    items: list[QuarantineOut]


@router.get("/series/gpu/{uuid}", response=answers(SeriesOut))
def gpu_series(
    request: HttpRequest,
    uuid: Text,
    metric: Metrics,
    start: From,
    to: To,
    step: Step = None,
    max_points: Points = 1000,
) -> HttpResponse:
    """Read metrics of a GPU over [from, to): at most `max_points` points, at least `step` seconds apart."""
    gpu = fleet.get_gpu(of_request(request), uuid)
    return _series((GPU_SAMPLE, GPU_HEALTH), gpu.pk, metric, start, to, step, max_points)


@router.get("/series/node/{name}", response=answers(SeriesOut))
def node_series(
    request: HttpRequest,
    name: Text,
    metric: Metrics,
    start: From,
    to: To,
    step: Step = None,
    max_points: Points = 1000,
) -> HttpResponse:
    """Read metrics of a node over [from, to): at most `max_points` points, at least `step` seconds apart."""
    node = fleet.get_node(of_request(request), name)
    return _series((NODE_SAMPLE,), node.pk, metric, start, to, step, max_points)


@router.get("/events", response=answers(EventList))
def list_events(
    request: HttpRequest,
    limit: Limit = 100,
    node: Text = "",
    gpu: Text = "",
    start: FromMaybe = None,
    to: ToMaybe = None,
) -> HttpResponse:
    """List events, newest first; of one node or GPU, and in [from, to), if given."""
    actor = _viewer(request)
    gpu_id = fleet.get_gpu(actor, gpu).pk if gpu else None
    return _columns(
        {"items": queries.recent_events(limit, _node_id(actor, node), gpu_id, start, to)}
    )


@router.get("/gaps", response=answers(GapList))
def list_gaps(request: HttpRequest, limit: Limit = 100, node: Text = "") -> HttpResponse:
    """List records that are lost for good, newest first."""
    actor = _viewer(request)
    return _columns({"items": queries.gaps(limit, _node_id(actor, node))})


@router.get("/quarantine", response=answers(QuarantineList))
def list_quarantine(request: HttpRequest, limit: Limit = 100, node: Text = "") -> HttpResponse:
    """List records that could not be read, newest first."""
    actor = _viewer(request)
    return _columns({"items": queries.quarantine_recent(limit, _node_id(actor, node))})


def _viewer(request: HttpRequest) -> Actor:
    actor = of_request(request)
    require(actor, Action.VIEW)
    return actor


def _node_id(actor: Actor, name: str) -> int | None:
    return int(fleet.get_node(actor, name).pk) if name else None


def _series(
    tables: Sequence[SampleTable],
    subject_id: int,
    metrics: Sequence[str],
    start: datetime,
    end: datetime,
    step_s: int | None,
    max_points: int,
) -> HttpResponse:
    now = clock.now()
    table = _table_of(tables, metrics)
    if not OLDEST <= start < end <= now + timedelta(days=1) or end - start > LONGEST:
        raise Invalid(
            _("The window must begin before it ends, lie in the past and span at most ten years."),
            field="from",
        )
    found = queries.series(
        table.name, subject_id, metrics, start, end, max_points, now, step_s=step_s
    )
    series = {
        name: {"unit": table.metric(name).unit}
        | {statistic: values.tolist() for statistic, values in column.items()}
        for name, column in found.columns.items()
    }
    seconds = (found.t_us // 1_000_000).tolist()
    return _columns(
        {"step_s": found.step_s, "source": found.source, "t": seconds, "series": series}
    )


def _table_of(tables: Sequence[SampleTable], metrics: Sequence[str]) -> SampleTable:
    for table in tables:
        if set(metrics) <= set(table.names):
            return table
    raise Invalid(
        _("Ask for metrics of one family: %(names)s.")
        % {"names": "; ".join(", ".join(table.names) for table in tables)},
        field="metric",
    )


def _columns(body: dict[str, Any]) -> HttpResponse:
    # NaN becomes null.
    return HttpResponse(msgspec.json.encode(body), content_type="application/json")
