"""Whatever is repeated, reordered or poisoned: every sample is stored once, and one bad record stops no other."""

import random
import zlib
from datetime import timedelta

import psycopg
import pytest

from dcops.clock import now as clock_now
from dcops.telemetry.writer import Limits, Writer
from dcops.wire.frames import Batch, Record, Spool
from tests.telemetry_kit import Feeder, event_batch, metric_batch, microseconds, tick

pytestmark = pytest.mark.django_db(transaction=True)
LIMITS = Limits(row_hours=2, raw_days=7, event_days=365)


@pytest.fixture
def sql(database_urls):
    with psycopg.connect(database_urls.app, autocommit=True) as connection:
        yield lambda text, *args: connection.execute(text, args or None).fetchall()


def next_group(dice, feeders, sendings):
    """A few batches of what is to be sent, and the rest."""
    group = []
    for _ in range(dice.randint(1, 6)):
        size = dice.randint(1, 9)
        cut, sendings = sendings[:size], sendings[size:]
        for feeder in feeders:
            mine = [(seq, payload) for owner, seq, payload in cut if owner is feeder]
            if mine:
                group.append(feeder.incoming(metric_batch("s", mine)))
    return group, sendings


@pytest.mark.parametrize("seed", range(12))
def test_repeats_reordering_and_lost_replies_store_each_sample_once(seed, transactional_db, sql):
    """Each record goes 1 to 5 times, in batches of any cut, over two processes, some of it without its answer heard."""
    dice = random.Random(seed)
    now = clock_now()
    writers = [Writer(LIMITS), Writer(LIMITS)]
    feeders = [Feeder(node_id=n, gpu_ids=[10 * n, 10 * n + 1]) for n in (1, 2, 3)]
    produced, sendings = [], []
    for node, feeder in enumerate(feeders, 1):
        for seq in range(40):
            at = now - timedelta(seconds=dice.randrange(1, 20_000) + seq / 1000)
            power = dice.randrange(1000, 7000) / 10
            payload = tick(at, gpus=2, power_average_w=power, energy_mj=seq)
            produced += [(10 * node + g, microseconds(at), power, seq) for g in (0, 1)]
            sendings += [(feeder, seq, payload)] * dice.randint(1, 5)
    dice.shuffle(sendings)
    while sendings:
        group, sendings = next_group(dice, feeders, sendings)
        if group:
            outcomes = dice.choice(writers).write(group, now)
            if dice.random() < 0.1:
                again = dice.choice(writers).write(group, now)
                assert [o.ranges for o in again] == [o.ranges for o in outcomes]
                assert sum(o.rows_stored for o in again) == 0
    for writer in writers:
        writer.close()
    stored = sql(
        "SELECT subject_id, (extract(epoch FROM at) * 1000000)::bigint, power_average_w, energy_mj FROM "
        "(SELECT subject_id, at, power_average_w, energy_mj FROM gpu_sample UNION ALL "
        "SELECT subject_id, at, power_average_w, energy_mj FROM gpu_sample_late) r"
    )
    assert sorted(stored) == sorted(
        (s, t, pytest.approx(p, rel=1e-6), e) for s, t, p, e in produced
    )
    assert (
        sql("SELECT count(*), sum(upper(r) - lower(r)) FROM telemetry_spool, unnest(seen) r")[0][1]
        == 120
    )


class Poisoned(Writer):
    """A writer whose database refuses one sample, whatever the checks let through."""

    def _commit(self, group):
        for piece in group.parts.pieces:
            if (group.batches[piece.batch].source.node_id, piece.seq) == (7, 5):
                raise psycopg.DataError("poison")
        return super()._commit(group)


def test_a_poison_record_is_set_apart_and_999_others_are_stored(transactional_db, sql):
    now = clock_now()
    writer = Poisoned(LIMITS)
    group = [
        Feeder(node_id=n, gpu_ids=[n]).incoming(
            metric_batch(
                "s", [(seq, tick(now - timedelta(seconds=seq), node=False)) for seq in range(50)]
            )
        )
        for n in range(1, 21)
    ]
    outcomes = writer.write(group, now)
    writer.close()
    assert sum(o.rows_stored for o in outcomes) == 999
    assert all(sum(last - first + 1 for first, last in o.ranges) == 50 for o in outcomes)
    assert sql("SELECT node_id, first_seq, records FROM telemetry_quarantine") == [(7, 5, 1)]
    assert sql("SELECT count(*) FROM gpu_sample") == [(999,)]


def test_nothing_a_record_holds_makes_the_writer_raise(transactional_db, sql):
    dice = random.Random(3)
    now = clock_now()
    writer = Writer(LIMITS)
    feeder = Feeder(node_id=1, gpu_ids=[11])
    good, seq = tick(now), 0
    events = event_batch("x", [(0, [])]).records[0].payload
    for _ in range(60):
        records = []
        for _ in range(20):
            seq += 1
            payload = bytearray(dice.choice([good, events, dice.randbytes(dice.randrange(300))]))
            for _ in range(dice.randrange(6)):
                if payload:
                    payload[dice.randrange(len(payload))] = dice.randrange(256)
            payload = bytes(
                payload[: dice.randrange(len(payload) + 1)] if dice.random() < 0.3 else payload
            )
            crc = zlib.crc32(payload) if dice.random() < 0.9 else 1
            records.append(Record(seq, crc, payload))
        spool, name = dice.choice([(Spool.METRICS, "m"), (Spool.EVENTS, "e")])
        (outcome,) = writer.write([feeder.incoming(Batch(spool, name, records))], now)
        assert sum(last - first + 1 for first, last in outcome.ranges) == 20
    writer.close()
    assert sql("SELECT count(*) > 0 FROM telemetry_quarantine") == [(True,)]


def test_a_database_that_goes_away_costs_nothing(transactional_db, sql, database_urls):
    now = clock_now()
    writer = Writer(LIMITS)
    feeder = Feeder(node_id=1, gpu_ids=[11])
    writer.write([feeder.incoming(metric_batch("s", [(1, tick(now))]))], now)
    with psycopg.connect(database_urls.admin, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dcops-ingest'"
        )
    group = [
        feeder.incoming(metric_batch("s", [(1, tick(now)), (2, tick(now + timedelta(seconds=1)))]))
    ]
    with pytest.raises(psycopg.OperationalError):
        writer.write(group, now)
    assert writer.write(group, now)[0].rows_stored == 2
    writer.close()
    assert sql("SELECT count(*) FROM gpu_sample") == [(2,)]
