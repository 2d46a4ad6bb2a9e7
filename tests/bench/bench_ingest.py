"""Values stored per CPU-second, from a node's socket to a committed row, with every check on; peers on the same values."""

import asyncio
import os
import time
import urllib.request
import zlib

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import connect

from agents.sim.generate import generate
from agents.sim.plan import inventory
from dcops.domain.metrics import GPU_SAMPLE, TABLES
from dcops.wire import frames
from dcops.wire.identity import JoinAnswer, JoinRequest, node_transcript, parse_token, to_base64
from dcops.wire.rows import ROW, SECTION, layout
from tests.bench.harness import NOT_INSTALLED, Result, benchmark
from tests.bench.peers import PROGRAMS, SETTLE_S, Peer, installed, labels, write_request
from tests.bench.server import ScratchServer

NODES, GPUS, TICKS, SEED = 60, 8, 300, 7
IN_FLIGHT = 8
LAYOUTS = {table.name: layout(table) for table in TABLES}


def _hall():
    """A hall whose last second is a minute ago."""
    start_us = (int(time.time()) - 60 - TICKS) * 1_000_000
    return generate(NODES, GPUS, TICKS, SEED, start_us=start_us)


def _gpu_rows(payload):
    """Only the GPUs' rows of a record: what the peers get too."""
    size = SECTION.size + GPUS * ROW[GPU_SAMPLE.name].size
    code, count, _, _ = SECTION.unpack_from(payload)
    assert (code, count) == (GPU_SAMPLE.code, GPUS)
    return payload[:size]


def _values(hall):
    return int(np.bitwise_count(hall.present).sum()) * TICKS


def _batches(hall, node, ticks):
    records = [_gpu_rows(hall.payloads[tick][node]) for tick in range(TICKS)]
    for first in range(0, TICKS, ticks):
        batch = [
            frames.Record(first + n, zlib.crc32(p), p)
            for n, p in enumerate(records[first : first + ticks])
        ]
        yield frames.encode(frames.Batch(frames.Spool.METRICS, f"spool-{ticks}", batch))


class _Node:
    def __init__(self, server, token, plan):
        self.key = Ed25519PrivateKey.generate()
        self.plan = plan
        parsed = parse_token(token)
        public = to_base64(self.key.public_key().public_bytes_raw())
        body = msgspec.json.encode(
            JoinRequest(parsed.token_id, parsed.secret, public, plan.name, simulated=True)
        )
        request = urllib.request.Request(server.url + frames.JOIN_PATH, body)
        answer = urllib.request.urlopen(request).read()
        self.node_id = msgspec.json.decode(answer, type=JoinAnswer).node_id

    async def send(self, server, batches, go, ready):
        url = server.url.replace("http", "ws") + frames.LINK_PATH
        async with connect(url, compression=None, max_size=None) as socket:
            await self._shake_hands(socket)
            found = inventory(self.plan)
            await socket.send(frames.encode(found))
            await socket.send(frames.encode(frames.GpuList(1, [gpu.uuid for gpu in found.gpus])))
            ready()
            await go.wait()
            waiting = rows = 0
            for batch in batches:
                if waiting == IN_FLIGHT:
                    rows += await self._ack(socket)
                    waiting -= 1
                await socket.send(batch)
                waiting += 1
            for _ in range(waiting):
                rows += await self._ack(socket)
            return rows

    async def _ack(self, socket):
        ack = frames.decode_from_server(await socket.recv())
        assert isinstance(ack, frames.Ack), ack
        assert not ack.values_rejected, ack
        return ack.rows_stored

    async def _shake_hands(self, socket):
        nonce = os.urandom(32)
        await socket.send(frames.encode(frames.Hello(frames.PROTOCOL, self.node_id, nonce)))
        challenge = frames.decode_from_server(await socket.recv())
        said = node_transcript(nonce, challenge.nonce, challenge.server_id, self.node_id, "boot")
        proof = frames.Proof(self.key.sign(said), "boot", "bench", LAYOUTS, True)
        await socket.send(frames.encode(proof))
        assert isinstance(frames.decode_from_server(await socket.recv()), frames.Welcome)


async def _feed(server, nodes, batches):
    go, all_ready, count = asyncio.Event(), asyncio.Event(), [0]

    def ready():
        count[0] += 1
        if count[0] == len(nodes):
            all_ready.set()

    tasks = [
        asyncio.create_task(node.send(server, own, go, ready))
        for node, own in zip(nodes, batches, strict=True)
    ]
    await all_ready.wait()
    await asyncio.sleep(2)
    before = server.cpu_s()
    started = time.monotonic()
    go.set()
    rows = sum(await asyncio.gather(*tasks))
    elapsed = time.monotonic() - started
    await asyncio.sleep(SETTLE_S)
    after = server.cpu_s()
    return rows, elapsed, {name: after[name] - before[name] for name in ("web", "postgres")}


def _ours(hall, ticks):
    with ScratchServer() as server:
        token = server.hall_token(NODES)
        nodes = [_Node(server, token, plan) for plan in hall.nodes]
        batches = [list(_batches(hall, number, ticks)) for number in range(NODES)]
        rows, elapsed, cpu = asyncio.run(_feed(server, nodes, batches))
        assert rows == NODES * GPUS * TICKS, "every row must be stored"
        with server.connect() as connection:
            (stored,) = connection.execute("SELECT count(*) FROM gpu_sample").fetchone()
        assert stored == rows
    return _values(hall) / sum(cpu.values()), elapsed, cpu


def _bodies(hall, ticks):
    """Remote-write bodies: one a node and batch, as a node's own agent would send."""
    known = [
        [
            (name, number, gpu, labels(name, plan.name, str(gpu)))
            for gpu in range(GPUS)
            for position, name in enumerate(GPU_SAMPLE.names)
            if int(hall.present[number, gpu]) >> position & 1
        ]
        for number, plan in enumerate(hall.nodes)
    ]
    at_ms = hall.at_us // 1000
    for first in range(0, TICKS, ticks):
        part = slice(first, first + ticks)
        for series in known:
            values = (
                (said, hall.columns[name][part, number, gpu]) for name, number, gpu, said in series
            )
            yield write_request(values, at_ms[part])


def _compare(ticks):
    hall = _hall()
    mine, elapsed, cpu = _ours(hall, ticks)
    peers = {}
    for name in PROGRAMS:
        if not installed(name):
            peers[name] = NOT_INSTALLED
            continue
        with Peer(name) as peer:
            peers[name] = round(_values(hall) / peer.write(_bodies(hall, ticks)) / 1e6, 3)
    best = max((p for p in peers.values() if isinstance(p, float)), default=None)
    note = (
        f"{_values(hall):,} values in {elapsed:.1f} s; CPU s: "
        + ", ".join(f"{name} {used:.2f}" for name, used in cpu.items())
        + (f"; {mine / 1e6 / best:.2f}x the better peer" if best else "")
    )
    holds = mine / 1e6 >= 2 * best if best else None
    return Result(round(mine / 1e6, 3), holds=holds, peers=peers, note=note)


@benchmark(
    "ingest-10-ticks",
    row="values stored per CPU-second, 10 ticks a batch",
    unit="M/s",
    goal="2x the better peer",
)
def ten_ticks():
    """A backlog, or a node that sends every ten seconds."""
    return _compare(10)


@benchmark(
    "ingest-1-tick",
    row="values stored per CPU-second, 1 tick a batch",
    unit="M/s",
    goal="2x the better peer",
)
def one_tick():
    """Live data, each second on its own."""
    return _compare(1)
