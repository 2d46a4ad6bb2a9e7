"""What the writer commits, against the real database."""

from datetime import timedelta

import psycopg
import pytest

from dcops.clock import now as clock_now
from dcops.domain.metrics import GPU_SAMPLE, NODE_SAMPLE
from dcops.telemetry.writer import Limits, Writer
from dcops.wire.frames import Event, Gap, Severity
from tests.telemetry_kit import Feeder, event_batch, metric_batch, tick

pytestmark = pytest.mark.django_db(transaction=True)
LIMITS = Limits(row_hours=2, raw_days=7, event_days=365)


@pytest.fixture
def writer():
    writer = Writer(LIMITS)
    yield writer
    writer.close()


@pytest.fixture
def sql(database_urls):
    with psycopg.connect(database_urls.app, autocommit=True) as connection:
        yield lambda text, *args: connection.execute(text, args or None).fetchall()


def test_a_batch_becomes_typed_rows_and_is_acknowledged(writer, sql):
    now = clock_now()
    feeder = Feeder(node_id=1, gpu_ids=[11, 12])
    batch = metric_batch(
        "s1", [(1, tick(now, gpus=2)), (2, tick(now + timedelta(seconds=1), gpus=2))]
    )
    outcome = writer.write([feeder.incoming(batch)], now)[0]
    assert outcome.ranges == [(1, 2)]
    assert outcome.rows_stored == 6
    assert sql("SELECT count(*), min(subject_id), max(subject_id) FROM gpu_sample") == [
        (4, 11, 12)
    ]
    rows = sql(
        "SELECT power_average_w, temperature_c, fan_speed_percent FROM gpu_sample WHERE subject_id = 12 ORDER BY at"
    )
    assert rows == [(401.5, 61, None), (401.5, 61, None)]
    assert sql("SELECT count(*) FROM node_sample WHERE subject_id = 1") == [(2,)]


def test_what_was_stored_is_not_stored_again(writer, sql):
    now = clock_now()
    feeder = Feeder(node_id=1, gpu_ids=[11])
    first = metric_batch("s1", [(n, tick(now + timedelta(seconds=n))) for n in (1, 2, 3)])
    again = metric_batch("s1", [(n, tick(now + timedelta(seconds=n))) for n in (3, 4, 2)])
    writer.write([feeder.incoming(first)], now)
    outcome = writer.write([feeder.incoming(again)], now)[0]
    assert outcome.ranges == [(2, 4)]
    assert outcome.records_repeated == 2
    assert sql("SELECT count(*), count(DISTINCT at) FROM gpu_sample") == [(4, 4)]


def test_events_and_gaps_are_kept_once(writer, sql):
    now = clock_now()
    feeder = Feeder(node_id=1, gpu_ids=[11])
    writer.write([feeder.incoming(metric_batch("m", [(5, tick(now))]))], now)
    xid = Event(
        int(now.timestamp() * 1e6),
        "xid",
        Severity.CRITICAL,
        "XID 79\x00",
        "xid-79-1",
        79,
        "GPU-11",
    )
    gap = Gap("m", 3, 7, 0, 0, "spool full")
    batch = event_batch("e", [(1, [xid, gap]), (2, [xid])])
    writer.write([feeder.incoming(batch)], now)
    writer.write([feeder.incoming(batch)], now)
    assert sql("SELECT gpu_id, code, message FROM telemetry_event") == [(11, 79, "XID 79")]
    assert sql("SELECT first_seq, last_seq FROM telemetry_gap ORDER BY 1") == [(3, 4), (6, 7)]
    late = writer.write([feeder.incoming(metric_batch("m", [(4, tick(now))]))], now)[0]
    assert late.records_repeated == 1
    assert sql("SELECT count(*) FROM gpu_sample") == [(1,)]


def test_a_broken_record_is_quarantined_and_the_rest_of_its_batch_kept(writer, sql):
    now = clock_now()
    feeder = Feeder(node_id=1, gpu_ids=[11])
    batch = metric_batch(
        "s", [(1, tick(now)), (2, b"\x01garbage"), (3, tick(now + timedelta(seconds=1)))]
    )
    outcome = writer.write([feeder.incoming(batch)], now)[0]
    assert outcome.ranges == [(1, 3)]
    assert outcome.records_quarantined == 1
    assert sql("SELECT count(*) FROM gpu_sample") == [(2,)]
    assert sql("SELECT node_id, first_seq, records FROM telemetry_quarantine") == [(1, 2, 1)]


def test_an_insane_reading_becomes_null_and_is_counted(writer, sql):
    now = clock_now()
    feeder = Feeder(node_id=1, gpu_ids=[11])
    payload = tick(now, power_average_w=float("nan"), temperature_c=999)
    outcome = writer.write([feeder.incoming(metric_batch("s", [(1, payload)]))], now)[0]
    assert outcome.values_rejected == 2
    assert sql("SELECT power_average_w, temperature_c, sm_clock_mhz FROM gpu_sample") == [
        (None, None, 1980)
    ]


def test_old_rows_go_beside_and_too_old_or_future_rows_nowhere(writer, sql):
    now = clock_now()
    feeder = Feeder(node_id=1, gpu_ids=[11])
    times = [now - timedelta(hours=5), now - timedelta(days=30), now + timedelta(hours=1), now]
    batch = metric_batch("s", [(n, tick(at)) for n, at in enumerate(times, 1)])
    outcome = writer.write([feeder.incoming(batch)], now)[0]
    assert outcome.rows_stored == 4
    assert sql("SELECT count(*) FROM gpu_sample_late") == [(1,)]
    assert sql("SELECT count(*) FROM gpu_sample") == [(1,)]


def test_the_newest_rows_are_told_once(writer):
    now = clock_now()
    feeder = Feeder(node_id=1, gpu_ids=[11])
    batch = metric_batch(
        "s", [(2, tick(now + timedelta(seconds=1), temperature_c=70)), (1, tick(now))]
    )
    writer.write([feeder.incoming(batch)], now)
    news = writer.news()
    assert set(news) == {GPU_SAMPLE.code, NODE_SAMPLE.code}
    assert writer.news() == {}
