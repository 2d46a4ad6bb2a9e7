"""What bench_storage does to a database: feed simulated hours through the writer, roll up, pack, read back."""

# ruff: noqa: E402 - models can be imported once Django is set up

import json
import os
import statistics
import sys
import time
import zlib
from datetime import timedelta

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")

import django

django.setup()

import msgspec
import numpy as np
from django.db import connection

from agents.sim.generate import generate
from dcops import clock
from dcops.domain.metrics import GPU_SAMPLE, TABLES
from dcops.telemetry import actions, packing, queries
from dcops.telemetry.intake import Incoming, Source
from dcops.telemetry.rows import read_layout
from dcops.telemetry.writer import Limits, Writer
from dcops.wire.frames import Batch, Record, Spool
from dcops.wire.rows import ROW, SECTION, layout
from tests.bench.peers import Peer, installed, labels, write_request

GPUS, SEED = 8, 11
LIMITS = Limits(2, 7, 365)


def _part(payload, at_us):
    """The GPUs' rows of a record, at another time."""
    size = SECTION.size + GPUS * ROW[GPU_SAMPLE.name].size
    code, count, _, gpu_list = SECTION.unpack_from(payload)
    assert code == GPU_SAMPLE.code
    return SECTION.pack(code, count, at_us, gpu_list) + payload[SECTION.size : size]


def _feed(writer, hall, start, seq):
    """Write an hour that begins at `start`, as it would have come then."""
    layouts = {table.code: read_layout(table.name, layout(table)) for table in TABLES}
    first_us = int(start.timestamp()) * 1_000_000
    for node in range(len(hall.nodes)):
        ids = np.arange(GPUS, dtype=np.int32) + 1 + node * GPUS
        source = Source(node + 1, layouts, {1: ids})
        for tick in range(0, len(hall.payloads), 300):
            payloads = [
                _part(hall.payloads[t][node], first_us + t * 1_000_000)
                for t in range(tick, min(tick + 300, len(hall.payloads)))
            ]
            records = [Record(seq + tick + n, zlib.crc32(p), p) for n, p in enumerate(payloads)]
            batch = Batch(Spool.METRICS, f"s{node}", records)
            writer.write(
                [Incoming(source, source.gpu_lists, batch, 0)], start + timedelta(hours=1)
            )


def _ago(hours):
    now = clock.now().replace(minute=0, second=0, microsecond=0)
    return now - timedelta(hours=hours)


def measure_bytes():
    """An hour of 4 nodes."""
    start = _ago(6)
    hall = generate(4, GPUS, 3600, SEED, start_us=int(start.timestamp()) * 1_000_000)
    values = int(np.bitwise_count(hall.present).sum()) * 3600
    writer = Writer(LIMITS)
    _feed(writer, hall, start, 1)
    writer.close()
    while actions.roll_up(clock.now()):
        pass
    began = time.process_time()
    packing.pack(clock.now(), LIMITS.row_hours)
    spent = time.process_time() - began
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(value_count), sum(byte_count) FROM telemetry_packed")
        stored, chunks = cursor.fetchone()
        assert stored == values, (stored, values)
        cursor.execute(
            "SELECT sum(pg_total_relation_size(child::regclass)) FROM telemetry_partition WHERE parent = 'telemetry_chunk'"
        )
        size = cursor.fetchone()[0]
    return {
        "ours": float(size) / values,
        "chunks": float(chunks) / values,
        "values": values,
        "speed": values / spent,
        "victoria": _victoria(hall) / values if installed("victoria-metrics") else None,
    }


def _victoria(hall):
    at_ms = hall.at_us // 1000
    with Peer("victoria-metrics") as peer:
        for number, plan in enumerate(hall.nodes):
            for first in range(0, len(at_ms), 60):
                part = slice(first, first + 60)
                series = (
                    (labels(name, plan.name, str(gpu)), hall.columns[name][part, number, gpu])
                    for gpu in range(GPUS)
                    for position, name in enumerate(GPU_SAMPLE.names)
                    if int(hall.present[number, gpu]) >> position & 1
                )
                peer.write([write_request(series, at_ms[part])], settle_s=0)
        return peer.merged_bytes()


def _timed(metrics, start, end, now):
    """Median ms of the query with its JSON, and the answer."""
    spent = []
    for _ in range(15):
        began = time.perf_counter()
        found = queries.series("gpu_sample", 3, metrics, start, end, 1000, now)
        msgspec.json.encode(
            {n: {s: v.tolist() for s, v in c.items()} for n, c in found.columns.items()}
        )
        spent.append(1000 * (time.perf_counter() - began))
    assert 0 < len(found.t_us) <= 1000
    column = found.columns[metrics[0]]["avg"]
    assert np.count_nonzero(~np.isnan(column)) >= 0.9 * len(column)
    return statistics.median(spent), found


def measure_day():
    """25 hours of one node."""
    now = _ago(0)
    hall = generate(1, GPUS, 3600, SEED)
    writer = Writer(LIMITS)
    for hour in range(25, 0, -1):
        _feed(writer, hall, now - timedelta(hours=hour), 1 + (25 - hour) * 3600)
    writer.close()
    while actions.roll_up(now + timedelta(minutes=20)):
        pass
    packing.pack(now + timedelta(minutes=20), LIMITS.row_hours)
    one, found = _timed(["power_average_w"], now - timedelta(hours=24), now, now)
    four, _ = _timed(
        ["power_average_w", "temperature_c", "utilization_percent", "memory_used_bytes"],
        now - timedelta(hours=24),
        now,
        now,
    )
    return {
        "day": round(one, 1),
        "note": f"{found.source}, {len(found.t_us)} points; four metrics {four:.1f} ms",
    }


def measure_month():
    """30 days of hours, made by SQL."""
    now = _ago(0)
    with connection.cursor() as cursor:
        for day in range(33):
            cursor.execute(
                "SELECT telemetry_make_partition('gpu_sample_hour', %s)",
                (now - timedelta(days=day),),
            )
        stats = "power_average_w_min, power_average_w_max, power_average_w_avg, power_average_w_last, power_average_w_n"
        cursor.execute(
            f"INSERT INTO gpu_sample_hour (subject_id, bucket, row_count, {stats}) "
            "SELECT s, b, 3600, 100, 700, 400.5, 399, 3600 FROM generate_series(%s::timestamptz, %s, interval '1 hour') b, generate_series(1, 500) s",
            (now - timedelta(days=31), now - timedelta(hours=1)),
        )
    month, found = _timed(["power_average_w"], now - timedelta(days=30), now, now)
    return {"month": round(month, 1), "note": f"{found.source}, {len(found.t_us)} points"}


if __name__ == "__main__":
    work = {"bytes": measure_bytes, "series": measure_day, "month": measure_month}[sys.argv[1]]
    sys.stdout.write(json.dumps(work()) + "\n")
