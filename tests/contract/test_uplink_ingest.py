"""The agent's real link and spool against the real ingest and database, with a faulty network between."""

import asyncio
import random
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest

from agents.adapters.gpu_lists import GpuListStore
from agents.adapters.keys import load_identity
from agents.adapters.spool import Spool
from agents.adapters.uplink import Uplink
from agents.join import JoinError, join
from dcops.access.actor import cli
from dcops.access.serverkey import load as load_server_key
from dcops.clock import now as clock_now
from dcops.fleet import actions as fleet_actions
from dcops.wire import frames
from dcops.wire.identity import pin_of, to_base64
from tests.fakes.server import until
from tests.faultproxy import FaultProxy
from tests.ingest_server import HOST, TestNode, running_ingest
from tests.telemetry_kit import tick

pytestmark = pytest.mark.django_db(transaction=True)
SMALL = {"metrics_segment_bytes": 20_000, "events_segment_bytes": 4000, "events_spares": 1}


class NoWait(random.Random):
    """Jitter that always says now."""

    def uniform(self, low, high):
        return 0.0


@pytest.fixture
def ingest(transactional_db):
    with running_ingest() as (_, url):
        yield int(url.rpartition(":")[2])


@pytest.fixture
def sql(database_urls):
    def query(text, *args):
        with psycopg.connect(database_urls.app, autocommit=True) as connection:
            return connection.execute(text, args or None).fetchall()

    return query


@pytest.fixture
def node(transactional_db):
    return TestNode("n1", gpus=2)


class Agent:
    """A spool, its GPU lists and an uplink, as run.py composes them."""

    def __init__(self, node, state_dir, settings, **options):
        self.node = node
        self.spool = Spool(state_dir / "spool", **(SMALL | options))
        self.lists = GpuListStore(state_dir / "gpu_lists")
        self.list_id = self.lists.number([gpu.uuid for gpu in node.gpus])
        self.key = load_server_key(settings.SERVER_KEY_FILE).public_bytes
        self.started = clock_now().timestamp() - 3000
        self.ticks = self.saved = 0

    def sample(self, count):
        from datetime import UTC, datetime

        for _ in range(count):
            at = datetime.fromtimestamp(self.started + self.ticks, UTC)
            saved = self.spool.metrics.append(tick(at, gpus=2, gpu_list=self.list_id))
            self.ticks += 1
            self.saved += saved is not None

    def happen(self, count):
        for _ in range(count):
            event = frames.Event(
                int(clock_now().timestamp() * 1e6), "agent", frames.Severity.INFO, "it", "k"
            )
            self.spool.events.append(frames.encode_happenings([event]))

    @asynccontextmanager
    async def connected(self, port):
        from agents.adapters.keys import Identity

        identity = Identity(
            self.node.node_id,
            self.node.name,
            f"http://127.0.0.1:{port}",
            pin_of(self.key),
            to_base64(self.key),
        )
        uplink = Uplink(
            identity,
            self.spool,
            sign=self.node.key.sign,
            agent_version="1",
            gpu_lists=self.lists.all,
            jitter=NoWait(),
        )
        uplink.set_inventory(frames.Inventory(HOST, self.node.gpus))
        task = asyncio.create_task(uplink.run())
        try:
            yield uplink
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def drained(self):
        return self.spool.metrics.waiting == 0 and self.spool.events.waiting == 0


def stored(sql):
    return sql("SELECT count(*), count(DISTINCT (subject_id, at)) FROM gpu_sample")[0]


def stored_events(sql):
    return sql("SELECT count(*) FROM event WHERE kind = 'agent'")[0][0]


async def test_a_backlog_and_fresh_samples_are_stored_once(ingest, node, sql, tmp_path, settings):
    agent = Agent(node, tmp_path, settings)
    agent.sample(500)
    agent.happen(20)
    async with agent.connected(ingest) as uplink:
        await until(lambda: uplink.link.is_open)
        agent.sample(20)
        uplink.wake()
        await until(agent.drained)
    assert stored(sql) == (1040, 1040)
    assert uplink.link.counts.rows_stored == 520 * 3
    assert uplink.link.counts.records_quarantined == 0


@pytest.mark.parametrize("fault", ["reset", "half_close", "partition"])
async def test_network_faults_lose_and_repeat_nothing(
    fault, ingest, node, sql, tmp_path, settings
):
    agent = Agent(node, tmp_path, settings)
    async with (
        FaultProxy("127.0.0.1", ingest) as proxy,
        agent.connected(proxy.port) as uplink,
    ):
        for _ in range(4):
            agent.sample(100)
            uplink.wake()
            before = proxy.up
            await until(lambda before=before: proxy.up > before + 1000)
            getattr(proxy, fault)()
            agent.sample(10)
            if fault == "partition":
                proxy.heal()
        await until(agent.drained)
    assert stored(sql) == (2 * 440, 2 * 440)


async def test_a_restart_with_its_acks_forgotten_repeats_nothing(
    ingest, node, sql, tmp_path, settings
):
    agent = Agent(node, tmp_path, settings)
    agent.sample(100)
    async with agent.connected(ingest):
        await until(agent.drained)
    again = Agent(node, tmp_path, settings)  # not closed: as after kill -9
    assert again.spool.metrics.waiting > 0
    again.started, again.ticks = agent.started, agent.ticks
    again.sample(10)
    async with again.connected(ingest):
        await until(again.drained)
    assert stored(sql) == (220, 220)


async def test_what_the_limit_dropped_is_a_gap_on_the_server(
    ingest, node, sql, tmp_path, settings
):
    agent = Agent(node, tmp_path, settings, metrics_limit_bytes=60_000)
    agent.sample(600)
    async with agent.connected(ingest):
        await until(agent.drained)
    rows, _ = stored(sql)
    gaps = sql("SELECT sum(last_seq - first_seq + 1)::int FROM telemetry_gap")[0][0]
    assert 0 < gaps < 600
    assert rows / 2 + gaps == 600


async def test_a_damaged_segment_is_a_gap_on_the_server(ingest, node, sql, tmp_path, settings):
    agent = Agent(node, tmp_path, settings)
    agent.sample(300)
    agent.spool.close()
    segments = sorted((tmp_path / "spool" / "metrics").glob("*.seg"))
    segments[1].unlink()
    data = bytearray(segments[2].read_bytes())
    data[len(data) // 2] ^= 1
    segments[2].write_bytes(data)
    again = Agent(node, tmp_path, settings)
    async with again.connected(ingest):
        await until(again.drained)
    rows, _ = stored(sql)
    gaps = sql("SELECT sum(last_seq - first_seq + 1)::int, count(*) FROM telemetry_gap")[0]
    assert gaps[1] == 2
    assert rows / 2 + gaps[0] == 300


async def test_a_machine_joins_with_a_token_and_then_connects(ingest, sql, tmp_path, settings):
    def token():
        return fleet_actions.create_join_token(cli("test"), auto_approve=True, now=clock_now())

    text = await asyncio.to_thread(token)
    url = f"http://127.0.0.1:{ingest}"

    def enter(state_dir):
        return join(url, text, tmp_path / state_dir, hostname="metal-7")

    answer = await asyncio.to_thread(enter, "a")
    assert (answer.node_name, answer.state) == ("metal-7", "approved")
    with pytest.raises(JoinError, match="unknown, used or expired"):
        await asyncio.to_thread(enter, "b")
    assert load_identity(tmp_path / "b") is None
    spool = Spool(tmp_path / "spool")
    uplink = Uplink.of_state_dir(tmp_path / "a", spool, agent_version="1")
    task = asyncio.create_task(uplink.run())
    await until(lambda: uplink.link.is_open)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert uplink.link.welcome.node_name == "metal-7"
