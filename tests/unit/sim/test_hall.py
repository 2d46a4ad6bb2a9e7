"""A running hall delivers what it makes, over broken connections and refusals, and lies to nobody about it."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agents.sim.enrol import EnrolError, Enrolled, HallState, load, save
from agents.sim.hall import JOURNAL_HEAD, Hall, Options
from agents.sim.link import Server
from agents.sim.plan import lay_out
from dcops.wire.frames import RefusalCode
from tests.unit.sim.fakeserver import FakeServer, refusal, until

FAST = Options(gpus=2, rate_hz=50.0, xids_per_hour=0.0, silence_every_s=0.0, retry_s=(0.01, 0.1))


def hall_for(server: FakeServer, nodes: int = 3, options: Options = FAST) -> Hall:
    state = HallState(salt="test")
    plan = lay_out(nodes, options.gpus, options.seed, state.salt)
    for index, node in enumerate(plan):
        key = Ed25519PrivateKey.generate()
        server.node_keys[str(index)] = key.public_key().public_bytes_raw()
        state.nodes[node.name] = Enrolled(node.name, str(index), key.private_bytes_raw())
    return Hall(plan, state, server.address, options)


@asynccontextmanager
async def running(hall: Hall):
    stop = asyncio.Event()
    task = asyncio.create_task(hall.run(stop, drain_s=10.0))
    try:
        yield
    finally:
        stop.set()
        await task


async def test_everything_made_arrives():
    async with FakeServer().running() as server:
        hall = hall_for(server)
        async with running(hall):
            await until(lambda: len(server.stored) > 60)
        counts = hall.summary()
    assert counts["acked"] == counts["produced"] == len(server.stored)
    assert server.connections == 3
    assert server.frames[:2] == ["Inventory", "GpuList"]


async def test_a_lost_answer_is_made_good_by_sending_again():
    """The server keeps a batch and drops the connection instead of answering: it gets the records again, none is missing."""
    async with FakeServer().running() as server:
        hall = hall_for(server, nodes=1)
        dropped = []

        def answer(batch):
            if len(dropped) < 3 and len(server.stored) >= 10 * (len(dropped) + 1):
                dropped.append(batch)
                server.take(batch)
                return None
            return server.acknowledge(batch)

        server.answer = answer
        async with running(hall):
            await until(lambda: len(dropped) == 3 and len(server.stored) > 60)
        counts = hall.summary()
    assert counts["acked"] == counts["produced"] == len(server.stored)
    assert max(server.times_received.values()) > 1
    assert sorted(seq for _, seq in server.stored) == list(range(1, counts["produced"] + 1))


async def test_a_server_that_was_away_gets_the_backlog_newest_first():
    server = FakeServer()
    async with server.running():
        pass
    hall = hall_for(server, nodes=1)
    async with running(hall):
        await until(lambda: hall.links[0].metrics.produced > 30)
        async with server.running():
            await until(lambda: len(server.stored) > 40)
            newest = server.order[0]
            backlog = [seq for seq in server.order if seq < newest]
            hall._producing = False
            await until(lambda: hall.summary()["unacknowledged"] == 0)
    assert newest > 20
    assert backlog[:20] == sorted(backlog[:20], reverse=True)
    assert sorted(server.order) == list(range(1, hall.summary()["produced"] + 1))


async def test_records_the_server_will_never_take_are_counted_as_dropped_and_not_sent_for_ever():
    async with FakeServer().running() as server:
        hall = hall_for(server, nodes=1)
        server.answer = lambda batch: (
            [refusal(RefusalCode.MALFORMED, batch)]
            if batch.records[0].seq == 5
            else server.acknowledge(batch)
        )
        async with running(hall):
            await until(lambda: len(server.stored) > 20)
        counts = hall.summary()
    assert counts["dropped"] >= 1
    assert counts["unacknowledged"] == 0
    assert counts["acked"] + counts["dropped"] == counts["produced"]
    assert counts["refused"] == {"malformed": 1}


async def test_a_busy_server_gets_the_records_later():
    async with FakeServer().running() as server:
        hall = hall_for(server, nodes=1)
        refused = []

        def answer(batch):
            if not refused:
                refused.append(batch)
                return [refusal(RefusalCode.BUSY, batch, retry_after_s=0.1)]
            return server.acknowledge(batch)

        server.answer = answer
        async with running(hall):
            await until(lambda: len(server.stored) > 20)
        counts = hall.summary()
    assert counts["acked"] == counts["produced"]
    assert (refused[0].spool_id, refused[0].records[0].seq) in server.stored


async def test_a_revoked_node_stops_knocking():
    async with FakeServer().running() as server:
        hall = hall_for(server, nodes=1)
        server.answer = lambda batch: [refusal(RefusalCode.REVOKED, batch, fatal=True)]
        stop = asyncio.Event()
        task = asyncio.create_task(hall.run(stop, drain_s=0.0))
        await until(lambda: hall.summary()["refused"] == {"revoked": 1})
        await until(lambda: hall.tally.reconnects == 1)
        stop.set()
        await task
    assert server.connections == 1
    assert hall.summary()["acked"] == 0


async def test_a_server_with_another_key_gets_nothing():
    async with FakeServer().running() as server:
        hall = hall_for(server, nodes=1)
        other = FakeServer()
        hall._server = Server("127.0.0.1", server.port, False, other.public, other.server_id)
        stop = asyncio.Event()
        task = asyncio.create_task(hall.run(stop, drain_s=0.0))
        await until(lambda: hall.tally.reconnects >= 1)
        stop.set()
        await task
    assert server.frames == []
    assert not server.stored


async def test_the_journal_holds_every_record_as_it_was_sent(tmp_path):
    options = replace(FAST, journal=tmp_path / "journal")
    async with FakeServer().running() as server:
        hall = hall_for(server, nodes=2, options=options)
        async with running(hall):
            await until(lambda: len(server.stored) > 20)
    data, found = (tmp_path / "journal").read_bytes(), {}
    while data:
        _, _, spool_id, seq, size = JOURNAL_HEAD.unpack_from(data)
        found[spool_id.decode(), seq] = data[JOURNAL_HEAD.size : JOURNAL_HEAD.size + size]
        data = data[JOURNAL_HEAD.size + size :]
    assert found == server.stored


def test_keys_are_kept_and_readable_by_the_owner_only(tmp_path):
    state = HallState(
        salt="s", url="http://x", pin="p", nodes={"a": Enrolled("a", "1", b"k" * 32)}
    )
    save(tmp_path / "hall", state)
    assert load(tmp_path / "hall") == state
    assert (tmp_path / "hall" / "hall.msgpack").stat().st_mode & 0o777 == 0o600


def test_a_foreign_state_file_is_named_and_left_alone(tmp_path):
    (tmp_path / "hall.msgpack").write_bytes(json.dumps({"a": 1}).encode())
    with pytest.raises(EnrolError, match=r"hall\.msgpack"):
        load(tmp_path)
    assert (tmp_path / "hall.msgpack").read_bytes()
