"""One full reading of a machine, for `once` and `doctor`."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from agents.ports import GpuReport, GpuSource, HostSource, Want
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, NODE_SAMPLE, SampleTable
from dcops.wire.rows import Reading

# Rates and activity are differences between two readings.
_BETWEEN_S = 1.0


async def take(gpus: GpuSource, host: HostSource) -> dict[str, Any]:
    """Read everything twice and return the second reading, ready for JSON. Missing is null."""
    host.sample()
    await gpus.read(Want(sample=True, health=True))
    await asyncio.sleep(_BETWEEN_S)
    report = await gpus.read(Want(sample=True, health=True, processes=True, inventory=True))
    readings = named(NODE_SAMPLE, host.sample())
    findings = report.findings + host.findings()
    if report.problem is not None:
        findings.insert(0, report.problem)
    return {
        "host": msgspec.to_builtins(_as_dict(host.identity(report.driver)))
        | {"readings": readings},
        "gpus": gpus_of(report),
        "processes": [_as_dict(process) for process in report.processes or []],
        "events": [_as_dict(event) for event in gpus.drain_events()],
        "findings": [_as_dict(finding) for finding in findings],
    }


def gpus_of(report: GpuReport) -> list[dict[str, Any]]:
    """Return every GPU of a report: who it is, and its readings by name."""
    return [
        _as_dict(identity)
        | {
            "readings": named(GPU_SAMPLE, report.sample.get(identity.uuid)),
            "health": named(GPU_HEALTH, report.health.get(identity.uuid)),
        }
        for identity in report.identities or []
    ]


def named(table: SampleTable, readings: Sequence[Reading] | None) -> dict[str, Reading]:
    """Return readings by metric name; {} if there are none."""
    return dict(zip(table.names, readings, strict=True)) if readings else {}


def _as_dict(struct: msgspec.Struct) -> dict[str, Any]:
    """By name: on the wire these are arrays, which a person cannot read."""
    return msgspec.structs.asdict(struct)
