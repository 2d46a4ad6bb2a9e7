"""The frames on the one WebSocket between a node and the server: msgpack arrays, first element the tag.

A connection runs: Hello -> Challenge -> Proof -> Welcome, then GpuList/Inventory/NodeState/Batch one way and Ack
the other. A Refusal may answer anything; `fatal` says whether the connection ends with it.

A frame may gain trailing optional fields within one PROTOCOL; anything else raises PROTOCOL.
"""

from enum import StrEnum
from typing import TypeVar

import msgspec

PROTOCOL = 1
LINK_PATH = "/agent/v1/link"
JOIN_PATH = "/agent/v1/join"
IDENTITY_PATH = "/agent/v1/identity"

# What one WebSocket message, one batch and one record may hold. The server refuses more; the agent never sends more.
MAX_FRAME_BYTES = 1 << 20
MAX_BATCH_RECORDS = 2048
MAX_RECORD_BYTES = 256 << 10


class Spool(StrEnum):
    """Events are never dropped; metrics are bounded and give way oldest first, each loss recorded as a Gap."""

    METRICS = "metrics"
    EVENTS = "events"


class RefusalCode(StrEnum):
    """Why the server will not take something. The agent acts on the code and shows the message."""

    PROTOCOL = "protocol"  # versions do not meet: upgrade one side
    IDENTITY = "identity"  # unknown node, wrong signature
    REVOKED = "revoked"  # this node's key is no longer trusted
    CLONED = "cloned"  # two machines use one identity
    REPLACED = "replaced"  # a newer connection of the same node took over
    MALFORMED = "malformed"  # not a frame, or out of order
    TOO_LARGE = "too_large"
    FOREIGN = "foreign"  # claims what belongs to another node
    BUSY = "busy"  # try again after `retry_after_s`
    DISK = "disk"  # the server keeps no metrics now; events are still taken
    TOKEN = "token"  # noqa: S105 - a code, not a secret. Join: unknown, used or expired token


class Hello(msgspec.Struct, array_like=True, tag="hello", frozen=True):
    """The node opens: who it says it is, and 32 random bytes the server must sign."""

    protocol: int
    node_id: str
    nonce: bytes


class Challenge(msgspec.Struct, array_like=True, tag="challenge", frozen=True):
    """The server proves itself (see identity.server_transcript) and asks for the same."""

    protocol: int
    server_id: str
    nonce: bytes
    signature: bytes


class Proof(msgspec.Struct, array_like=True, tag="proof", frozen=True):
    """The node's Ed25519 signature over identity.node_transcript, and what it will speak.

    layouts: table name -> the (metric name, column type) pairs of its rows, in order.
    """

    signature: bytes
    boot_id: str
    agent_version: str
    layouts: dict[str, list[tuple[str, str]]]
    simulated: bool = False


class Welcome(msgspec.Struct, array_like=True, tag="welcome", frozen=True):
    """The node is in. `intervals_s` maps table name -> seconds between samples the server wishes for ({} keeps the agent's)."""

    session: str
    node_name: str
    state: str
    clock_us: int
    intervals_s: dict[str, float] = {}


class Refusal(msgspec.Struct, array_like=True, tag="refusal", frozen=True):
    """A typed no, with a sentence for a person. Not fatal: the connection goes on."""

    code: RefusalCode
    message: str
    fatal: bool = True
    retry_after_s: float = 0.0
    spool_id: str = ""
    ranges: list[tuple[int, int]] = []


class GpuList(msgspec.Struct, array_like=True, tag="gpus", frozen=True):
    """Names the GPUs that rows refer to by position. Sent before the first batch that uses it."""

    list_id: int
    uuids: list[str]


class GpuIdentity(msgspec.Struct, array_like=True, frozen=True):
    """What does not change while the driver is loaded. Unknown is None or empty."""

    uuid: str
    index: int
    model: str
    serial: str = ""
    pci_bus_id: str = ""
    vbios: str = ""
    architecture: str = ""
    compute_capability: str = ""
    memory_total_bytes: int | None = None
    power_limit_min_w: float | None = None
    power_limit_max_w: float | None = None
    power_limit_default_w: float | None = None
    temperature_slowdown_c: int | None = None
    temperature_shutdown_c: int | None = None
    temperature_memory_max_c: int | None = None
    sm_clock_max_mhz: int | None = None
    memory_clock_max_mhz: int | None = None
    pcie_link_generation_max: int | None = None
    pcie_link_width_max: int | None = None
    ecc_enabled: bool | None = None
    persistence_mode: bool | None = None
    mig_mode: bool | None = None
    mig_devices: list[str] = []
    details: dict[str, str] = {}


class HostIdentity(msgspec.Struct, array_like=True, frozen=True):
    """What the machine is."""

    hostname: str
    machine_id: str = ""
    os: str = ""
    kernel: str = ""
    architecture: str = ""
    cpu_model: str = ""
    cpu_cores: int | None = None
    cpu_threads: int | None = None
    memory_total_bytes: int | None = None
    driver_version: str = ""
    cuda_version: str = ""
    nvml_version: str = ""
    details: dict[str, str] = {}


class Inventory(msgspec.Struct, array_like=True, tag="inventory", frozen=True):
    """The node as found at start or after a change."""

    host: HostIdentity
    gpus: list[GpuIdentity]


class GpuProcess(msgspec.Struct, array_like=True, frozen=True):
    """A process holding memory on a GPU."""

    gpu_uuid: str
    pid: int
    name: str
    user: str = ""
    memory_used_bytes: int | None = None
    kind: str = "compute"


class Finding(msgspec.Struct, array_like=True, frozen=True):
    """One line of `dcops-agent doctor`: what can or cannot be read, and why."""

    subject: str
    status: str  # ok, missing, denied, failed
    message: str


class NodeState(msgspec.Struct, array_like=True, tag="state", frozen=True):
    """Level-triggered state: the latest one counts, none is kept."""

    at_us: int
    processes: list[GpuProcess]
    findings: list[Finding]


class Record(msgspec.Struct, array_like=True, frozen=True):
    """One spool record: its number in the spool, CRC-32 of the payload, the payload (rows.py, or a list of Event | Gap)."""

    seq: int
    crc32: int
    payload: bytes


class Batch(msgspec.Struct, array_like=True, tag="batch", frozen=True):
    """Records of one spool, any order. Acknowledged record by record, by range."""

    spool: Spool
    spool_id: str
    records: list[Record]


class Ack(msgspec.Struct, array_like=True, tag="ack", frozen=True):
    """These records are committed, or were before, or stand in quarantine: the agent may forget them. Ranges are inclusive."""

    spool_id: str
    ranges: list[tuple[int, int]]
    rows_stored: int = 0
    values_rejected: int = 0
    records_quarantined: int = 0


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Event(msgspec.Struct, array_like=True, tag="event", frozen=True):
    """Something that happened once. `key` is the same for the same happening seen by two sources."""

    at_us: int
    kind: str  # xid, ecc, clock, driver, gpu_lost, collector, kernel, agent, ...
    severity: Severity
    message: str
    key: str
    code: int | None = None
    gpu_uuid: str = ""
    source: str = ""


class Gap(msgspec.Struct, array_like=True, tag="gap", frozen=True):
    """Records first_seq..last_seq (inclusive) of a spool are lost for good, and why. Times may be unknown (0)."""

    spool_id: str
    first_seq: int
    last_seq: int
    first_at_us: int
    last_at_us: int
    reason: str


FromNode = Hello | Proof | GpuList | Inventory | NodeState | Batch
FromServer = Challenge | Welcome | Refusal | Ack
Happening = Event | Gap

Decoded = TypeVar("Decoded")
_encoder = msgspec.msgpack.Encoder()
_from_node: msgspec.msgpack.Decoder[FromNode] = msgspec.msgpack.Decoder(FromNode)
_from_server: msgspec.msgpack.Decoder[FromServer] = msgspec.msgpack.Decoder(FromServer)
_happenings: msgspec.msgpack.Decoder[list[Happening]] = msgspec.msgpack.Decoder(list[Happening])


def encode(frame: FromNode | FromServer) -> bytes:
    """Encode one frame."""
    return _encoder.encode(frame)


def decode_from_node(data: bytes) -> FromNode:
    """Decode what a node sent. Raises msgspec.DecodeError (ValidationError is one)."""
    return _decoded(_from_node, data)


def decode_from_server(data: bytes) -> FromServer:
    """Decode what the server sent. Raises msgspec.DecodeError (ValidationError is one)."""
    return _decoded(_from_server, data)


def encode_happenings(happenings: list[Event | Gap]) -> bytes:
    """Encode the payload of one record of the events spool."""
    return _encoder.encode(happenings)


def decode_happenings(data: bytes) -> list[Event | Gap]:
    """Decode the payload of one record of the events spool. Raises msgspec.DecodeError (ValidationError is one)."""
    return _decoded(_happenings, data)


def _decoded(decoder: msgspec.msgpack.Decoder[Decoded], data: bytes) -> Decoded:
    try:
        return decoder.decode(data)
    except UnicodeDecodeError as error:  # the one failure msgspec does not wrap
        raise msgspec.DecodeError("a text field is not UTF-8") from error
