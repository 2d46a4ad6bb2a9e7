"""One simulated node's connection: the wire protocol over a sans-I/O WebSocket, cheap enough for a thousand in one process."""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import WebSocketURI

from agents.sim.backlog import Backlog, Held
from dcops.domain.metrics import TABLES
from dcops.wire.frames import (
    LINK_PATH,
    PROTOCOL,
    Ack,
    Batch,
    Challenge,
    FromNode,
    FromServer,
    GpuList,
    Hello,
    Inventory,
    Proof,
    Refusal,
    RefusalCode,
    Welcome,
    decode_from_server,
    encode,
)
from dcops.wire.identity import NONCE_BYTES, node_transcript, server_transcript
from dcops.wire.rows import layout

logger = logging.getLogger(__name__)

AGENT_VERSION = "sim-1"
GPU_LIST_ID = 1
BATCH_RECORDS = 64
IN_FLIGHT_RECORDS = 256
ANSWER_S = 30.0
# The server will not change its mind about records refused with one of these.
HOPELESS = frozenset({RefusalCode.MALFORMED, RefusalCode.TOO_LARGE, RefusalCode.FOREIGN})
_LAYOUTS = {table.name: layout(table) for table in TABLES}
_QUIET = logging.getLogger("agents.sim.websocket")
_QUIET.setLevel(logging.ERROR)


class LinkError(Exception):
    """The connection could not be made or kept; the message says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is and how it is recognised."""

    host: str
    port: int
    secure: bool
    public_key: bytes
    server_id: str
    tls: ssl.SSLContext | None = None


@dataclass(slots=True)
class SimulatedLink:
    """What outlives a connection: the node's identity and its two spools."""

    node_id: str
    key: Ed25519PrivateKey
    boot_id: str
    inventory: Inventory
    metrics: Backlog
    events: Backlog
    on_ack: Callable[[list[Held]], None]
    refused: dict[str, int] = field(default_factory=dict)
    connection: "Connection | None" = None

    @property
    def connected(self) -> bool:
        """Whether the server has welcomed this node."""
        return self.connection is not None and self.connection.welcomed

    @property
    def unacknowledged(self) -> int:
        """Records that the server has not confirmed."""
        return sum(spool.waiting + spool.in_flight for spool in (self.metrics, self.events))

    def send(self) -> None:
        """Send what waits, as far as the window allows."""
        if self.connected and self.connection is not None:
            self.connection.pump()


class Connection(asyncio.Protocol):
    """One WebSocket from Hello to its end. `ready` resolves at the welcome or the end, `closed` at the end with the reason."""

    def __init__(self, link: SimulatedLink, server: Server) -> None:
        self._link = link
        self._server = server
        uri = WebSocketURI(server.secure, server.host, server.port, LINK_PATH, "")
        self._socket = ClientProtocol(uri, max_size=1 << 20, logger=_QUIET)
        self._transport: asyncio.Transport | None = None
        self._nonce = os.urandom(NONCE_BYTES)
        self._paused = False
        self._resume_at_s = 0.0
        self.welcomed = False
        self.retry_after_s = 0.0
        self.fatal: Refusal | None = None
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the WebSocket."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self._socket.send_request(self._socket.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Feed the WebSocket and act on what came out."""
        try:
            self._socket.receive_data(data)
            for event in self._socket.events_received():
                if isinstance(event, Response):
                    self._opened()
                elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                    self._frame(decode_from_server(bytes(event.data)))
        except (LinkError, InvalidSignature, msgspec.MsgspecError) as error:
            self.close(f"{type(error).__name__}: {error}")
        self._flush()

    def eof_received(self) -> bool:
        """The server sends no more."""
        self._socket.receive_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the records go back to waiting."""
        self.welcomed = False
        self._link.metrics.resend()
        self._link.events.resend()
        self._ended(str(exc) if exc else "the server closed the connection")

    def pause_writing(self) -> None:
        """The socket is full: send no more until it drains."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._paused = False
        self.pump()

    # -- the protocol of dcops.wire.frames

    def _opened(self) -> None:
        if self._socket.handshake_exc is not None:
            raise LinkError(f"the WebSocket was refused: {self._socket.handshake_exc}")
        self._send(Hello(PROTOCOL, self._link.node_id, self._nonce))

    def _frame(self, frame: FromServer) -> None:
        if isinstance(frame, Ack):
            self._acknowledged(frame)
        elif isinstance(frame, Challenge):
            self._prove(frame)
        elif isinstance(frame, Welcome):
            self._begin()
        else:
            self._refused(frame)

    def _prove(self, challenge: Challenge) -> None:
        """Check that this is the server whose key was pinned, then sign its nonce."""
        server, link = self._server, self._link
        transcript = server_transcript(
            self._nonce, challenge.nonce, server.server_id, link.node_id
        )
        Ed25519PublicKey.from_public_bytes(server.public_key).verify(
            challenge.signature, transcript
        )
        mine = node_transcript(
            self._nonce, challenge.nonce, server.server_id, link.node_id, link.boot_id
        )
        self._send(
            Proof(link.key.sign(mine), link.boot_id, AGENT_VERSION, _LAYOUTS, simulated=True)
        )

    def _begin(self) -> None:
        self.welcomed = True
        self.ready.set_result(None)
        self._send(self._link.inventory)
        self._send(GpuList(GPU_LIST_ID, [gpu.uuid for gpu in self._link.inventory.gpus]))
        self.pump()

    def _acknowledged(self, ack: Ack) -> None:
        for spool in (self._link.metrics, self._link.events):
            if spool.spool_id == ack.spool_id:
                self._link.on_ack(spool.ack(ack.ranges))
        self.pump()

    def _refused(self, refusal: Refusal) -> None:
        refused = self._link.refused
        refused[refusal.code] = refused.get(refusal.code, 0) + 1
        logger.debug("%s refused: %s", self._link.inventory.host.hostname, refusal.message)
        self.retry_after_s = refusal.retry_after_s
        if refusal.fatal:
            self.fatal = refusal
            self.close(f"refused ({refusal.code}): {refusal.message}")
            return
        for spool in (self._link.metrics, self._link.events):
            if spool.spool_id == refusal.spool_id and refusal.code in HOPELESS:
                spool.discard(refusal.ranges)
        if refusal.code not in HOPELESS:
            self._wait(refusal.retry_after_s or 1.0)

    def _wait(self, seconds: float) -> None:
        """Send nothing for a while, then everything unanswered again."""
        self._resume_at_s = time.monotonic() + seconds
        asyncio.get_running_loop().call_later(seconds, self._again)

    def _again(self) -> None:
        if self.welcomed:
            self._link.metrics.resend()
            self._link.events.resend()
            self.pump()

    def pump(self) -> None:
        """Send waiting records: events first, then the newest metrics, while the window has room."""
        if not self.welcomed or time.monotonic() < self._resume_at_s:
            return
        for spool in (self._link.events, self._link.metrics):
            while not self._paused and spool.waiting and spool.in_flight < IN_FLIGHT_RECORDS:
                self._send(Batch(spool.spool, spool.spool_id, spool.take(BATCH_RECORDS)))

    # -- bytes

    def _send(self, frame: FromNode) -> None:
        if self._socket.state is State.OPEN:
            self._socket.send_binary(encode(frame))
            self._flush()

    def _flush(self) -> None:
        if self._transport is None:
            return
        for data in self._socket.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.close()

    def close(self, reason: str) -> None:
        """End the connection now."""
        self._ended(reason)
        if self._transport is not None:
            self._transport.abort()

    def leave(self) -> None:
        """Say goodbye and end the connection."""
        if self._socket.state is State.OPEN:
            self._socket.send_close(CloseCode.GOING_AWAY)
            self._flush()
        if self._transport is not None:
            self._transport.close()

    def _ended(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
        if not self.ready.done():
            self.ready.set_result(None)


async def connect(link: SimulatedLink, server: Server) -> Connection:
    """Open a connection for this node, up to its welcome or refusal. Raises OSError or LinkError if neither comes in time."""
    loop = asyncio.get_running_loop()
    opening = loop.create_connection(
        partial(Connection, link, server),
        server.host,
        server.port,
        ssl=server.tls,
        server_hostname=server.host if server.tls else None,
    )
    try:
        _, connection = await asyncio.wait_for(opening, ANSWER_S)
    except TimeoutError:
        raise LinkError(f"no connection within {ANSWER_S:.0f} s") from None
    link.connection = connection
    try:
        await asyncio.wait_for(asyncio.shield(connection.ready), ANSWER_S)
    except TimeoutError:
        connection.close("no welcome")
        raise LinkError(f"the server did not answer within {ANSWER_S:.0f} s") from None
    return connection
