"""The node's side of the protocol as a state machine without I/O: frames, wakes and times go in, frames and decisions come out.

One Link lives as long as the agent. `opened` begins a connection and `closed` ends it; between them `received` takes what
came and `next_output` says what to do next, one thing at a time, so that the newest record always goes first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Protocol

import msgspec

from agents.ranges import Range, RangeSet
from dcops.domain.metrics import TABLES
from dcops.wire import frames, identity
from dcops.wire.frames import RefusalCode
from dcops.wire.rows import layout

MAX_BATCH_BYTES = 256 << 10  # below MAX_FRAME_BYTES: a fresh record never waits behind much
WINDOW_BATCHES = 8  # of backlog on their way at once
FRESH_EXTRA = 8  # batches more for records newer than any sent before
GPU_LISTS_MAX = 32  # a connection may name so many; older lists are those of GPUs long gone
HANDSHAKE_S = 15.0
STALL_S = 60.0  # without any ack while batches are on their way
INVENTORY_WAIT_S = 30.0
BACKOFF_FIRST_S = 1.0
BACKOFF_LAST_S = 60.0
PAUSE_S = 10.0  # after BUSY or DISK without a time of its own
PAUSE_LONGEST_S = 300.0
HELD_S = 300.0  # before records that the server refused are tried again

# How long to stay away after a refusal that ends the connection, in seconds; the server may ask for longer.
_STAY_AWAY_S = {
    RefusalCode.PROTOCOL: 300.0,
    RefusalCode.IDENTITY: 300.0,
    RefusalCode.REVOKED: 300.0,
    RefusalCode.CLONED: 300.0,
    RefusalCode.REPLACED: 60.0,
    RefusalCode.FOREIGN: 300.0,
}
_ADVICE = {
    RefusalCode.PROTOCOL: "Upgrade the agent or the server so that both speak the same protocol.",
    RefusalCode.IDENTITY: "Join this node again with a new token: dcops-agent join.",
    RefusalCode.REVOKED: "Join this node again with a new token if it should come back.",
    RefusalCode.CLONED: "Two machines use this identity: delete the state folder on the copy and join it as a node of its own.",
    RefusalCode.REPLACED: "Another agent process uses this identity. Stop one of them.",
}


class Outbox(Protocol):
    """A lane of the spool, as far as the link needs it."""

    @property
    def next_seq(self) -> int:
        """The number of the next record."""

    @property
    def spool_id(self) -> str:
        """The id under which new records are numbered."""

    def newest(
        self, busy: Mapping[str, RangeSet], max_records: int, max_bytes: int
    ) -> tuple[str, list[frames.Record]] | None:
        """The newest records that are not busy, with consecutive numbers, ascending."""


class Journals(Protocol):
    """Both lanes."""

    @property
    def metrics(self) -> Outbox:
        """The bounded lane."""

    @property
    def events(self) -> Outbox:
        """The lane that is never dropped."""

    def acknowledge(self, spool_id: str, ranges: list[Range]) -> None:
        """The server has these."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who this node is, and which server it trusts. server_key: 32 raw bytes, checked against the pin at load."""

    node_id: str
    server_key: bytes
    boot_id: str
    agent_version: str
    simulated: bool = False

    @property
    def server_id(self) -> str:
        """The server's name for itself: the beginning of its pin."""
        return identity.pin_of(self.server_key)[:16]


@dataclass(frozen=True, slots=True)
class Send:
    """Send this frame as one binary message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Stop:
    """End the connection; `reason` is for a person."""

    reason: str


Output = Send | Stop


class _Phase(Enum):
    CLOSED = 0
    HELLO = 1
    PROOF = 2
    OPEN = 3
    STOPPING = 4


@dataclass(slots=True)
class _Flight:
    """A batch on its way: what of it is not answered yet."""

    spool_id: str
    lane: str
    left: RangeSet


@dataclass(slots=True)
class _Connection:
    """What is true only as long as one connection."""

    started_at: float
    nonce: bytes = b""
    server_nonce: bytes = b""
    opened_at: float = 0.0
    heard_at: float = 0.0
    flights: list[_Flight] = field(default_factory=list)
    busy: dict[str, RangeSet] = field(default_factory=dict)
    held: list[tuple[float, str, Range]] = field(default_factory=list)
    paused_until: dict[str, float] = field(default_factory=dict)
    newest_sent: dict[str, int] = field(default_factory=dict)
    lists_sent: set[int] = field(default_factory=set)
    inventory_sent: object = None
    state_sent: object = None


@dataclass(slots=True)
class Counts:
    """What the server answered since the agent started."""

    connections: int = 0
    batches_sent: int = 0
    records_acknowledged: int = 0
    rows_stored: int = 0
    values_rejected: int = 0
    records_quarantined: int = 0
    refusals: int = 0


class Link:
    """See the module. Times are seconds of one steady clock."""

    def __init__(
        self,
        peer: Peer,
        journals: Journals,
        *,
        sign: Callable[[bytes], bytes],
        verify: Callable[[bytes, bytes, bytes], bool],
        random_bytes: Callable[[int], bytes],
        jitter: Random,
        gpu_lists: Callable[[], Iterable[frames.GpuList]] = tuple,
    ) -> None:
        """sign: with the node's key. verify(public key, signature, message). gpu_lists: all that spooled rows may name."""
        self.inventory: frames.Inventory | None = None
        self.state: frames.NodeState | None = None
        self.welcome: frames.Welcome | None = None
        self.counts = Counts()
        self.trouble = ""
        self._peer = peer
        self._journals = journals
        self._sign = sign
        self._verify = verify
        self._random_bytes = random_bytes
        self._jitter = jitter
        self._gpu_lists = gpu_lists
        self._phase = _Phase.CLOSED
        self._queue: list[Output] = []
        self._now = _Connection(0.0)
        self._failures = 0
        self._stay_away_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the server has let this node in."""
        return self._phase is _Phase.OPEN

    # --- the life of a connection

    def opened(self, now: float) -> None:
        """A connection stands: introduce the node."""
        self._now = _Connection(now, nonce=self._random_bytes(identity.NONCE_BYTES))
        self._phase = _Phase.HELLO
        self._queue = []
        self._stay_away_s = 0.0
        self._send(frames.Hello(frames.PROTOCOL, self._peer.node_id, self._now.nonce))

    def closed(self, now: float, reason: str = "") -> float:
        """The connection, or the attempt at one, ended. Return the seconds to wait before the next."""
        stayed = self._phase in (_Phase.OPEN, _Phase.STOPPING) and self._now.opened_at > 0
        if stayed and now - self._now.opened_at > BACKOFF_LAST_S:
            self._failures = 0
        if self._phase is not _Phase.STOPPING:
            self.trouble = reason
        self._phase = _Phase.CLOSED
        self._now = _Connection(now)
        self._queue = []
        ceiling = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2 ** min(self._failures, 10))
        self._failures += 1
        # Full jitter, so that a thousand nodes do not come back in step.
        return self._stay_away_s * self._jitter.uniform(1.0, 1.2) + self._jitter.uniform(
            0, ceiling
        )

    def received(self, data: bytes, now: float) -> None:
        """Take one message from the server."""
        if self._phase in (_Phase.CLOSED, _Phase.STOPPING):
            return
        self._now.heard_at = now
        try:
            frame = frames.decode_from_server(data)
        except msgspec.MsgspecError as error:
            self._stop(f"The server sent a message that this agent cannot read ({error}).")
            return
        match frame:
            case frames.Refusal():
                self._on_refusal(frame, now)
            case frames.Challenge() if self._phase is _Phase.HELLO:
                self._on_challenge(frame)
            case frames.Welcome() if self._phase is _Phase.PROOF:
                self._on_welcome(frame, now)
            case frames.Ack() if self._phase is _Phase.OPEN:
                self._on_ack(frame)
            case _:
                self._stop(f"The server sent {type(frame).__name__} out of turn.")

    def next_output(self, now: float) -> Output | None:
        """What to do now; None means wait for a message, a wake, or `deadline`. Raises OSError if the spool cannot be read."""
        if self._queue:
            return self._queue.pop(0)
        if (
            self._phase in (_Phase.HELLO, _Phase.PROOF)
            and now >= self._now.started_at + HANDSHAKE_S
        ):
            self._stop("The server did not answer in time.")
        elif self._phase is _Phase.OPEN:
            self._go_on(now)
        return self._queue.pop(0) if self._queue else None

    def deadline(self) -> float | None:
        """When to ask for the next output at the latest, if nothing happens before."""
        if self._phase in (_Phase.HELLO, _Phase.PROOF):
            return self._now.started_at + HANDSHAKE_S
        if self._phase is not _Phase.OPEN:
            return None
        times = [until for until, _, _ in self._now.held] + list(self._now.paused_until.values())
        if self._now.flights:
            times.append(self._now.heard_at + STALL_S)
        if self.inventory is None:
            times.append(self._now.opened_at + INVENTORY_WAIT_S)
        return min(times, default=None)

    # --- handshake

    def _on_challenge(self, challenge: frames.Challenge) -> None:
        peer, nonce = self._peer, self._now.nonce
        transcript = identity.server_transcript(
            nonce, challenge.nonce, challenge.server_id, peer.node_id
        )
        if challenge.server_id != peer.server_id or not self._verify(
            peer.server_key, challenge.signature, transcript
        ):
            self._stay_away_s = _STAY_AWAY_S[RefusalCode.IDENTITY]
            self._stop(
                "This is not the server that the node joined: its signature does not fit. "
                "If the server was set up anew, join this node again with a new token."
            )
            return
        if challenge.protocol != frames.PROTOCOL:
            self._stay_away_s = _STAY_AWAY_S[RefusalCode.PROTOCOL]
            self._stop(
                f"The server speaks protocol {challenge.protocol}, this agent {frames.PROTOCOL}. "
                + _ADVICE[RefusalCode.PROTOCOL]
            )
            return
        signature = self._sign(
            identity.node_transcript(
                nonce, challenge.nonce, challenge.server_id, peer.node_id, peer.boot_id
            )
        )
        layouts = {table.name: layout(table) for table in TABLES}
        self._phase = _Phase.PROOF
        self._send(
            frames.Proof(signature, peer.boot_id, peer.agent_version, layouts, peer.simulated)
        )

    def _on_welcome(self, welcome: frames.Welcome, now: float) -> None:
        self.welcome = welcome
        self.trouble = ""
        self.counts.connections += 1
        self._phase = _Phase.OPEN
        self._now.opened_at = self._now.heard_at = now

    # --- answers

    def _on_ack(self, ack: frames.Ack) -> None:
        self.counts.rows_stored += ack.rows_stored
        self.counts.values_rejected += ack.values_rejected
        self.counts.records_quarantined += ack.records_quarantined
        # Only what was sent on this connection counts: nothing else can make the agent forget a record.
        accepted = self._land(ack.spool_id, ack.ranges)
        if accepted:
            self._failures = 0
            self.counts.records_acknowledged += accepted.count()
            self._journals.acknowledge(ack.spool_id, list(accepted))
            for first, last in accepted:
                self._now.busy[ack.spool_id].remove(first, last)

    def _land(self, spool_id: str, ranges: Sequence[Range]) -> RangeSet:
        """Take these numbers out of the batches on their way; return those that were."""
        landed = RangeSet()
        for flight in self._now.flights:
            if flight.spool_id != spool_id:
                continue
            for first, last in ranges:
                for part in list(flight.left.within(first, last)):
                    landed.add(*part)
                    flight.left.remove(*part)
        self._now.flights = [flight for flight in self._now.flights if flight.left]
        return landed

    def _on_refusal(self, refusal: frames.Refusal, now: float) -> None:
        self.counts.refusals += 1
        advice = _ADVICE.get(refusal.code, "")
        self.trouble = f"{refusal.message} {advice}".strip()
        if refusal.fatal or self._phase is not _Phase.OPEN:
            self._stay_away_s = max(_STAY_AWAY_S.get(refusal.code, 0.0), refusal.retry_after_s)
            self._stop(self.trouble)
            return
        landed = self._land(refusal.spool_id, refusal.ranges)
        if refusal.code in (RefusalCode.BUSY, RefusalCode.DISK):
            self._pause(refusal, now)
            for first, last in landed:
                self._now.busy[refusal.spool_id].remove(first, last)
        else:
            until = now + max(HELD_S, refusal.retry_after_s)
            self._now.held += [(until, refusal.spool_id, part) for part in landed]

    def _pause(self, refusal: frames.Refusal, now: float) -> None:
        lasts_s = min(refusal.retry_after_s or PAUSE_S, PAUSE_LONGEST_S)
        until = now + lasts_s * self._jitter.uniform(1.0, 1.2)
        self._now.paused_until["metrics"] = until
        if refusal.code is RefusalCode.BUSY:
            self._now.paused_until["events"] = until

    # --- sending

    def _send(self, frame: frames.FromNode) -> None:
        self._queue.append(Send(frames.encode(frame)))

    def _stop(self, reason: str) -> None:
        self.trouble = reason
        self._phase = _Phase.STOPPING
        self._queue = [Stop(reason)]

    def _go_on(self, now: float) -> None:
        if self._now.flights and now >= self._now.heard_at + STALL_S:
            self._stop("The server has stopped answering.")
            return
        self._release(now)
        if self._announce():
            return
        if self._send_batch(frames.Spool.EVENTS, self._journals.events, now):
            return
        if self.inventory is not None or now >= self._now.opened_at + INVENTORY_WAIT_S:
            self._send_batch(frames.Spool.METRICS, self._journals.metrics, now)

    def _release(self, now: float) -> None:
        """Let go of what was held or paused until now."""
        for until, spool_id, (first, last) in self._now.held:
            if until <= now:
                self._now.busy[spool_id].remove(first, last)
        self._now.held = [held for held in self._now.held if held[0] > now]
        paused = self._now.paused_until
        self._now.paused_until = {lane: until for lane, until in paused.items() if until > now}

    def _announce(self) -> bool:
        """Send one thing that rows refer to, or that is newer than what the server knows."""
        current = self._now
        if self.inventory is not None and current.inventory_sent is not self.inventory:
            current.inventory_sent = self.inventory
            self._send(self.inventory)
            return True
        for gpu_list in [*self._gpu_lists()][-GPU_LISTS_MAX:]:
            if gpu_list.list_id not in current.lists_sent:
                current.lists_sent.add(gpu_list.list_id)
                self._send(gpu_list)
                return True
        if self.state is not None and current.state_sent is not self.state:
            current.state_sent = self.state
            self._send(self.state)
            return True
        return False

    def _send_batch(self, lane: frames.Spool, outbox: Outbox, now: float) -> bool:
        if lane in self._now.paused_until or not self._has_room(lane, outbox):
            return False
        found = outbox.newest(self._now.busy, frames.MAX_BATCH_RECORDS, MAX_BATCH_BYTES)
        if found is None:
            return False
        spool_id, records = found
        first, last = records[0].seq, records[-1].seq
        if not self._now.flights:
            self._now.heard_at = now  # the time to answer begins now
        self._now.flights.append(_Flight(spool_id, lane, RangeSet([(first, last)])))
        self._now.busy.setdefault(spool_id, RangeSet()).add(first, last)
        if spool_id == outbox.spool_id:
            self._now.newest_sent[lane] = max(last, self._now.newest_sent.get(lane, -1))
        self.counts.batches_sent += 1
        self._send(frames.Batch(lane, spool_id, records))
        return True

    def _has_room(self, lane: frames.Spool, outbox: Outbox) -> bool:
        under_way = sum(flight.lane == lane for flight in self._now.flights)
        fresh = outbox.next_seq - 1 > self._now.newest_sent.get(lane, -1)
        return under_way < WINDOW_BATCHES + (FRESH_EXTRA if fresh else 0)
