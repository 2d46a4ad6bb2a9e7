"""Series, events, gaps and quarantine over HTTP."""

from datetime import timedelta

import pytest

from dcops.access.actor import Role
from dcops.clock import now as clock_now
from dcops.fleet.models import Gpu, Node
from dcops.telemetry.writer import Limits, Writer
from dcops.wire.frames import Event, Gap, Severity
from tests.integration.control.cast import bearer, make_person
from tests.telemetry_kit import Feeder, event_batch, metric_batch, microseconds, tick

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def administrator(transactional_db):
    return make_person("ada", Role.ADMINISTRATOR)


@pytest.fixture
def viewer(transactional_db):
    return make_person("vic", Role.VIEWER)


@pytest.fixture
def stored(transactional_db):
    """One GPU with ten seconds of samples, an event, a gap and a broken record."""
    from tests.ingest_server import TestNode

    TestNode("n1")
    now = clock_now()
    node = Node.objects.get()
    gpu = Gpu.objects.create(
        uuid="GPU-1", node=node, index=0, model="m", first_seen_at=now, last_seen_at=now
    )
    feeder = Feeder(node.pk, [gpu.pk])
    feeder.source.gpu_ids["GPU-1"] = gpu.pk
    start = (now - timedelta(minutes=5)).replace(microsecond=0)
    records = [(n, tick(start + timedelta(seconds=n), temperature_c=50 + n)) for n in range(10)]
    event = Event(microseconds(now), "xid", Severity.CRITICAL, "XID 79: <b>", "k", 79, "GPU-1")
    happenings = [(1, [event, Gap("m", 100, 109, 0, 0, "spool full")]), (2, b"")]
    batches = [metric_batch("m", [*records, (99, b"rubbish")]), event_batch("e", happenings[:1])]
    writer = Writer(Limits(2, 7, 365))
    writer.write([feeder.incoming(batch) for batch in batches], now)
    writer.close()
    return start


def iso(at):
    return at.isoformat()


def test_a_series_has_a_regular_grid_with_gaps_as_null(client, administrator, stored):
    query = {
        "metric": ["temperature_c", "power_limit_w"],
        "from": iso(stored - timedelta(seconds=2)),
        "to": iso(stored + timedelta(seconds=5)),
    }
    answer = client.get("/api/v1/series/gpu/GPU-1", query, headers=bearer(administrator))
    assert answer.status_code == 200, answer.content
    found = answer.json()
    assert (found["step_s"], found["source"], len(found["t"])) == (1, "raw", 7)
    assert found["series"]["temperature_c"]["max"] == [None, None, 50, 51, 52, 53, 54]
    assert found["series"]["power_limit_w"]["avg"] == [None] * 7
    query |= {"max_points": 2}
    assert (
        len(
            client.get("/api/v1/series/gpu/GPU-1", query, headers=bearer(administrator)).json()[
                "t"
            ]
        )
        <= 2
    )


@pytest.mark.parametrize(
    "change",
    [
        {"metric": "nonsense"},
        {"metric": ["temperature_c", "ecc_corrected_volatile"]},
        {"to": "2001-01-01T00:00:00Z"},
        {"from": "yesterday"},
        {"max_points": 10**9},
        {"from": "2020-01-01T00:00:00"},
    ],
)
def test_a_question_that_makes_no_sense_is_answered_with_a_sentence(
    client, administrator, stored, change
):
    query = {
        "metric": "temperature_c",
        "from": iso(stored),
        "to": iso(stored + timedelta(seconds=5)),
    } | change
    answer = client.get("/api/v1/series/gpu/GPU-1", query, headers=bearer(administrator))
    assert answer.status_code == 422
    assert answer.json()["message"]


def test_events_gaps_and_quarantine_are_listed(client, viewer, stored):
    def items(path, **query):
        answer = client.get(f"/api/v1/{path}", query, headers=bearer(viewer))
        assert answer.status_code == 200, answer.content
        return answer.json()["items"]

    (event,) = items("events", gpu="GPU-1", node="n1")
    assert (event["gpu"], event["code"], event["message"]) == ("GPU-1", 79, "XID 79: <b>")
    (gap,) = items("gaps")
    assert (gap["first_seq"], gap["last_seq"], gap["reason"]) == (100, 109, "spool full")
    (held,) = items("quarantine", node="n1")
    assert (held["node"], held["first_seq"]) == ("n1", 99)
    assert client.get("/api/v1/events?node=other", headers=bearer(viewer)).status_code == 404
    assert client.get("/api/v1/events").status_code == 401
