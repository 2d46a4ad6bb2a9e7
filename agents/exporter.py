"""/metrics on loopback, under dcgm-exporter's names, units and labels, so that boards and alerts made for it work.

Off unless asked for. It is the only socket on which an agent ever listens.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence

from agents.daemon import Latest
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, Kind, Metric, SampleTable
from dcops.wire.frames import GpuIdentity, HostIdentity
from dcops.wire.rows import Reading

LOOPBACK = "127.0.0.1"
_REQUEST_BYTES = 8192
_REQUEST_S = 5.0
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def render(latest: Latest) -> str:
    """Return the newest readings in the Prometheus text format. A missing reading has no line."""
    return "\n".join([*_lines(latest), ""])


def _lines(latest: Latest) -> Iterator[str]:
    report = latest.gpus
    if report is None or latest.host_identity is None:
        return
    identities = {gpu.uuid: gpu for gpu in latest.identities}
    labels = {
        uuid: _labels(identities[uuid], latest.host_identity)
        for uuid in report.uuids
        if uuid in identities
    }
    yield from _table(GPU_SAMPLE, report.sample, labels)
    yield from _table(GPU_HEALTH, latest.health, labels)
    if labels:
        yield "# HELP DCGM_FI_DEV_XID_ERRORS Last XID seen, 0 if none"
        yield "# TYPE DCGM_FI_DEV_XID_ERRORS gauge"
    for uuid, label in labels.items():
        yield f"DCGM_FI_DEV_XID_ERRORS{{{label}}} {latest.last_xid.get(uuid, 0)}"


def _table(
    table: SampleTable, readings: Mapping[str, Sequence[Reading]], labels: Mapping[str, str]
) -> Iterator[str]:
    for position, metric in enumerate(table.metrics):
        if metric.dcgm is None:
            continue
        values = [
            f"{metric.dcgm.name}{{{label}}} {_number(value * metric.dcgm.scale)}"
            for uuid, label in labels.items()
            if uuid in readings and (value := readings[uuid][position]) is not None
        ]
        if values:
            yield f"# HELP {metric.dcgm.name} {metric.label}{_unit(metric)}"
            yield f"# TYPE {metric.dcgm.name} {'counter' if metric.kind is Kind.COUNTER else 'gauge'}"
            yield from values


def _labels(gpu: GpuIdentity, host: HostIdentity) -> str:
    pairs = {
        "gpu": str(gpu.index),
        "UUID": gpu.uuid,
        "pci_bus_id": gpu.pci_bus_id,
        "device": f"nvidia{gpu.index}",
        "modelName": gpu.model,
        "Hostname": host.hostname,
        "DCGM_FI_DRIVER_VERSION": host.driver_version,
    }
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs.items())


def _unit(metric: Metric) -> str:
    assert metric.dcgm is not None
    unit = "MiB" if metric.dcgm.scale != 1 else metric.unit
    return f" (in {unit})" if unit else ""


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(round(value, 6))


async def serve(latest: Latest, port: int) -> asyncio.Server:
    """Answer GET /metrics on loopback. Raises OSError if the port is taken."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head, latest))
                await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, LOOPBACK, port, limit=_REQUEST_BYTES)


def _response(head: bytes, latest: Latest) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method != b"GET":
        status, body = "405 Method Not Allowed", "Only GET.\n"
    elif path != b"/metrics":
        status, body = "404 Not Found", "Metrics are at /metrics.\n"
    else:
        status, body = "200 OK", render(latest)
    content = body.encode()
    lines = (
        f"HTTP/1.1 {status}",
        "Content-Type: text/plain; version=0.0.4; charset=utf-8",
        f"Content-Length: {len(content)}",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", ""]).encode() + content
