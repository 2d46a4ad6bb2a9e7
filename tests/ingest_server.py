"""A running ingest in this process, nodes to talk to it, and a client that speaks the wire protocol."""

import asyncio
import base64
import os
import threading
import time
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import connect

from dcops.access.actor import cli
from dcops.clock import now as clock_now
from dcops.domain.metrics import TABLES
from dcops.fleet import actions as fleet_actions
from dcops.telemetry.ingest import Ingest
from dcops.wire import frames
from dcops.wire.identity import JoinRequest, node_transcript, parse_token
from dcops.wire.rows import layout

HOST = frames.HostIdentity("test")
LAYOUTS = {table.name: layout(table) for table in TABLES}


@contextmanager
def running_ingest():
    """Serve an Ingest of its own; yields (application, base URL)."""
    application = Ingest()
    config = uvicorn.Config(
        application,
        port=0,
        ws="websockets-sansio",
        ws_max_size=frames.MAX_FRAME_BYTES + 65536,
        ws_per_message_deflate=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 15
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield application, f"ws://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


class TestNode:
    """An enrolled node and its key."""

    __test__ = False

    def __init__(self, name, gpus=1, simulated=False):
        now = clock_now()
        self.key = Ed25519PrivateKey.generate()
        token = parse_token(
            fleet_actions.create_join_token(
                cli("test"), node_name=name, auto_approve=True, simulated=simulated, now=now
            )
        )
        public = base64.b64encode(self.key.public_key().public_bytes_raw()).decode()
        request = JoinRequest(token.token_id, token.secret, public, name, simulated=simulated)
        answer = fleet_actions.join_node(request, source_ip="127.0.0.1", now=now)
        self.node_id = answer.node_id
        self.name = answer.node_name
        self.simulated = simulated
        self.boot_id = "boot-1"
        self.gpus = [
            frames.GpuIdentity(f"GPU-{name}-{index}", index, "Test GPU") for index in range(gpus)
        ]

    @asynccontextmanager
    async def connected(self, url, inventory=True, **changes):
        async with connect(url + frames.LINK_PATH, compression=None, max_size=None) as socket:
            link = ClientLink(socket)
            link.welcome = await link.shake_hands(self, **changes)
            if inventory and isinstance(link.welcome, frames.Welcome):
                await link.send(frames.Inventory(HOST, self.gpus))
                await link.send(frames.GpuList(1, [gpu.uuid for gpu in self.gpus]))
            yield link


class ClientLink:
    """One connection, seen from the node."""

    def __init__(self, socket):
        self.socket = socket

    async def send(self, frame):
        await self.socket.send(frames.encode(frame))

    async def receive(self, timeout=15):
        async with asyncio.timeout(timeout):
            return frames.decode_from_server(await self.socket.recv())

    async def shake_hands(
        self, node, key=None, layouts=LAYOUTS, boot_id=None, protocol=frames.PROTOCOL
    ):
        nonce = os.urandom(32)
        await self.send(frames.Hello(protocol, node.node_id, nonce))
        challenge = await self.receive()
        if not isinstance(challenge, frames.Challenge):
            return challenge
        boot_id = boot_id or node.boot_id
        transcript = node_transcript(
            nonce, challenge.nonce, challenge.server_id, node.node_id, boot_id
        )
        signature = (key or node.key).sign(transcript)
        await self.send(frames.Proof(signature, boot_id, "test", layouts, node.simulated))
        return await self.receive()
