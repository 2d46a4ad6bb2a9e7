"""Reads of nodes and GPUs, each checked against the actor. What may not be seen and what is missing look the same."""

from dataclasses import dataclass, field
from uuid import UUID

from django.db.models import Count, Q, QuerySet
from django.utils.translation import gettext as _

from dcops.access.actor import Action, Actor, can, require
from dcops.domain.errors import NotFound
from dcops.domain.nodes import NodeState
from dcops.fleet.models import Gpu, Node


@dataclass(frozen=True, slots=True)
class NodeForLink:
    """What ingest needs to let a node in. `id` is the int4 of telemetry rows."""

    id: int
    uuid: str
    name: str
    state: NodeState
    public_key: bytes
    simulated: bool


@dataclass(frozen=True, slots=True)
class GpuSeat:
    """One cell of the fleet map."""

    id: int
    uuid: str
    index: int
    model: str
    power_limit_max_w: float | None
    memory_total_bytes: int | None


@dataclass(frozen=True, slots=True)
class NodeSeat:
    """One group of the fleet map: a node and the GPUs it holds now, by index."""

    id: int
    uuid: str
    name: str
    state: NodeState
    simulated: bool
    gpus: list[GpuSeat] = field(default_factory=list)


GPU_SEAT = ("id", "uuid", "index", "model", "power_limit_max_w", "memory_total_bytes")


def node_for_link(uuid: str) -> NodeForLink | None:
    """Return the node that claims this id, in any state, or None."""
    try:
        key = UUID(uuid)
    except ValueError:
        return None
    row = (
        Node.objects.filter(uuid=key)
        .values_list("id", "name", "state", "public_key", "simulated")
        .first()
    )
    if row is None:
        return None
    pk, name, state, public_key, simulated = row
    return NodeForLink(pk, str(key), name, NodeState(state), bytes(public_key), simulated)


def seats(actor: Actor) -> list[NodeSeat]:
    """Return every node the actor may see with its present GPUs, by name and index. Two queries at any size."""
    require(actor, Action.VIEW)
    nodes = {
        pk: NodeSeat(pk, str(uuid), name, NodeState(state), simulated)
        for pk, uuid, name, state, simulated in visible_nodes(actor)
        .exclude(state=NodeState.REVOKED)
        .values_list("id", "uuid", "name", "state", "simulated")
    }
    gpus = Gpu.objects.filter(present=True).order_by("node_id", "index", "id")
    for node_id, *gpu in gpus.values_list("node_id", *GPU_SEAT):
        if node_id in nodes:
            nodes[node_id].gpus.append(GpuSeat(*gpu))
    return list(nodes.values())


def visible_nodes(actor: Actor) -> QuerySet[Node]:
    """Return the nodes the actor may see, by name."""
    nodes = Node.objects.order_by("name")
    return nodes if can(actor, Action.VIEW) else nodes.none()


def visible_gpus(actor: Actor) -> QuerySet[Gpu]:
    """Return the GPUs the actor may see, each with its node."""
    gpus = Gpu.objects.select_related("node").order_by("node__name", "index", "id")
    return gpus if can(actor, Action.VIEW) else gpus.none()


def get_node(actor: Actor, name: str, need: Action = Action.VIEW) -> Node:
    """Return a node by name. Raises NotFound if there is none to see, Forbidden if it may be seen but not this."""
    node = visible_nodes(actor).filter(name=name).first()
    if node is None:
        raise NotFound(_("There is no such node."))
    require(actor, need, node)
    return node


def counted_node(actor: Actor, name: str) -> Node:
    """Return a node by name with `gpu_count`. Raises NotFound."""
    node = _counted(visible_nodes(actor)).filter(name=name).first()
    if node is None:
        raise NotFound(_("There is no such node."))
    return node


def _counted(nodes: QuerySet[Node]) -> QuerySet[Node]:
    return nodes.annotate(gpu_count=Count("gpus", filter=Q(gpus__present=True)))


def get_gpu(actor: Actor, uuid: str, need: Action = Action.VIEW) -> Gpu:
    """Return a GPU by UUID, with its node. Raises NotFound if there is none to see, Forbidden as get_node does."""
    gpu = visible_gpus(actor).filter(uuid=uuid).first()
    if gpu is None:
        raise NotFound(_("There is no such GPU."))
    require(actor, need, gpu.node)
    return gpu


def page_of_nodes(
    actor: Actor, *, after: str = "", limit: int, state: NodeState | None = None
) -> list[Node]:
    """Return up to `limit` nodes named after `after`, each with `gpu_count`."""
    require(actor, Action.VIEW)
    nodes = visible_nodes(actor).filter(name__gt=after)
    if state is not None:
        nodes = nodes.filter(state=state)
    return list(_counted(nodes)[:limit])


def page_of_gpus(actor: Actor, *, after: str = "", limit: int, node: str = "") -> list[Gpu]:
    """Return up to `limit` GPUs with a UUID after `after`, each with its node; of one node if named."""
    require(actor, Action.VIEW)
    gpus = visible_gpus(actor).filter(uuid__gt=after).order_by("uuid")
    if node:
        gpus = gpus.filter(node__name=node)
    return list(gpus[:limit])


def count_nodes(actor: Actor) -> dict[NodeState, int]:
    """Return how many nodes are in each state, 0 included."""
    require(actor, Action.VIEW)
    counted = Node.objects.values_list("state").annotate(count=Count("id"))
    return dict.fromkeys(NodeState, 0) | {NodeState(state): count for state, count in counted}


def count_gpus(actor: Actor) -> int:
    """Return how many GPUs are present."""
    require(actor, Action.VIEW)
    return Gpu.objects.filter(present=True).count()


def gpus_of(actor: Actor, node: Node) -> list[Gpu]:
    """Return the node's present GPUs by index."""
    return list(visible_gpus(actor).filter(node=node, present=True))
