"""A server that speaks the wire protocol in this process and misbehaves as scripted. It stores like the real one: once."""

import asyncio
import os
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from agents.adapters.keys import Identity, verify
from dcops.wire import frames
from dcops.wire.identity import (
    node_transcript,
    pin_of,
    server_transcript,
    to_base64,
)
from tests.fakes.ledger import Ledger


@dataclass
class Script:
    """What goes wrong. Numbers count batches, from 1, over all connections."""

    wrong_signature: bool = False
    lose_reply: Callable[[int], bool] = lambda number: (
        False
    )  # store, then end the connection without an ack
    reset: Callable[[int], bool] = lambda number: False  # end it before storing
    refuse: Callable[[int, frames.Batch], frames.Refusal | None] = lambda number, batch: None
    reorder: int = 1  # acks are kept until so many wait, then sent in any order
    repeat_acks: bool = False
    silent: bool = False  # never ack
    refuse_hello: frames.Refusal | None = None
    foreign_acks: bool = False  # also acknowledge what was never sent
    intervals_s: dict[str, float] = field(default_factory=lambda: {"gpu_sample": 2.0})


@dataclass
class FakeServer:
    """`async with FakeServer() as server`, then `server.identity()` for a node with `server.node_key`."""

    script: Script = field(default_factory=Script)
    ledger: Ledger = field(default_factory=Ledger)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    node_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    node_id: str = "5f0c9a52-0000-4000-8000-000000000001"
    batches: int = 0
    connections: int = 0
    proofs: int = 0
    order: list[tuple[str, int, int]] = field(default_factory=list)
    others: list[object] = field(default_factory=list)
    port: int = 0
    tls: ssl.SSLContext | None = None
    ca_pem: str = ""

    async def __aenter__(self) -> "FakeServer":
        self._serving = await serve(
            self._serve,
            "127.0.0.1",
            self.port,
            ssl=self.tls,
            compression=None,
            max_size=frames.MAX_FRAME_BYTES,
        )
        self.port = self._serving.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._serving.close()
        await self._serving.wait_closed()

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def identity(self, port: int = 0) -> Identity:
        pin = pin_of(self.public_key)
        url = f"{'https' if self.tls else 'http'}://127.0.0.1:{port or self.port}"
        key = to_base64(self.public_key)
        return Identity(self.node_id, "node-1", url, pin, key, self.ca_pem)

    async def _serve(self, socket: ServerConnection) -> None:
        self.connections += 1
        try:
            if await self._handshake(socket):
                await self._take_batches(socket)
        except ConnectionClosed:
            pass

    async def _handshake(self, socket: ServerConnection) -> bool:
        hello = frames.decode_from_node(await socket.recv())
        assert isinstance(hello, frames.Hello)
        if self.script.refuse_hello is not None:
            await socket.send(frames.encode(self.script.refuse_hello))
            return False
        nonce, server_id = os.urandom(32), pin_of(self.public_key)[:16]
        signer = Ed25519PrivateKey.generate() if self.script.wrong_signature else self.key
        signature = signer.sign(server_transcript(hello.nonce, nonce, server_id, hello.node_id))
        await socket.send(
            frames.encode(frames.Challenge(frames.PROTOCOL, server_id, nonce, signature))
        )
        proof = frames.decode_from_node(await socket.recv())
        assert isinstance(proof, frames.Proof)
        self.proofs += 1
        signed = node_transcript(hello.nonce, nonce, server_id, hello.node_id, proof.boot_id)
        assert verify(self.node_key.public_key().public_bytes_raw(), proof.signature, signed)
        await socket.send(
            frames.encode(frames.Welcome("s", "node-1", "approved", 0, self.script.intervals_s))
        )
        return True

    async def _take_batches(self, socket: ServerConnection) -> None:
        acks: list[frames.Ack] = []
        while True:
            frame = frames.decode_from_node(await socket.recv())
            if not isinstance(frame, frames.Batch):
                self.others.append(frame)
                continue
            self.batches += 1
            number = self.batches
            if self.script.reset(number):
                socket.transport.abort()
                return
            refusal = self.script.refuse(number, frame)
            if refusal is not None:
                await socket.send(frames.encode(refusal))
                continue
            self._store(frame)
            if self.script.lose_reply(number):
                socket.transport.abort()
                return
            if not self.script.silent:
                acks.append(_ack(frame))
                await self._answer(socket, acks)

    async def _answer(self, socket: ServerConnection, acks: list[frames.Ack]) -> None:
        if len(acks) < self.script.reorder and self._more_to_come():
            return
        random.Random(self.batches).shuffle(acks)
        for ack in acks * (2 if self.script.repeat_acks else 1):
            await socket.send(frames.encode(ack))
        if self.script.foreign_acks:
            for spool_id in {ack.spool_id for ack in acks}:
                await socket.send(frames.encode(frames.Ack(spool_id, [(0, 1 << 40)])))
        acks.clear()

    def _more_to_come(self) -> bool:
        return len(self.ledger.delivered) < len(self.ledger.produced)

    def _store(self, batch: frames.Batch) -> None:
        seqs = [record.seq for record in batch.records]
        self.order.append((batch.spool, seqs[0], seqs[-1]))
        for record in batch.records:
            self.ledger.take(
                batch.spool_id,
                record.seq,
                record.payload,
                events=batch.spool is frames.Spool.EVENTS,
            )


def _ack(batch: frames.Batch) -> frames.Ack:
    seqs = [record.seq for record in batch.records]
    return frames.Ack(batch.spool_id, [(seqs[0], seqs[-1])], rows_stored=len(seqs))


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Poll with a deadline. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
