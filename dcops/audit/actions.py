"""The one door into the audit table."""

from datetime import datetime
from ipaddress import ip_address
from typing import Any, Literal, Protocol

from django.db import transaction

from dcops.audit.models import AuditEvent


class Who(Protocol):
    """What an audit row keeps of the actor (access.actor.Actor has it; audit lies below access)."""

    @property
    def kind(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def auth_method(self) -> str: ...
    @property
    def source_ip(self) -> str: ...
    @property
    def request_id(self) -> str: ...


def record(
    actor: Who,
    action: str,
    *,
    object_type: str,
    object_id: object,
    object_name: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    decision: Literal["allowed", "denied"] = "allowed",
    reason: str = "",
    now: datetime,
) -> None:
    """Write down what is being done, in the transaction that does it: neither stands without the other.

    `before` and `after` hold what changed, as JSON, and never a secret. Raises RuntimeError outside a transaction.
    """
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError(
            f"audit.record({action!r}) needs the transaction of the change it tells of"
        )
    AuditEvent.objects.create(
        at=now,
        actor_kind=actor.kind,
        actor_id=actor.id,
        actor_name=actor.name,
        auth_method=actor.auth_method,
        source_ip=_address(actor.source_ip),
        request_id=actor.request_id,
        action=action,
        object_type=object_type,
        object_id=str(object_id),
        object_name=object_name,
        before=before,
        after=after,
        decision=decision,
        reason=reason,
    )


def _address(text: str) -> str | None:
    """Return an IP address as it is, and None for whatever a socket or a proxy may say instead."""
    try:
        return str(ip_address(text))
    except ValueError:
        return None
