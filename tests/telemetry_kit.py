"""Makes batches as nodes send them."""

import zlib

import numpy as np

from dcops.domain.metrics import GPU_SAMPLE, NODE_SAMPLE, TABLES
from dcops.telemetry.intake import Incoming, Source
from dcops.telemetry.rows import read_layout
from dcops.wire.frames import Batch, Record, Spool, encode_happenings
from dcops.wire.rows import layout, pack_row, pack_section

GPU_READINGS = {
    "utilization_percent": 97,
    "memory_used_bytes": 70 << 30,
    "power_average_w": 401.5,
    "energy_mj": 123_456_789,
    "temperature_c": 61,
    "sm_clock_mhz": 1980,
    "sm_active_ratio": 0.75,
}
NODE_READINGS = {"cpu_percent": 12.5, "memory_used_bytes": 8 << 30, "uptime_s": 1000}


def microseconds(at):
    return int(at.timestamp() * 1_000_000)


def tick(at, gpus=1, gpu_list=1, node=True, **readings):
    """One record: a row per GPU and one of the node."""
    gpu = GPU_READINGS | readings
    values = [gpu.get(name) for name in GPU_SAMPLE.names]
    rows = [pack_row(GPU_SAMPLE, subject, values) for subject in range(gpus)]
    payload = pack_section(GPU_SAMPLE, microseconds(at), gpu_list, rows)
    if node:
        row = pack_row(NODE_SAMPLE, 0, [NODE_READINGS.get(name) for name in NODE_SAMPLE.names])
        payload += pack_section(NODE_SAMPLE, microseconds(at), 0, [row])
    return payload


def metric_batch(spool_id, numbered):
    return Batch(Spool.METRICS, spool_id, [Record(n, zlib.crc32(p), p) for n, p in numbered])


def event_batch(spool_id, numbered):
    payloads = [(n, encode_happenings(happenings)) for n, happenings in numbered]
    return Batch(Spool.EVENTS, spool_id, [Record(n, zlib.crc32(p), p) for n, p in payloads])


class Feeder:
    """A node's connection as ingest sees it after the handshake."""

    def __init__(self, node_id, gpu_ids):
        self.source = Source(
            node_id,
            {table.code: read_layout(table.name, layout(table)) for table in TABLES},
            {1: np.array(gpu_ids, np.int32)},
            {f"GPU-{pk}": pk for pk in gpu_ids},
        )

    def incoming(self, batch):
        return Incoming(self.source, self.source.gpu_lists, batch, 0)
