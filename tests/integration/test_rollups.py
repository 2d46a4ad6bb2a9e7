"""Rollups, packing and series against what numpy makes of the same readings."""

import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest
from django.db import connection, connections

from dcops.domain.metrics import GPU_SAMPLE, NODE_SAMPLE
from dcops.telemetry import actions, packing, queries
from dcops.telemetry.writer import Limits, Writer
from tests.telemetry_kit import Feeder, metric_batch, tick

pytestmark = pytest.mark.django_db(transaction=True)
LIMITS = Limits(row_hours=2, raw_days=7, event_days=365)
T0 = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
GPU = 11


@pytest.fixture
def writer(transactional_db):
    writer = Writer(LIMITS)
    yield writer
    writer.close()


@pytest.fixture
def sql(database_urls):
    with psycopg.connect(database_urls.app, autocommit=True) as connection:
        yield lambda text, *args: connection.execute(text, args or None).fetchall()


class History:
    """Random readings of two GPUs, fed to the writer, and remembered."""

    def __init__(self, writer, seed=1):
        self.writer = writer
        self.random = np.random.default_rng(seed)
        self.feeder = Feeder(node_id=1, gpu_ids=[GPU, 12])
        self.seq = 0
        self.fed = {}

    def feed(self, start, count, now=None, every_s=1.0, missing=0.2):
        records = []
        for n in range(count):
            at = start + timedelta(seconds=n * every_s)
            power = (
                None
                if self.random.random() < missing
                else float(self.random.integers(1000, 7000) / 10)
            )
            reading = {
                "power_average_w": power,
                "temperature_c": int(self.random.integers(30, 90)),
                "energy_mj": self.seq,
            }
            self.seq += 1
            self.fed[at] = reading
            records.append((self.seq, tick(at, gpus=2, **reading)))
        for first in range(0, len(records), 200):
            self.writer.write(
                [self.feeder.incoming(metric_batch("s", records[first : first + 200]))],
                now or start + timedelta(seconds=count),
            )

    def expected(self, metric, start, end, step_s):
        """bucket start -> (min, max, mean, last reading known, n)."""
        buckets = {}
        for at, reading in sorted(self.fed.items()):
            value = np.float32(reading[metric]) if reading[metric] is not None else None
            if start <= at < end and value is not None:
                key = int(at.timestamp() // step_s * step_s)
                buckets.setdefault(key, []).append(float(value))
        return {
            key: (min(v), max(v), sum(v) / len(v), v[-1], len(v)) for key, v in buckets.items()
        }


def check(found, expected):
    """The same buckets are filled, with the same statistics."""
    column = found.columns["power_average_w"]
    filled = {
        int(t) // 10**6: i for i, t in enumerate(found.t_us) if not np.isnan(column["avg"][i])
    }
    assert set(filled) == set(expected)
    for key, index in filled.items():
        low, high, mean, _, _ = expected[key]
        assert column["min"][index] == pytest.approx(low, rel=1e-6)
        assert column["max"][index] == pytest.approx(high, rel=1e-6)
        assert column["avg"][index] == pytest.approx(mean, rel=1e-5)


def rollups(sql, step):
    name = {60: "minute", 3600: "hour"}[step]
    rows = sql(
        f"SELECT extract(epoch FROM bucket)::int, power_average_w_min, power_average_w_max, power_average_w_avg, power_average_w_n "
        f"FROM gpu_sample_{name} WHERE subject_id = %s AND power_average_w_n > 0",
        GPU,
    )
    return {row[0]: row[1:] for row in rows}


def assert_rollups(sql, history, step, start=T0, end=T0 + timedelta(days=1)):
    found, expected = rollups(sql, step), history.expected("power_average_w", start, end, step)
    assert set(found) == set(expected)
    for key, (low, high, mean, _, n) in expected.items():
        assert found[key] == (
            pytest.approx(low),
            pytest.approx(high),
            pytest.approx(mean, rel=1e-5),
            n,
        )


def test_rollups_equal_the_readings_and_rolling_again_changes_nothing(writer, sql):
    history = History(writer)
    history.feed(T0, 400)
    now = T0 + timedelta(minutes=20)
    assert actions.roll_up(now) > 0
    assert_rollups(sql, history, 60)
    before = sql("SELECT * FROM gpu_sample_minute ORDER BY 1, 2")
    sql("INSERT INTO telemetry_rollup_due SELECT 1, 60, %s, NULL, %s RETURNING 1", T0, T0)
    assert actions.roll_up(now) == 1
    assert sql("SELECT * FROM gpu_sample_minute ORDER BY 1, 2") == before
    assert actions.roll_up(now) == 0
    last = sql(
        "SELECT energy_mj_last, energy_mj_n FROM gpu_sample_minute WHERE subject_id = %s ORDER BY bucket LIMIT 1",
        GPU,
    )
    assert last == [(59, 60)]


def test_late_rows_are_rolled_up_into_their_minute_and_hour(writer, sql):
    history = History(writer)
    history.feed(T0, 100)
    actions.roll_up(T0 + timedelta(minutes=70))
    history.feed(T0 + timedelta(minutes=5), 30, now=T0 + timedelta(minutes=70))
    history.feed(T0 + timedelta(seconds=0.5), 30, now=T0 + timedelta(hours=5))
    assert sql("SELECT count(*) FROM gpu_sample_late") == [(60,)]
    actions.roll_up(T0 + timedelta(hours=5, minutes=3))
    assert_rollups(sql, history, 60)
    assert_rollups(sql, history, 3600)


def test_a_packed_hour_reads_as_its_rows_did_and_takes_late_rows(writer, sql):
    history = History(writer)
    history.feed(T0, 600)
    history.feed(T0 + timedelta(hours=1), 300)
    now = T0 + timedelta(hours=4, minutes=20)
    window = (T0, T0 + timedelta(hours=2))

    def read():
        return queries.series(
            "gpu_sample", GPU, ["power_average_w", "energy_mj"], *window, 10_000, now
        )

    rows = read()
    assert rows.source == "raw"
    assert rows.step_s == 1
    packing.pack(now, LIMITS.row_hours)
    held = (
        "SELECT table_code, row_count FROM telemetry_packed WHERE row_count > 0 ORDER BY 1, hour"
    )
    assert sql(held) == [], "their rollups come first"
    actions.roll_up(now)
    packing.pack(now, LIMITS.row_hours)
    assert sql("SELECT count(*) FROM gpu_sample") == [(0,)]
    assert sql(held) == [(1, 1200), (1, 600), (3, 600), (3, 300)]
    packed = read()
    for name, column in rows.columns.items():
        for statistic, values in column.items():
            np.testing.assert_array_equal(values, packed.columns[name][statistic])
    history.feed(T0 + timedelta(minutes=20), 90, now=now)
    history.feed(T0 + timedelta(seconds=0.25), 50, now=now)
    check(read(), history.expected("power_average_w", *window, 1))
    assert actions.roll_up(now + timedelta(minutes=3)) == 0
    packing.pack(now + timedelta(minutes=5), LIMITS.row_hours)
    assert sql("SELECT count(*) FROM gpu_sample_late") == [(0,)]
    check(read(), history.expected("power_average_w", *window, 1))
    actions.roll_up(now + timedelta(minutes=5))
    assert sql("SELECT count(*) FROM telemetry_rollup_due") == [(0,)]
    assert_rollups(sql, history, 60)
    assert_rollups(sql, history, 3600)


def test_hours_that_only_came_late_are_packed_too(writer, sql):
    history = History(writer)
    now = T0 + timedelta(hours=30)
    history.feed(T0, 100, now=now)
    actions.roll_up(now + timedelta(minutes=3))
    packing.pack(now + timedelta(minutes=3), LIMITS.row_hours)
    assert sql("SELECT count(*) FROM gpu_sample_late") == [(0,)]
    found = queries.series(
        "gpu_sample", GPU, ["power_average_w"], T0, T0 + timedelta(minutes=3), 1000, now
    )
    check(found, history.expected("power_average_w", T0, T0 + timedelta(minutes=3), 1))
    assert_rollups(sql, history, 60)


def test_a_reader_sees_every_row_once_while_hours_are_packed(writer, django_db_blocker):
    history = History(writer)
    history.feed(T0, 900, missing=0)
    now = T0 + timedelta(hours=4, minutes=20)
    actions.roll_up(now)
    counts, stop = [], threading.Event()

    def look():
        try:
            while not stop.is_set():
                found = queries.series(
                    "gpu_sample",
                    GPU,
                    ["power_average_w"],
                    T0,
                    T0 + timedelta(hours=1),
                    10_000,
                    now,
                )
                counts.append(
                    int(np.count_nonzero(~np.isnan(found.columns["power_average_w"]["avg"])))
                )
        finally:
            connections.close_all()

    def until(done):
        deadline = time.monotonic() + 30
        while not done():
            assert time.monotonic() < deadline
            stop.wait(0.01)

    def held():
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM gpu_sample")
            return cursor.fetchone()[0]

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        until(lambda: len(counts) >= 10)
        until(lambda: packing.pack(now, LIMITS.row_hours) >= 0 and held() == 0)
        seen = len(counts)
        until(lambda: len(counts) >= seen + 10)
        history.feed(T0 + timedelta(minutes=30), 100, now=now, missing=0)
        packing.pack(now, LIMITS.row_hours)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert set(counts) <= {900, 1000}
    assert counts[-1] in (900, 1000)


def test_long_windows_come_from_rollups_and_reach_to_the_newest_rows(writer, sql):
    history = History(writer)
    for hour in range(4):
        history.feed(T0 + timedelta(hours=hour), 90, now=T0 + timedelta(hours=hour, minutes=2))
        actions.roll_up(T0 + timedelta(hours=hour, minutes=4))
    now = T0 + timedelta(hours=3, minutes=4)
    actions.roll_up(now)
    history.feed(T0 + timedelta(hours=3, minutes=3), 50, now=now)
    for days, source, step in [(3, "minute", 300), (30, "hour", 3600)]:
        found = queries.series(
            "gpu_sample", GPU, ["power_average_w"], now - timedelta(days=days), now, 1000, now
        )
        assert (found.source, found.step_s) == (source, step)
        assert len(found.t_us) <= 1000
        check(found, history.expected("power_average_w", now - timedelta(days=days), now, step))


def test_retention_drops_whole_tiers_and_nothing_that_is_not_rolled_up(writer, sql):
    history = History(writer)
    history.feed(T0, 100)
    now = T0 + timedelta(hours=4, minutes=20)
    actions.roll_up(now)
    packing.pack(now, LIMITS.row_hours)
    limits = {"raw_days": 7, "minute_days": 30, "hour_days": 60, "event_days": 365}
    sql("INSERT INTO telemetry_rollup_due SELECT 1, 60, %s, NULL, %s RETURNING 1", T0, T0)
    later = T0 + timedelta(days=8, hours=15)
    assert actions.apply_retention(later, limits) == []
    sql("DELETE FROM telemetry_rollup_due RETURNING 1")
    assert actions.apply_retention(later, limits) == ["telemetry_chunk_p2026112000"]
    assert sql("SELECT count(*) FROM telemetry_chunk") == [(0,)]
    assert sql("SELECT count(*) FROM gpu_sample_minute")[0][0] > 0
    actions.apply_retention(T0 + timedelta(days=40), limits)
    assert sql("SELECT count(*) FROM gpu_sample_minute") == [(0,)]


def test_the_newest_rows_can_be_read_back(writer, sql):
    from dcops.clock import now as clock_now
    from tests.ingest_server import TestNode

    now = clock_now()
    TestNode("n1", gpus=2)
    from dcops.fleet.models import Gpu, Node

    node = Node.objects.get()
    gpu = Gpu.objects.create(
        uuid="GPU-x", node=node, index=0, model="m", first_seen_at=now, last_seen_at=now
    )
    feeder = Feeder(node_id=node.pk, gpu_ids=[gpu.pk])
    batch = metric_batch(
        "s",
        [
            (1, tick(now - timedelta(seconds=2))),
            (2, tick(now, power_average_w=None, temperature_c=77)),
        ],
    )
    writer.write([feeder.incoming(batch)], now)
    found = queries.latest(GPU_SAMPLE, now)
    row = found.row(gpu.pk)
    assert (row["temperature_c"], row["power_average_w"]) == (77, None)
    assert row["at_us"] == int(now.timestamp() * 1e6)
    assert queries.latest(NODE_SAMPLE, now).row(node.pk)["cpu_percent"] == 12.5
    news = writer.news()[GPU_SAMPLE.code]
    again = queries.Latest(GPU_SAMPLE)
    again.apply(news)
    assert again.row(gpu.pk) == row


def test_a_node_is_called_silent_once_and_only_by_who_listened(writer, sql):
    from dcops.clock import now as clock_now
    from dcops.fleet.models import Node
    from tests.ingest_server import TestNode

    TestNode("n1")
    now = clock_now()
    feeder = Feeder(node_id=Node.objects.get().pk, gpu_ids=[])
    writer.write([feeder.incoming(metric_batch("s", [(1, tick(now, gpus=0))]))], now)
    later = now + timedelta(seconds=100)
    assert actions.note_silent_nodes(later, 20) == 0
    actions.note_ingest("p", now, later)
    assert actions.note_silent_nodes(later, 20) == 1
    assert actions.note_silent_nodes(later + timedelta(seconds=5), 20) == 0
    event = queries.recent_events(10)[0]
    assert (event.kind, event.node) == ("silent", "n1")
