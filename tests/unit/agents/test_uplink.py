"""The uplink over real sockets against a server that misbehaves: nothing lost, nothing twice, nobody wrong trusted."""

import asyncio
import random
from contextlib import asynccontextmanager, suppress

import pytest

from agents.adapters.keys import Identity, IdentityError
from agents.adapters.spool import Spool
from agents.adapters.uplink import Uplink
from dcops.wire import frames
from dcops.wire.identity import to_base64
from tests.fakes.join_server import certificate
from tests.fakes.ledger import Ledger
from tests.fakes.server import FakeServer, Script, until
from tests.faultproxy import FaultProxy

SMALL = {"metrics_segment_bytes": 4000, "events_segment_bytes": 2000, "events_spares": 1}
INVENTORY = frames.Inventory(frames.HostIdentity("host-1"), [])


class NoWait(random.Random):
    """Jitter that always says now."""

    def uniform(self, low, high):
        return 0.0


def payload(number):
    return f"record {number} ".encode() * 10


@asynccontextmanager
async def running(server, spool, *, port=0, identity=None, **options):
    uplink = Uplink(
        identity or server.identity(port),
        spool,
        sign=server.node_key.sign,
        agent_version="1",
        jitter=NoWait(),
        **options,
    )
    uplink.set_inventory(INVENTORY)
    task = asyncio.create_task(uplink.run())
    try:
        yield uplink
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def fill(ledger, spool, count, start=0):
    for number in range(start, start + count):
        ledger.append(spool, "metrics", payload(number))
        if number % 10 == 0:
            event = frames.Event(number, "agent", frames.Severity.INFO, "it happened", str(number))
            ledger.append(spool, "events", frames.encode_happenings([event]))


def complete(server, spool):
    return lambda: (
        set(server.ledger.produced) <= set(server.ledger.delivered)
        and spool.metrics.waiting == 0
        and spool.events.waiting == 0
    )


SCRIPTS = {
    "well": Script(),
    "replies lost after the commit": Script(lose_reply=lambda n: n % 3 == 0),
    "resets before the commit": Script(reset=lambda n: n % 3 == 0),
    "acks in another order": Script(reorder=4),
    "acks repeated": Script(repeat_acks=True),
    "all at once": Script(
        lose_reply=lambda n: n % 5 == 0, reset=lambda n: n % 7 == 0, reorder=2, repeat_acks=True
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_everything_arrives_once(name, tmp_path):
    spool = Spool(tmp_path, **SMALL)
    async with FakeServer(SCRIPTS[name]) as server:
        fill(server.ledger, spool, 300)
        async with running(server, spool) as uplink:
            await until(lambda: uplink.link.counts.connections > 0)
            fill(server.ledger, spool, 50, start=300)
            uplink.wake()
            await until(complete(server, spool))
        server.ledger.drain(spool)
        server.ledger.check()
        assert server.ledger.gaps == []


async def test_an_ack_for_what_was_not_sent_makes_the_agent_forget_nothing(tmp_path):
    spool = Spool(tmp_path, **SMALL)
    async with FakeServer(Script(foreign_acks=True)) as server:
        fill(server.ledger, spool, 300)
        async with running(server, spool):
            await until(complete(server, spool))
        server.ledger.check()


async def test_fresh_records_overtake_the_backlog(tmp_path):
    spool = Spool(tmp_path)
    async with FakeServer(Script(reorder=3)) as server:
        for number in range(6000):
            server.ledger.append(spool, "metrics", payload(number) * 5)
        async with running(server, spool) as uplink:
            await until(lambda: server.batches >= 2)
            server.ledger.append(spool, "metrics", b"fresh")
            uplink.wake()
            await until(complete(server, spool))
        position = next(i for i, sent in enumerate(server.order) if sent[2] == 6000)
        assert position < len(server.order) - 1, "the fresh record came last"
        oldest = next(i for i, sent in enumerate(server.order) if sent[1] == 0)
        assert position < oldest
        assert server.order[0][2] == 5999
        server.ledger.check()


async def test_the_proof_is_never_sent_to_a_server_that_cannot_prove_itself(tmp_path):
    spool = Spool(tmp_path, **SMALL)
    async with FakeServer(Script(wrong_signature=True)) as server:
        async with running(server, spool) as uplink:
            await until(lambda: server.connections >= 2)
            assert "not the server that the node joined" in uplink.link.trouble
        assert server.proofs == 0


async def test_the_proof_is_never_sent_to_another_server(tmp_path):
    spool = Spool(tmp_path, **SMALL)
    async with FakeServer() as joined, FakeServer() as other:
        async with running(other, spool, identity=joined.identity(other.port)):
            await until(lambda: other.connections >= 2)
        assert other.proofs == 0


async def test_the_link_is_kept_over_tls_that_only_the_servers_own_ca_vouches_for(tmp_path):
    ca_pem, context = certificate(tmp_path, "server")
    other_ca, _ = certificate(tmp_path, "other")
    spool = Spool(tmp_path / "spool", **SMALL)
    async with FakeServer(tls=context, ca_pem=ca_pem) as server:
        fill(server.ledger, spool, 20)
        async with running(server, spool):
            await until(complete(server, spool))
        server.ledger.check()
        before = server.connections
        server.ca_pem = other_ca
        async with running(server, spool) as uplink:
            await until(lambda: "CERTIFICATE_VERIFY_FAILED" in uplink.link.trouble)
        assert server.connections == before


def test_an_identity_whose_key_is_not_the_pinned_one_is_not_used(tmp_path):
    identity = Identity("n", "n", "https://x", "0" * 64, to_base64(bytes(32)))
    with pytest.raises(IdentityError, match="pinned"):
        Uplink(identity, Spool(tmp_path), sign=bytes, agent_version="1")


@pytest.mark.parametrize("fault", ["reset", "half_close", "partition"])
async def test_network_faults_lose_nothing(fault, tmp_path):
    spool = Spool(tmp_path, **SMALL)
    async with FakeServer() as server, FaultProxy("127.0.0.1", server.port) as proxy:
        async with running(server, spool, port=proxy.port) as uplink:
            for round_number in range(5):
                fill(server.ledger, spool, 60, start=60 * round_number)
                uplink.wake()
                before = proxy.up
                await until(lambda before=before: proxy.up > before)
                getattr(proxy, fault)()
                if fault == "partition":
                    fill(server.ledger, spool, 5, start=1000 + 5 * round_number)
                    uplink.wake()
                    proxy.heal()
            await until(complete(server, spool))
        server.ledger.check()


async def test_a_server_that_returns_gets_what_was_kept_meanwhile(tmp_path):
    spool = Spool(tmp_path, **SMALL)
    async with FakeServer() as server:
        identity, port = server.identity(), server.port
    fill(server.ledger, spool, 100)
    async with running(server, spool, identity=identity) as uplink:
        await until(lambda: "ConnectionRefusedError" in uplink.link.trouble)
        server.port = port
        async with server:
            await until(complete(server, spool))
    server.ledger.check()


async def test_inventory_lists_and_state_are_sent_on_every_connection(tmp_path):
    spool = Spool(tmp_path, **SMALL)
    lists = [frames.GpuList(7, ["GPU-a"]), frames.GpuList(9, ["GPU-a", "GPU-b"])]
    async with FakeServer(Script(lose_reply=lambda n: n == 1)) as server:
        fill(server.ledger, spool, 1)
        async with running(server, spool, gpu_lists=lambda: lists) as uplink:
            uplink.set_state(frames.NodeState(1, [], []))
            await until(lambda: server.connections >= 2 and complete(server, spool)())
            assert uplink.intervals_s == {"gpu_sample": 2.0}
            uplink.set_state(frames.NodeState(2, [], []))
            lists.append(frames.GpuList(11, []))
            uplink.wake()
            await until(lambda: lists[-1] in server.others and len(server.others) >= 9)
    assert server.others.count(INVENTORY) == 2
    assert all(server.others.count(gpu_list) == 2 for gpu_list in lists[:2])
    assert frames.NodeState(2, [], []) in server.others


async def test_a_disk_refusal_holds_metrics_back_but_not_events(tmp_path):
    spool = Spool(tmp_path, **SMALL)

    def refuse(number, batch):
        # Two spools with 16 batches each may be under way before the first refusal is heard; more would be not heeding it.
        if batch.spool is frames.Spool.EVENTS or number > 32:
            return None
        ranges = [(batch.records[0].seq, batch.records[-1].seq)]
        code = frames.RefusalCode.DISK
        return frames.Refusal(code, "No room.", False, 3600.0, batch.spool_id, ranges)

    async with FakeServer(Script(refuse=refuse)) as server:
        fill(server.ledger, spool, 30)
        async with running(server, spool) as uplink:
            await until(lambda: spool.events.waiting == 0 and uplink.link.counts.refusals > 0)
            assert spool.metrics.waiting == 30
            assert uplink.link.trouble == "No room."
    assert {name for name, _, _ in server.order} == {"events"}


async def test_a_revoked_node_stays_away_and_says_what_to_do(tmp_path):
    refusal = frames.Refusal(frames.RefusalCode.REVOKED, "This node was revoked.")
    script = Script(refuse_hello=refusal)
    async with FakeServer(script) as server, running(server, Spool(tmp_path)) as uplink:
        await until(lambda: uplink.link.counts.refusals > 0)
        assert "Join this node again" in uplink.link.trouble


def test_fake_ledger_sees_a_lost_record():
    ledger = Ledger(produced={("s", 0): b"x"}, next_numbers={"s": 1})
    with pytest.raises(AssertionError):
        ledger.check()
