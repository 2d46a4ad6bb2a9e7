"""The agents' side of the server, spoken to over a real WebSocket."""

import asyncio
import contextlib

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dcops.access.actor import cli
from dcops.clock import now as clock_now
from dcops.fleet import actions as fleet_actions
from dcops.wire import frames
from dcops.wire.frames import RefusalCode
from tests.ingest_server import TestNode, running_ingest
from tests.telemetry_kit import event_batch, metric_batch, tick

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ingest(transactional_db):
    with running_ingest() as (application, url):
        yield application, url


@pytest.fixture
def sql(database_urls):
    def query(text, *args):
        with psycopg.connect(database_urls.app, autocommit=True) as connection:
            return connection.execute(text, args or None).fetchall()

    return query


@pytest.fixture
def node(transactional_db):
    return TestNode("n1", gpus=2)


async def test_samples_from_a_node_are_committed_before_they_are_acknowledged(ingest, node, sql):
    async with node.connected(ingest[1]) as link:
        assert link.welcome.node_name == "n1"
        await link.send(
            metric_batch("spool", [(1, tick(clock_now(), gpus=2)), (2, tick(clock_now(), gpus=2))])
        )
        ack = await link.receive()
        assert ack == frames.Ack("spool", [(1, 2)], 6, 0, 0)
        stored = sql(
            "SELECT g.uuid, s.power_average_w FROM gpu_sample s JOIN fleet_gpu g ON g.id = s.subject_id ORDER BY 1"
        )
        assert stored == [("GPU-n1-0", 401.5)] * 2 + [("GPU-n1-1", 401.5)] * 2


async def refused(node, url, **changes):
    async with node.connected(url, inventory=False, **changes) as link:
        return link.welcome.code


async def test_a_stranger_is_refused_with_a_typed_answer(ingest, node):
    url = ingest[1]
    assert await refused(node, url, key=Ed25519PrivateKey.generate()) == RefusalCode.IDENTITY
    assert await refused(node, url, protocol=99) == RefusalCode.PROTOCOL
    assert (
        await refused(node, url, layouts={"gpu_sample": [("a", "text")]}) == RefusalCode.MALFORMED
    )
    node.node_id = "00000000-0000-0000-0000-000000000000"
    assert await refused(node, url) == RefusalCode.IDENTITY


async def test_a_revoked_node_loses_its_open_link_and_cannot_come_back(ingest, node):
    async with node.connected(ingest[1]) as link:
        revoke = lambda: fleet_actions.revoke_node(cli("test"), name="n1", now=clock_now())  # noqa: E731
        await asyncio.to_thread(revoke)
        assert (await link.receive()).code == RefusalCode.REVOKED
    assert await refused(node, ingest[1]) == RefusalCode.REVOKED


async def test_the_newest_connection_of_a_node_wins_also_across_processes(ingest, node):
    with running_ingest() as (_, other):
        async with node.connected(ingest[1]) as first, node.connected(other) as second:
            assert (await first.receive()).code == RefusalCode.REPLACED
            async with node.connected(other) as third:
                assert (await second.receive()).code == RefusalCode.REPLACED
                await third.send(metric_batch("s", [(1, tick(clock_now(), gpus=2))]))
                assert (await third.receive()).ranges == [(1, 1)]


async def test_two_machines_with_one_identity_are_found_out(ingest, node, sql):
    url = ingest[1]
    async with node.connected(url, boot_id="a"), node.connected(url, boot_id="b"):
        assert await refused(node, url, boot_id="a") == RefusalCode.CLONED
    assert sql("SELECT state FROM fleet_node") == [("quarantined",)]


async def test_a_gpu_of_another_node_is_refused_and_its_rows_not_stored(ingest, node, sql):
    other = await asyncio.to_thread(TestNode, "n2")
    async with node.connected(ingest[1]) as _, other.connected(ingest[1]) as link:
        await link.send(frames.GpuList(2, [node.gpus[0].uuid]))
        assert (await link.receive()).code == RefusalCode.FOREIGN
        await link.send(metric_batch("s", [(1, tick(clock_now(), gpu_list=2))]))
        ack = await link.receive()
        assert ack.rows_stored == 1
        assert ack.values_rejected > 0
        await link.send(frames.Inventory(frames.HostIdentity("x"), node.gpus))
        assert (await link.receive()).code == RefusalCode.FOREIGN
    assert sql("SELECT count(*) FROM gpu_sample") == [(0,)]


async def test_rows_of_a_gpu_that_no_inventory_has_named_yet_are_kept(ingest, node, sql):
    """An agent that was started again during an outage sends its backlog before it knows its GPUs' identities."""
    async with node.connected(ingest[1]) as link:
        await link.send(frames.GpuList(2, ["GPU-new-0", "GPU-new-1"]))
        await link.send(metric_batch("s", [(1, tick(clock_now(), gpus=2, gpu_list=2))]))
        ack = await link.receive()
    assert ack.values_rejected == 0
    assert sql(
        "SELECT g.uuid, g.present, count(*) FROM gpu_sample s JOIN fleet_gpu g ON g.id = s.subject_id "
        "WHERE g.uuid LIKE 'GPU-new%' GROUP BY 1, 2 ORDER BY 1"
    ) == [("GPU-new-0", False, 1), ("GPU-new-1", False, 1)]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\xc1 rubbish", RefusalCode.MALFORMED),
        (frames.encode(frames.Hello(1, "x", b"")), RefusalCode.MALFORMED),
        (b"x" * (frames.MAX_FRAME_BYTES + 1), RefusalCode.TOO_LARGE),
        (frames.encode(metric_batch("a b", [(1, b"")])), RefusalCode.MALFORMED),
        (frames.encode(metric_batch("s", [(-1, b"")])), RefusalCode.MALFORMED),
        (frames.encode(metric_batch("s", [(n, b"") for n in range(3000)])), RefusalCode.TOO_LARGE),
        (frames.encode(frames.GpuList(1, ["g"] * 5000)), RefusalCode.TOO_LARGE),
    ],
)
async def test_a_frame_that_cannot_be_right_ends_the_link_with_a_reason(ingest, node, frame, code):
    async with node.connected(ingest[1]) as link:
        await link.socket.send(frame)
        assert (await link.receive()).code == code
        with pytest.raises(ConnectionClosed):
            await link.socket.recv()


async def test_a_frame_far_too_large_closes_the_socket(ingest, node):
    async with node.connected(ingest[1]) as link:
        with contextlib.suppress(ConnectionClosed):
            await link.socket.send(b"x" * (4 << 20))
        with pytest.raises(ConnectionClosed):
            await link.receive()


async def test_a_browser_or_a_wrong_path_gets_no_socket(ingest):
    for path, origin in [(frames.LINK_PATH, "http://evil.example"), ("/agent/v1/other", None)]:
        with pytest.raises(InvalidStatus):
            async with connect(ingest[1] + path, origin=origin):
                pass


async def test_metrics_are_refused_on_a_full_disk_and_events_are_not(ingest, node, sql):
    application, url = ingest
    async with node.connected(url) as link:
        application._shared.disk_full = True
        await link.send(metric_batch("m", [(4, tick(clock_now(), gpus=2))]))
        refusal = await link.receive()
        assert (refusal.code, refusal.fatal, refusal.spool_id, refusal.ranges) == (
            RefusalCode.DISK,
            False,
            "m",
            [(4, 4)],
        )
        await link.send(
            event_batch("e", [(1, [frames.Event(0, "xid", frames.Severity.WARNING, "XID", "k")])])
        )
        assert (await link.receive()).spool_id == "e"
    assert sql("SELECT count(*) FROM telemetry_event") == [(1,)]
