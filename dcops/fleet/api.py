"""The fleet over HTTP: nodes, GPUs, trust and join tokens."""

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Path, Query, Router, Schema, Status
from pydantic import Field

from dcops import clock
from dcops.access.actor import of_request
from dcops.access.responses import Body, Text, answers
from dcops.domain.nodes import NodeState
from dcops.fleet import actions, queries

router = Router(tags=["fleet"])

Limit = Annotated[int, Query(ge=1, le=1000)]


class NodeOut(Schema):
    """A node as it stands now. `gpu_count` counts GPUs present in its last inventory."""

    name: str
    uuid: str
    state: NodeState
    state_reason: str
    state_changed_at: datetime
    simulated: bool
    enrolled_at: datetime
    last_seen_at: datetime | None
    inventory_at: datetime | None
    gpu_count: int
    hostname: str
    machine_id: str
    boot_id: str
    agent_version: str
    os: str
    kernel: str
    architecture: str
    cpu_model: str
    cpu_cores: int | None
    cpu_threads: int | None
    memory_total_bytes: int | None
    driver_version: str
    cuda_version: str
    nvml_version: str


class GpuOut(Schema):
    """A GPU as its node last described it. Units are in the names; null is unknown."""

    uuid: str
    node: str
    simulated: bool
    present: bool
    index: int
    model: str
    serial: str
    pci_bus_id: str
    vbios: str
    architecture: str
    compute_capability: str
    memory_total_bytes: int | None
    power_limit_min_w: float | None
    power_limit_max_w: float | None
    power_limit_default_w: float | None
    temperature_slowdown_c: int | None
    temperature_shutdown_c: int | None
    temperature_memory_max_c: int | None
    sm_clock_max_mhz: int | None
    memory_clock_max_mhz: int | None
    pcie_link_generation_max: int | None
    pcie_link_width_max: int | None
    ecc_enabled: bool | None
    persistence_mode: bool | None
    mig_mode: bool | None
    mig_devices: list[str]
    first_seen_at: datetime
    last_seen_at: datetime


class NodePage(Schema):
    """Nodes by name; pass `next_cursor` as `cursor` for more, null is the end."""

    items: list[NodeOut]
    next_cursor: str | None


class GpuPage(Schema):
    """GPUs by UUID; pass `next_cursor` as `cursor` for more, null is the end."""

    items: list[GpuOut]
    next_cursor: str | None


class Reason(Body):
    """Why, for the audit trail."""

    reason: Text = ""


class NewName(Body):
    """1 to 63 of a-z, 0-9 and hyphens inside."""

    new_name: Text


class JoinTokenIn(Body):
    """`node_name` binds the token to a name; a simulated hall may share one token between `uses` nodes."""

    ttl_s: int = Field(default=actions.DEFAULT_TOKEN_TTL_S, ge=1, le=actions.MAX_TOKEN_TTL_S)
    node_name: Text | None = None
    auto_approve: bool = False
    simulated: bool = False
    uses: int = Field(default=1, ge=1, le=actions.MAX_SIMULATED_USES)


class JoinTokenOut(Schema):
    """The token, shown this once."""

    token: str


def node_out(node: Any) -> NodeOut:
    """Copy a node into its API form; needs `gpu_count`."""
    fields = {name: getattr(node, name) for name in NodeOut.model_fields if name != "uuid"}
    return NodeOut(uuid=str(node.uuid), **fields)


def gpu_out(gpu: Any) -> GpuOut:
    """Copy a GPU, with its node loaded, into its API form."""
    own = {
        name: getattr(gpu, name)
        for name in GpuOut.model_fields
        if name not in ("node", "simulated")
    }
    return GpuOut(node=gpu.node.name, simulated=gpu.node.simulated, **own)


def cursor_after(rows: list[Any], limit: int, key: str) -> str | None:
    """Return where the next page starts, or None if this page is the last (`rows` has up to limit + 1)."""
    return str(getattr(rows[limit - 1], key)) if len(rows) > limit else None


@router.get("/nodes", response=answers(NodePage))
def list_nodes(
    request: HttpRequest,
    limit: Limit = 100,
    cursor: Text = "",
    state: NodeState | None = None,
) -> NodePage:
    """List nodes by name."""
    rows = queries.page_of_nodes(of_request(request), after=cursor, limit=limit + 1, state=state)
    return NodePage(
        items=[node_out(node) for node in rows[:limit]],
        next_cursor=cursor_after(rows, limit, "name"),
    )


@router.get("/nodes/{name}", response=answers(NodeOut))
def read_node(request: HttpRequest, name: Path[Text]) -> NodeOut:
    """Read one node."""
    return node_out(queries.counted_node(of_request(request), name))


@router.post("/nodes/{name}/approve", response=answers(NodeOut))
def approve(request: HttpRequest, name: Path[Text], body: Reason) -> NodeOut:
    """Let a pending or quarantined node take jobs."""
    actor = of_request(request)
    actions.approve_node(actor, name=name, reason=body.reason, now=clock.now())
    return node_out(queries.counted_node(actor, name))


@router.post("/nodes/{name}/revoke", response=answers(NodeOut))
def revoke(request: HttpRequest, name: Path[Text], body: Reason) -> NodeOut:
    """Stop trusting a node's key, for good."""
    actor = of_request(request)
    actions.revoke_node(actor, name=name, reason=body.reason, now=clock.now())
    return node_out(queries.counted_node(actor, name))


@router.post("/nodes/{name}/quarantine", response=answers(NodeOut))
def quarantine(request: HttpRequest, name: Path[Text], body: Reason) -> NodeOut:
    """Keep a node's telemetry but give it nothing to do."""
    actor = of_request(request)
    actions.quarantine_node(actor, name=name, reason=body.reason, now=clock.now())
    return node_out(queries.counted_node(actor, name))


@router.post("/nodes/{name}/rename", response=answers(NodeOut))
def rename(request: HttpRequest, name: Path[Text], body: NewName) -> NodeOut:
    """Give a node another name; its identity and history stay."""
    actor = of_request(request)
    actions.rename_node(actor, name=name, new_name=body.new_name, now=clock.now())
    return node_out(queries.counted_node(actor, body.new_name))


@router.get("/gpus", response=answers(GpuPage))
def list_gpus(
    request: HttpRequest, limit: Limit = 100, cursor: Text = "", node: Text = ""
) -> GpuPage:
    """List GPUs by UUID, of one node if named."""
    rows = queries.page_of_gpus(of_request(request), after=cursor, limit=limit + 1, node=node)
    return GpuPage(
        items=[gpu_out(gpu) for gpu in rows[:limit]],
        next_cursor=cursor_after(rows, limit, "uuid"),
    )


@router.get("/gpus/{uuid}", response=answers(GpuOut))
def read_gpu(request: HttpRequest, uuid: Path[Text]) -> GpuOut:
    """Read one GPU."""
    return gpu_out(queries.get_gpu(of_request(request), uuid))


@router.post("/join-tokens", response=answers(JoinTokenOut, status=201))
def create_join_token(request: HttpRequest, body: JoinTokenIn) -> Status[JoinTokenOut]:
    """Make a token that lets a machine join."""
    token = actions.create_join_token(
        of_request(request),
        ttl_s=body.ttl_s,
        node_name=body.node_name,
        auto_approve=body.auto_approve,
        simulated=body.simulated,
        uses=body.uses,
        now=clock.now(),
    )
    return Status(201, JoinTokenOut(token=token))
