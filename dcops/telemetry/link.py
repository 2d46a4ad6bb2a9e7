"""One node's connection: handshake, then frames until either side ends it. Whatever a node sends ends in a typed answer."""

import asyncio
import logging
import os
import re
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import numpy as np
import psycopg
from django.db import DatabaseError, connections

from dcops.access.serverkey import ServerKey
from dcops.domain.errors import Invalid
from dcops.domain.metrics import TABLES
from dcops.domain.nodes import NodeState as Standing
from dcops.fleet import actions as fleet_actions
from dcops.fleet import enrol
from dcops.fleet import queries as fleet_queries
from dcops.fleet.errors import ForeignGpu
from dcops.fleet.queries import NodeForLink
from dcops.telemetry import actions, meters, queries, sessions
from dcops.telemetry.committer import BUSY_RETRY_S, Committer
from dcops.telemetry.intake import UNKNOWN, Incoming, Source
from dcops.telemetry.ranges import to_ranges
from dcops.telemetry.rows import I4, Layout, read_layout
from dcops.telemetry.writer import Outcome
from dcops.wire import frames
from dcops.wire.frames import RefusalCode, Spool
from dcops.wire.identity import NONCE_BYTES

logger = logging.getLogger(__name__)

HANDSHAKE_S = 15.0
MAX_IN_FLIGHT = 16
MAX_GPUS = 1024
MAX_GPU_LISTS = 256
MAX_SPOOLS = 16
MAX_SEQ = 1 << 62
MAX_PROCESSES = 4096
SPOOL_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Clock = Callable[[], datetime]
T = TypeVar("T")


class Ended(Exception):
    """The node went away."""


class RefusedLink(Exception):
    """The connection ends with this refusal."""

    def __init__(self, code: RefusalCode, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.refusal = frames.Refusal(code, message, True, retry_after_s)


@dataclass(slots=True)
class Shared:
    """What all connections of a process share."""

    committer: Committer
    key: ServerKey
    clock: Clock
    links: dict[int, "Link"] = field(default_factory=dict)
    # Django's connections belong to threads; these few serve the handshakes.
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(4, "ingest-orm")
    )
    disk_full: bool = False

    async def in_database(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a Django query in a thread and give its connection back. Raises RefusedLink(BUSY) if the database is away."""
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self.threads, _with_connection, function, arguments
            )
        except (DatabaseError, psycopg.Error) as error:
            logger.warning("a link waits for the database: %s", str(error).strip())
            raise RefusedLink(
                RefusalCode.BUSY, "The database does not answer. Try again soon.", BUSY_RETRY_S
            ) from error


def _with_connection(function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    try:
        return function(*arguments)
    finally:
        connections.close_all()


class Link:
    """A connection from accept to close."""

    def __init__(self, shared: Shared, receive: Receive, send: Send) -> None:
        self._shared = shared
        self._receive = receive
        self._raw_send = send
        self._tasks: set[asyncio.Task[None]] = set()
        self._flying = 0
        self._landed = asyncio.Event()
        self._closing = False
        self._list_uuids: dict[int, list[str]] = {}
        self._spools: set[str] = set()
        self._node: NodeForLink | None = None
        self._source: Source | None = None
        self.session = uuid.uuid4().hex

    async def run(self, met: Callable[[], None]) -> None:
        """Speak with the node until the connection ends; call `met` once it has proved itself.

        Raises nothing that an agent could cause.
        """
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await self._handshake()
            met()
            while True:
                await self._take(await self._frame())
        except (Ended, TimeoutError):
            pass
        except RefusedLink as refused:
            await self._send_safely(refused.refusal)
        finally:
            await self._end()

    async def replace(self, refusal: frames.Refusal) -> None:
        """End this connection from outside: another took its place, or the node is no longer trusted."""
        self._closing = True
        await self._send_safely(refusal)
        await self._close()

    @property
    def node_id(self) -> int | None:
        """The node's database id once it has proved itself."""
        return self._node.id if self._node else None

    # -- handshake

    async def _handshake(self) -> None:
        hello = await self._expect(frames.Hello)
        if hello.protocol != frames.PROTOCOL:
            raise RefusedLink(
                RefusalCode.PROTOCOL,
                f"The agent speaks protocol {hello.protocol}, this server {frames.PROTOCOL}. Upgrade the older of the two.",
            )
        if len(hello.nonce) != NONCE_BYTES or len(hello.node_id) > 64:
            raise RefusedLink(RefusalCode.MALFORMED, "The Hello is malformed. Upgrade the agent.")
        nonce = os.urandom(NONCE_BYTES)
        key = self._shared.key
        await self._send(
            enrol.challenge(key, node_nonce=hello.nonce, server_nonce=nonce, node_id=hello.node_id)
        )
        proof = await self._expect(frames.Proof)
        node = await self._shared.in_database(fleet_queries.node_for_link, hello.node_id)
        proved = node is not None and enrol.verify_proof(
            node.public_key,
            proof.signature,
            node_nonce=hello.nonce,
            server_nonce=nonce,
            server_id=key.server_id,
            node_id=hello.node_id,
            boot_id=proof.boot_id,
        )
        if node is None or not proved or node.simulated != proof.simulated:
            raise RefusedLink(
                RefusalCode.IDENTITY,
                "This server does not know the node or its key. Join it anew with `dcops-agent join`.",
            )
        if node.state is Standing.REVOKED:
            raise RefusedLink(
                RefusalCode.REVOKED,
                "This node's key was revoked. Join it anew with `dcops-agent join`.",
            )
        self._source = Source(node.id, _layouts(proof.layouts))
        self._node = node
        await self._hold(node, proof)

    async def _hold(self, node: NodeForLink, proof: frames.Proof) -> None:
        now = self._shared.clock()
        boot_id = enrol.clean(proof.boot_id)
        claim = await self._shared.in_database(sessions.claim, node.id, self.session, boot_id, now)
        older = self._shared.links.get(node.id)
        self._shared.links[node.id] = self
        meters.LINKS.set(len(self._shared.links))
        if older is not None:
            await older.replace(replaced())
        if claim.cloned:
            await self._shared.in_database(actions.quarantine_clone, node.name, now)
            raise RefusedLink(
                RefusalCode.CLONED,
                "Two machines use this node's identity. Join one of them anew.",
                60.0,
            )
        await self._shared.in_database(_note_link, node.id, boot_id, proof.agent_version, now)
        await self._send(
            frames.Welcome(self.session, node.name, str(node.state), int(now.timestamp() * 1e6))
        )

    async def _expect(self, kind: type[T]) -> T:
        frame = await self._frame()
        if not isinstance(frame, kind):
            raise RefusedLink(
                RefusalCode.MALFORMED, f"A {kind.__name__} was expected here. Upgrade the agent."
            )
        return frame

    # -- frames

    async def _frame(self) -> Any:
        message = await self._receive()
        if message["type"] != "websocket.receive" or self._closing:
            raise Ended
        data = message.get("bytes")
        if data is None:
            raise RefusedLink(RefusalCode.MALFORMED, "Frames are binary. Upgrade the agent.")
        if len(data) > frames.MAX_FRAME_BYTES:
            raise RefusedLink(
                RefusalCode.TOO_LARGE, f"A frame holds at most {frames.MAX_FRAME_BYTES} bytes."
            )
        try:
            frame = frames.decode_from_node(data)
        except (msgspec.DecodeError, RecursionError):
            raise RefusedLink(
                RefusalCode.MALFORMED, "This is no frame of the protocol. Upgrade the agent."
            ) from None
        if isinstance(frame, frames.Batch):
            return frame, len(data)
        return frame

    async def _take(self, frame: Any) -> None:
        if isinstance(frame, tuple):
            await self._take_batch(*frame)
        elif isinstance(frame, frames.GpuList):
            await self._take_gpu_list(frame)
        elif isinstance(frame, frames.Inventory):
            await self._take_inventory(frame)
        elif isinstance(frame, frames.NodeState):
            await self._take_state(frame)
        else:
            raise RefusedLink(
                RefusalCode.MALFORMED, "The handshake is over; this frame is out of order."
            )

    async def _take_batch(self, batch: frames.Batch, size: int) -> None:
        self._check_batch(batch)
        source = self._known()
        if batch.spool is Spool.METRICS and self._shared.disk_full:
            await self._refuse_batch(
                batch,
                RefusalCode.DISK,
                "The server's disk budget is used up: metrics are not kept now.",
                60.0,
            )
            return
        while self._flying >= MAX_IN_FLIGHT:
            self._landed.clear()
            await self._landed.wait()
        incoming = Incoming(source, source.gpu_lists, batch, size)
        self._flying += 1
        spool_id = batch.spool_id
        if not await self._shared.committer.submit(
            incoming, lambda outcome: self._done(spool_id, outcome)
        ):
            self._flying -= 1
            await self._refuse_batch(
                batch,
                RefusalCode.BUSY,
                "The database is away and the queue is full. Try again soon.",
                BUSY_RETRY_S,
            )

    def _check_batch(self, batch: frames.Batch) -> None:
        if len(batch.records) > frames.MAX_BATCH_RECORDS:
            raise RefusedLink(
                RefusalCode.TOO_LARGE, f"A batch holds at most {frames.MAX_BATCH_RECORDS} records."
            )
        if not SPOOL_ID.fullmatch(batch.spool_id):
            raise RefusedLink(
                RefusalCode.MALFORMED, "The spool id is malformed. Upgrade the agent."
            )
        if any(not 0 <= record.seq < MAX_SEQ for record in batch.records):
            raise RefusedLink(
                RefusalCode.MALFORMED, "A record number is out of range. Upgrade the agent."
            )
        self._spools.add(batch.spool_id)
        if len(self._spools) > MAX_SPOOLS:
            raise RefusedLink(
                RefusalCode.MALFORMED, "Too many spools on one connection. Upgrade the agent."
            )

    async def _refuse_batch(
        self, batch: frames.Batch, code: RefusalCode, message: str, retry_after_s: float
    ) -> None:
        ranges = to_ranges(record.seq for record in batch.records)
        await self._send_refusal(
            frames.Refusal(code, message, False, retry_after_s, batch.spool_id, ranges)
        )

    def _done(self, spool_id: str, outcome: Outcome) -> None:
        self._spawn(
            self._acknowledge(
                frames.Ack(
                    spool_id,
                    outcome.ranges,
                    outcome.rows_stored,
                    outcome.values_rejected,
                    outcome.records_quarantined,
                )
            )
        )

    async def _acknowledge(self, ack: frames.Ack) -> None:
        try:
            await self._send_safely(ack)
        finally:
            self._flying -= 1
            self._landed.set()

    async def _take_gpu_list(self, frame: frames.GpuList) -> None:
        if len(frame.uuids) > MAX_GPUS or len(self._list_uuids) >= MAX_GPU_LISTS:
            raise RefusedLink(
                RefusalCode.TOO_LARGE, "Too many GPUs or GPU lists on one connection."
            )
        self._list_uuids[frame.list_id] = frame.uuids
        await self._resolve(frame.list_id)

    async def _resolve(self, list_id: int) -> None:
        """Find the database ids of a list's GPUs; who is new gets one. A position of another node's GPU gets UNKNOWN."""
        source = self._known()
        uuids = self._list_uuids[list_id]
        in_database = self._shared.in_database
        found = await in_database(queries.gpus_by_uuid, uuids)
        if not found.keys() >= set(uuids):
            # A backlog may come before the inventory: to drop its rows and acknowledge them would be silent loss.
            now = self._shared.clock()
            await in_database(fleet_actions.adopt_gpus, source.node_id, uuids, now)
            found = await in_database(queries.gpus_by_uuid, uuids)
        mine = {gpu: pk for gpu, (pk, node_id) in found.items() if node_id == source.node_id}
        foreign = sorted(set(found) - set(mine))
        positions = np.array([mine.get(gpu, UNKNOWN) for gpu in uuids], I4)
        source.gpu_ids.update(mine)
        source.gpu_lists = {**source.gpu_lists, list_id: positions}
        if foreign:
            message = f"GPU {foreign[0]} belongs to another node. Its rows are not stored."
            await self._send_refusal(frames.Refusal(RefusalCode.FOREIGN, message, fatal=False))

    async def _take_inventory(self, frame: frames.Inventory) -> None:
        source = self._known()
        if len(frame.gpus) > MAX_GPUS:
            raise RefusedLink(RefusalCode.TOO_LARGE, f"A node has at most {MAX_GPUS} GPUs.")
        try:
            ids = await self._shared.in_database(
                fleet_actions.record_inventory, source.node_id, frame, self._shared.clock()
            )
        except ForeignGpu as error:
            raise RefusedLink(RefusalCode.FOREIGN, error.message, 60.0) from None
        except Invalid as error:
            raise RefusedLink(RefusalCode.MALFORMED, error.message) from None
        source.gpu_ids = {gpu.uuid: pk for gpu, pk in zip(frame.gpus, ids, strict=True)}
        for list_id, positions in source.gpu_lists.items():
            if (positions == UNKNOWN).any():
                await self._resolve(list_id)

    async def _take_state(self, frame: frames.NodeState) -> None:
        if len(frame.processes) > MAX_PROCESSES or len(frame.findings) > MAX_PROCESSES:
            raise RefusedLink(
                RefusalCode.TOO_LARGE, f"A node's state names at most {MAX_PROCESSES} processes."
            )
        await self._shared.in_database(
            actions.keep_node_state, self._known().node_id, frame, self._shared.clock()
        )

    def _known(self) -> Source:
        if self._source is None:
            raise RefusedLink(RefusalCode.MALFORMED, "The handshake comes first.")
        return self._source

    # -- sending and ending

    async def _send(self, frame: Any) -> None:
        await self._raw_send({"type": "websocket.send", "bytes": frames.encode(frame)})

    async def _send_refusal(self, refusal: frames.Refusal) -> None:
        meters.REFUSALS.labels(refusal.code).inc()
        await self._send(refusal)

    async def _send_safely(self, frame: Any) -> None:
        """Send, and take it as no loss if the node is gone."""
        try:
            if isinstance(frame, frames.Refusal):
                await self._send_refusal(frame)
            else:
                await self._send(frame)
        except Exception as error:  # noqa: BLE001 - each ASGI server has its own exception for a closed socket
            logger.debug("not sent, the node is gone: %s", error)

    async def _close(self) -> None:
        try:
            await self._raw_send({"type": "websocket.close", "code": 1000})
        except Exception as error:  # noqa: BLE001 - as above
            logger.debug("already closed: %s", error)

    async def _end(self) -> None:
        node_id = self.node_id
        if node_id is not None and self._shared.links.get(node_id) is self:
            del self._shared.links[node_id]
            meters.LINKS.set(len(self._shared.links))
            try:
                await self._shared.in_database(
                    sessions.release, node_id, self.session, self._shared.clock()
                )
            except RefusedLink:
                logger.debug("the end of a link was not noted: the database is away")
        for task in self._tasks:
            task.cancel()
        await self._close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def replaced() -> frames.Refusal:
    """What a connection hears when a newer one of its node came."""
    return frames.Refusal(
        RefusalCode.REPLACED, "A newer connection of this node took over.", True, 30.0
    )


def revoked() -> frames.Refusal:
    """What a connection hears when its node is no longer trusted."""
    return frames.Refusal(
        RefusalCode.REVOKED, "This node's key was revoked. Join it anew with `dcops-agent join`."
    )


def _layouts(declared: dict[str, list[tuple[str, str]]]) -> dict[int, Layout]:
    if len(declared) > 4 * len(TABLES):
        raise RefusedLink(
            RefusalCode.MALFORMED, "The agent declares too many tables. Upgrade the agent."
        )
    try:
        layouts = [read_layout(name, columns) for name, columns in declared.items()]
    except ValueError as error:
        raise RefusedLink(RefusalCode.MALFORMED, str(error)) from None
    return {layout.table.code: layout for layout in layouts if layout is not None}


def _note_link(node_id: int, boot_id: str, agent_version: str, now: datetime) -> None:
    fleet_actions.note_link(node_id, boot_id=boot_id, agent_version=agent_version, now=now)
