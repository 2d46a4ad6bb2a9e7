"""Writes of the fleet: tokens, joining, trust, names, inventories. Each is one transaction with its audit row."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils.translation import gettext as _

from dcops import live
from dcops.access import serverkey
from dcops.access.actor import Action, Actor, require
from dcops.access.credentials import digest, issue
from dcops.audit import actions as audit
from dcops.domain.errors import Conflict, Invalid, NotFound
from dcops.domain.nodes import MOVES, NodeState, Verb, is_name, name_from_host, numbered
from dcops.fleet import queries
from dcops.fleet.enrol import clean, read_public_key
from dcops.fleet.errors import ForeignGpu, JoinRefused
from dcops.fleet.models import Gpu, JoinToken, Node
from dcops.wire.frames import GpuIdentity, HostIdentity, Inventory, RefusalCode
from dcops.wire.identity import JoinAnswer, JoinRequest
from dcops.wire.identity import JoinToken as TokenText

DEFAULT_TOKEN_TTL_S = 300
MAX_TOKEN_TTL_S = 1800
MAX_SIMULATED_USES = 10_000
MAX_NODE_GPUS = 1024
GPU_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,95}")
JOIN_ATTEMPTS = 5
HOLDS_FOR = timedelta(seconds=60)


# -- tokens -------------------------------------------------------------------------------------------------------


def create_join_token(
    actor: Actor,
    *,
    ttl_s: int = DEFAULT_TOKEN_TTL_S,
    node_name: str | None = None,
    auto_approve: bool = False,
    uses: int = 1,
    simulated: bool = False,
    now: datetime,
) -> str:
    """Make a token that lets a machine join and return its text, which is shown this once.

    `node_name` binds it to a name; naming a node that exists gives that node a new key. Raises Forbidden or Invalid.
    """
    require(actor, Action.ADMINISTER)
    _check_token(ttl_s=ttl_s, node_name=node_name, uses=uses, simulated=simulated)
    key = serverkey.load(settings.SERVER_KEY_FILE)
    issued = issue()
    with transaction.atomic():
        token = JoinToken.objects.create(
            id=issued.id,
            secret_sha256=issued.sha256,
            node_name=node_name or "",
            auto_approve=auto_approve,
            simulated=simulated,
            uses_left=uses,
            created_at=now,
            created_by=actor.name,
            expires_at=now + timedelta(seconds=ttl_s),
        )
        audit.record(
            actor,
            "join_token.create",
            object_type="join_token",
            object_id=token.id,
            object_name=token.node_name,
            after={
                "ttl_s": ttl_s,
                "auto_approve": auto_approve,
                "uses": uses,
                "simulated": simulated,
            },
            now=now,
        )
    return str(TokenText(key.pin, issued.id, issued.secret))


def _check_token(*, ttl_s: int, node_name: str | None, uses: int, simulated: bool) -> None:
    if not 1 <= ttl_s <= MAX_TOKEN_TTL_S:
        raise Invalid(
            _("A join token lives 1 to %(max)s seconds.") % {"max": MAX_TOKEN_TTL_S}, field="ttl_s"
        )
    if uses != 1 and not (simulated and 1 <= uses <= MAX_SIMULATED_USES):
        raise Invalid(
            _("A join token is for one node. Only a simulated hall may share one."), field="uses"
        )
    if node_name and not is_name(node_name):
        raise Invalid(_name_rule(), field="node_name")
    if node_name and uses != 1:
        raise Invalid(_("A token for several nodes cannot name one."), field="node_name")


def _name_rule() -> str:
    return _("A node name has 1 to 63 of a-z, 0-9 and hyphens inside.")


# -- joining ------------------------------------------------------------------------------------------------------


def join_node(request: JoinRequest, *, source_ip: str, now: datetime) -> JoinAnswer:
    """Bind the machine's key to a node, using up its token. A repeated request (its reply was lost) gets the same answer.

    Raises JoinRefused; the token stays good unless the machine is in.
    """
    public_key = read_public_key(request.public_key)
    for _attempt in range(JOIN_ATTEMPTS):
        try:
            with transaction.atomic():
                return _join(request, public_key, source_ip, now)
        except IntegrityError:  # another machine took the same free name meanwhile
            continue
    raise JoinRefused(
        RefusalCode.BUSY, _("Other machines join with the same name just now. Try again.")
    )


def _join(request: JoinRequest, public_key: bytes, source_ip: str, now: datetime) -> JoinAnswer:
    known = Node.objects.filter(public_key=public_key).select_related("join_token").first()
    if known is not None:
        return _answer_again(known, request, now)
    token = _use_up(request, now)
    if token.simulated != request.simulated:
        raise JoinRefused(
            RefusalCode.TOKEN,
            _("Simulated nodes need a token made for a simulated hall, real ones another."),
        )
    state = NodeState.APPROVED if token.auto_approve else NodeState.PENDING
    bound = Node.objects.filter(name=token.node_name).first() if token.node_name else None
    node = _rekey(bound, token) if bound else Node(name=_free_name(token, request.hostname))
    before = {"state": bound.state} if bound else None
    node.state = state
    node.state_reason = ""
    node.state_changed_at = node.enrolled_at = now
    node.simulated = token.simulated
    node.public_key = public_key
    node.join_token = token
    node.hostname, node.machine_id = clean(request.hostname), clean(request.machine_id)
    node.save()
    audit.record(
        Actor("node", str(node.uuid), node.name, auth_method="join token", source_ip=source_ip),
        "node.rejoin" if bound else "node.join",
        object_type="node",
        object_id=node.uuid,
        object_name=node.name,
        before=before,
        after={"state": state, "join_token": token.id, "simulated": node.simulated},
        now=now,
    )
    live.publish_on_commit(live.NodeChanged(str(node.uuid)))
    return _answer(node)


def _answer(node: Node) -> JoinAnswer:
    return JoinAnswer(str(node.uuid), node.name, str(node.state))


def _answer_again(node: Node, request: JoinRequest, now: datetime) -> JoinAnswer:
    token = node.join_token
    if (token.id, bytes(token.secret_sha256)) != (request.token_id, digest(request.secret)):
        raise JoinRefused(
            RefusalCode.IDENTITY,
            _(
                "This key already belongs to a node. Remove the agent's state directory to join anew."
            ),
        )
    if token.expires_at <= now or node.state == NodeState.REVOKED:
        raise _bad_token()
    return _answer(node)


def _bad_token() -> JoinRefused:
    # One sentence for unknown, used and expired: whoever guesses learns nothing.
    return JoinRefused(
        RefusalCode.TOKEN,
        _("This join token is unknown, used or expired. Make a new one with `dcops node token`."),
    )


def _use_up(request: JoinRequest, now: datetime) -> JoinToken:
    """Take one use of the token. Of any number of requests at once, only as many as it has uses get past here."""
    taken = JoinToken.objects.filter(
        id=request.token_id,
        secret_sha256=digest(request.secret),
        uses_left__gt=0,
        expires_at__gt=now,
    ).update(uses_left=F("uses_left") - 1, used_at=now)
    if taken != 1:
        raise _bad_token()
    return JoinToken.objects.get(id=request.token_id)


def _rekey(node: Node, token: JoinToken) -> Node:
    if node.simulated != token.simulated:
        raise JoinRefused(
            RefusalCode.TOKEN, _("A simulated and a real node cannot take each other's name.")
        )
    return node


def _free_name(token: JoinToken, hostname: str) -> str:
    """Return the bound name, or the host's, numbered where others have it already."""
    wanted = token.node_name or name_from_host(hostname)
    taken = set(Node.objects.filter(name__startswith=wanted[:50]).values_list("name", flat=True))
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = numbered(wanted, number)
    return name


# -- trust and names ----------------------------------------------------------------------------------------------


def approve_node(actor: Actor, *, name: str, reason: str = "", now: datetime) -> Node:
    """Let a pending or quarantined node take jobs. Raises NotFound, Forbidden, Conflict."""
    node = queries.get_node(actor, name, need=Action.ADMINISTER)
    return _move(actor, node, Verb.APPROVE, reason, now)


def revoke_node(actor: Actor, *, name: str, reason: str = "", now: datetime) -> Node:
    """Stop trusting a node's key, for good; ingest ends its link within seconds. Raises NotFound, Forbidden, Conflict."""
    node = queries.get_node(actor, name, need=Action.ADMINISTER)
    return _move(actor, node, Verb.REVOKE, reason, now)


def quarantine_node(actor: Actor, *, name: str, reason: str, now: datetime) -> Node:
    """Keep a node's telemetry but give it nothing to do. Raises NotFound, Forbidden, Conflict."""
    node = queries.get_node(actor, name, need=Action.OPERATE)
    return _move(actor, node, Verb.QUARANTINE, reason, now)


def _move(actor: Actor, node: Node, verb: Verb, reason: str, now: datetime) -> Node:
    sources, target = MOVES[verb]
    with transaction.atomic():
        before = NodeState(node.state)
        if before not in sources or not _update_state(node, before, target, reason, now):
            raise Conflict(
                _("%(node)s is %(state)s now. Look at it again before you decide.")
                % {"node": node.name, "state": Node.objects.get(pk=node.pk).state}
            )
        audit.record(
            actor,
            f"node.{verb}",
            object_type="node",
            object_id=node.uuid,
            object_name=node.name,
            before={"state": before},
            after={"state": target},
            reason=reason,
            now=now,
        )
        live.publish_on_commit(live.NodeChanged(str(node.uuid)))
    node.state, node.state_reason, node.state_changed_at = target, reason, now
    return node


def _update_state(
    node: Node, before: NodeState, target: NodeState, reason: str, now: datetime
) -> bool:
    guarded = Node.objects.filter(pk=node.pk, state=before)
    return guarded.update(state=target, state_reason=reason, state_changed_at=now) == 1


def rename_node(actor: Actor, *, name: str, new_name: str, now: datetime) -> Node:
    """Give a node another name; its identity and history stay. Raises NotFound, Forbidden, Invalid, Conflict."""
    node = queries.get_node(actor, name, need=Action.OPERATE)
    if not is_name(new_name):
        raise Invalid(_name_rule(), field="new_name")
    try:
        with transaction.atomic():
            if Node.objects.filter(pk=node.pk, name=name).update(name=new_name) != 1:
                raise NotFound(_("There is no such node."))
            audit.record(
                actor,
                "node.rename",
                object_type="node",
                object_id=node.uuid,
                object_name=new_name,
                before={"name": name},
                after={"name": new_name},
                now=now,
            )
            live.publish_on_commit(live.NodeChanged(str(node.uuid)))
    except IntegrityError:
        raise Conflict(_("Another node has that name. Choose a different one.")) from None
    node.name = new_name
    return node


# -- what agents report -------------------------------------------------------------------------------------------


def note_link(node_id: int, *, boot_id: str, agent_version: str, now: datetime) -> None:
    """Remember a new link of a node. A fact the agent states, not a decision: no audit row."""
    Node.objects.filter(pk=node_id).update(
        boot_id=clean(boot_id), agent_version=clean(agent_version), last_seen_at=now
    )


def note_alive(node_ids: Iterable[int], now: datetime) -> None:
    """Remember that these nodes have a link now; ingest says so every 20 s or oftener, for all its links at once."""
    Node.objects.filter(pk__in=list(node_ids)).update(last_seen_at=now)


def record_inventory(node_id: int, inventory: Inventory, now: datetime) -> list[int]:
    """Store what the node is and return its GPUs' int4 ids, in the inventory's order. Writes an audit row on change.

    A GPU that another node held moves here, unless that node was seen within HOLDS_FOR: then ForeignGpu, and nothing is
    stored. Raises Invalid for a list that names one UUID twice.
    """
    uuids = [gpu.uuid for gpu in inventory.gpus]
    if len(set(uuids)) != len(uuids) or not all(GPU_UUID.fullmatch(uuid) for uuid in uuids):
        raise Invalid(_("The inventory names a GPU twice or without a proper UUID."), field="gpus")
    try:
        return _record_inventory(node_id, inventory, uuids, now)
    except (
        IntegrityError
    ):  # another node brought the same new GPU meanwhile: now its row is there to judge
        return _record_inventory(node_id, inventory, uuids, now)


@transaction.atomic
def _record_inventory(
    node_id: int, inventory: Inventory, uuids: list[str], now: datetime
) -> list[int]:
    """Most inventories say nothing new (a link came back), so only what differs is written, in six statements at most."""
    node = Node.objects.select_for_update().get(pk=node_id)
    named_or_here = Q(uuid__in=uuids) | Q(node=node, present=True)
    locked = Gpu.objects.select_for_update(of=("self",)).select_related("node")
    gpus = {gpu.uuid: gpu for gpu in locked.filter(named_or_here).order_by("uuid")}
    here = sorted(gpu.uuid for gpu in gpus.values() if gpu.present and gpu.node_id == node.pk)
    for uuid in uuids:
        _check_move(gpus.get(uuid), node, now)
    change = Change()
    if here != sorted(uuids):
        change.note("gpus", here, sorted(uuids))
        Gpu.objects.filter(pk__in=[gpus[uuid].pk for uuid in here]).update(present=False)
    for identity in inventory.gpus:
        _store_gpu(gpus, identity, node, change, now)
    Gpu.objects.filter(uuid__in=uuids).update(node=node, present=True, last_seen_at=now)
    _store_host(node, inventory.host, change, now)
    if change:
        _record_inventory_change(node, change, now)
    return [gpus[uuid].pk for uuid in uuids]


def adopt_gpus(node_id: int, uuids: list[str], now: datetime) -> None:
    """Give GPUs that nobody knows a row, so that samples of them can be stored before their inventory comes.

    An agent that was started again during an outage sends its backlog before it has asked its GPUs who they are. Not present
    until an inventory of some node names them; a node holds at most MAX_NODE_GPUS rows, and what is beyond is left out.
    """
    with transaction.atomic():
        node = Node.objects.select_for_update().get(pk=node_id)
        known = set(Gpu.objects.filter(uuid__in=uuids).values_list("uuid", flat=True))
        room = MAX_NODE_GPUS - Gpu.objects.filter(node=node).count()
        new = [
            Gpu(
                uuid=uuid,
                index=index,
                node=node,
                present=False,
                first_seen_at=now,
                last_seen_at=now,
            )
            for index, uuid in enumerate(uuids)
            if uuid not in known and GPU_UUID.fullmatch(uuid)
        ][: max(room, 0)]
        Gpu.objects.bulk_create(new, ignore_conflicts=True)
        if new:
            change = Change()
            change.note("gpus without inventory", [], [gpu.uuid for gpu in new])
            _record_inventory_change(node, change, now)


def _check_move(gpu: Gpu | None, node: Node, now: datetime) -> None:
    if gpu is None or gpu.node_id == node.pk or not gpu.present:
        return
    holder = gpu.node
    if holder.state == NodeState.REVOKED or holder.last_seen_at is None:
        return
    if now - holder.last_seen_at < HOLDS_FOR:
        raise ForeignGpu(
            _("GPU %(uuid)s belongs to %(holder)s, which is connected now.")
            % {"uuid": gpu.uuid, "holder": holder.name},
            uuid=gpu.uuid,
            holder=holder.name,
        )


@dataclass(slots=True)
class Change:
    """What an inventory changes, as an audit row tells it: the same keys before and after."""

    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    def note(self, key: str, before: Any, after: Any) -> None:
        """Add one thing that differs."""
        self.before[key], self.after[key] = before, after

    def __bool__(self) -> bool:
        return bool(self.after)


def _assign(
    row: Node | Gpu, said: HostIdentity | GpuIdentity
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Set on the row what was said, cleaned. Returns the fields that differ, before and after."""
    values = {name: clean(value) for name, value in msgspec.structs.asdict(said).items()}
    before = {name: getattr(row, name) for name in values if getattr(row, name) != values[name]}
    after = {name: values[name] for name in before}
    for name, value in after.items():
        setattr(row, name, value)
    return before, after


def _store_gpu(
    gpus: dict[str, Gpu], identity: GpuIdentity, node: Node, change: Change, now: datetime
) -> None:
    gpu = gpus.get(identity.uuid)
    if gpu is None:
        gpu = gpus[identity.uuid] = Gpu(node=node, first_seen_at=now, last_seen_at=now)
        _assign(gpu, identity)
        gpu.save(force_insert=True)
        return
    before, after = _assign(gpu, identity)
    if gpu.node_id != node.pk:
        before["node"], after["node"] = gpu.node.name, node.name
        gpu.node = node
    if after:
        gpu.save(update_fields=list(after))
        change.note(gpu.uuid, before, after)


def _store_host(node: Node, host: HostIdentity, change: Change, now: datetime) -> None:
    before, after = _assign(node, host)
    if after:
        change.note("host", before, after)
    node.inventory_at = node.last_seen_at = now
    node.save(update_fields=[*after, "inventory_at", "last_seen_at"])


def _record_inventory_change(node: Node, change: Change, now: datetime) -> None:
    audit.record(
        Actor("node", str(node.uuid), node.name, auth_method="node key"),
        "node.inventory",
        object_type="node",
        object_id=node.uuid,
        object_name=node.name,
        before=change.before,
        after=change.after,
        now=now,
    )
    live.publish_on_commit(live.NodeChanged(str(node.uuid)))
