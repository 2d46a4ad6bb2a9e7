"""A server that speaks the wire protocol and keeps what it gets in a dict: for the hall's link alone, without a database."""

import asyncio
import os
from contextlib import asynccontextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from websockets.asyncio.server import serve

from agents.sim.link import Server
from dcops.wire.frames import (
    PROTOCOL,
    Ack,
    Batch,
    Challenge,
    GpuList,
    Inventory,
    Refusal,
    Welcome,
    decode_from_node,
    encode,
)
from dcops.wire.identity import NONCE_BYTES, node_transcript, pin_of, server_transcript


class FakeServer:
    """`stored[(spool_id, seq)]` is the payload; `answer` may turn a batch into other frames, or None to close instead."""

    def __init__(self):
        self.key = Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes_raw()
        self.server_id = pin_of(self.public)[:16]
        self.node_keys: dict[str, bytes] = {}
        self.stored: dict[tuple[str, int], bytes] = {}
        self.times_received: dict[tuple[str, int], int] = {}
        self.order: list[int] = []
        self.frames: list[str] = []
        self.connections = 0
        self.port = 0
        self.answer = self.acknowledge

    def acknowledge(self, batch: Batch):
        return [Ack(batch.spool_id, [(r.seq, r.seq) for r in batch.records])]

    def take(self, batch: Batch) -> None:
        for record in batch.records:
            at = (batch.spool_id, record.seq)
            self.stored[at] = record.payload
            self.times_received[at] = self.times_received.get(at, 0) + 1
            self.order.append(record.seq)

    @property
    def address(self) -> Server:
        return Server("127.0.0.1", self.port, False, self.public, self.server_id)

    @asynccontextmanager
    async def running(self):
        async with serve(self._talk, "127.0.0.1", self.port, compression=None) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _talk(self, socket):
        self.connections += 1
        hello = decode_from_node(await socket.recv())
        nonce = os.urandom(NONCE_BYTES)
        signed = server_transcript(hello.nonce, nonce, self.server_id, hello.node_id)
        await socket.send(
            encode(Challenge(PROTOCOL, self.server_id, nonce, self.key.sign(signed)))
        )
        proof = decode_from_node(await socket.recv())
        transcript = node_transcript(
            hello.nonce, nonce, self.server_id, hello.node_id, proof.boot_id
        )
        Ed25519PublicKey.from_public_bytes(self.node_keys[hello.node_id]).verify(
            proof.signature, transcript
        )
        assert proof.simulated
        await socket.send(encode(Welcome("s", "n", "approved", 0)))
        async for message in socket:
            frame = decode_from_node(message)
            self.frames.append(type(frame).__name__)
            if isinstance(frame, Batch):
                answers = self.answer(frame)
                if answers is None:
                    return
                if any(isinstance(a, Ack) for a in answers):
                    self.take(frame)
                for answer in answers:
                    await socket.send(encode(answer))
            else:
                assert isinstance(frame, Inventory | GpuList)


def refusal(code, batch: Batch, fatal: bool = False, retry_after_s: float = 0.0) -> Refusal:
    """A refusal of a whole batch."""
    return Refusal(
        code, "no", fatal, retry_after_s, batch.spool_id, [(r.seq, r.seq) for r in batch.records]
    )


async def until(condition, limit_s: float = 10.0) -> None:
    """Wait for the condition; fail when it does not come."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)
