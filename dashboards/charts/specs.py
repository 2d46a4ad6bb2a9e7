"""Which charts a page draws: titles, lines, limits. Pure; the browser fetches the columns and draws.

Plotly draws up to PLOTLY_LINES lines a chart, uPlot more: its cost hardly grows with the number of lines.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from dcops.domain.metrics import GPU_SAMPLE, NODE_SAMPLE, SampleTable

PLOTLY_LINES = 16


class Line(TypedDict):
    """One line: where its column comes from; `factor` turns its unit into the chart's."""

    table: str
    subject: str
    metric: str
    label: str
    factor: float
    dashed: bool


class Limit(TypedDict):
    """A horizontal line."""

    value: float
    label: str


class Chart(TypedDict):
    """One chart. `maximum` fixes the axis, None lets it fit."""

    id: str
    title: str
    unit: str
    engine: str
    maximum: float | None
    lines: list[Line]
    limits: list[Limit]


class GpuLine(NamedTuple):
    """What a chart needs to know of a GPU."""

    uuid: str
    label: str


def line(
    table: SampleTable,
    subject: str,
    metric: str,
    label: str,
    factor: float = 1.0,
    *,
    dashed: bool = False,
) -> Line:
    """Build one line. Raises KeyError for a metric the table does not have."""
    return Line(
        table=table.name,
        subject=subject,
        metric=table.metric(metric).name,
        label=label,
        factor=factor,
        dashed=dashed,
    )


def chart(
    key: str,
    title: str,
    unit: str,
    lines: Sequence[Line],
    limits: Sequence[tuple[float | None, str]] = (),
    maximum: float | None = None,
) -> Chart:
    """Build one chart; unknown limits are left out."""
    known = [Limit(value=value, label=label) for value, label in limits if value is not None]
    engine = "plotly" if len(lines) <= PLOTLY_LINES else "uplot"
    return Chart(
        id=key,
        title=title,
        unit=unit,
        engine=engine,
        maximum=maximum,
        lines=list(lines),
        limits=known,
    )


def per_gpu(gpus: Sequence[GpuLine], metric: str, factor: float = 1.0) -> list[Line]:
    """The same metric of every GPU of a node."""
    return [line(GPU_SAMPLE, gpu.uuid, metric, gpu.label, factor) for gpu in gpus]


def host_lines(node: str, *metrics: tuple[str, str]) -> list[Line]:
    """Metrics of a node as lines."""
    return [line(NODE_SAMPLE, node, metric, label) for metric, label in metrics]


def gpu_lines(uuid: str, *metrics: tuple[str, str, float]) -> list[Line]:
    """Metrics of a GPU as lines, each with the factor into the chart's unit."""
    return [line(GPU_SAMPLE, uuid, metric, label, factor) for metric, label, factor in metrics]
