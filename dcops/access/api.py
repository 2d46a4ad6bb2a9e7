"""People and their tokens, and the audit trail, over HTTP."""

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Query, Router, Schema

from dcops.access import queries
from dcops.access.actor import of_request
from dcops.access.responses import answers

router = Router(tags=["access"])

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[int, Query(ge=1, le=2**63 - 1)]


class AuditOut(Schema):
    """One thing that was done or refused."""

    id: int
    at: datetime
    actor_kind: str
    actor_id: str
    actor_name: str
    auth_method: str
    source_ip: str | None
    request_id: str
    action: str
    object_type: str
    object_id: str
    object_name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    decision: str
    reason: str


class AuditPage(Schema):
    """Newest first; pass `next_cursor` as `cursor` for older ones, null is the end."""

    items: list[AuditOut]
    next_cursor: int | None


@router.get("/audit", response=answers(AuditPage))
def list_audit(
    request: HttpRequest, limit: Limit = 100, cursor: Cursor | None = None
) -> AuditPage:
    """List the audit trail, newest first. For administrators."""
    rows = queries.page_of_audit(of_request(request), before_id=cursor, limit=limit + 1)
    return AuditPage(
        items=[AuditOut.model_validate(row, from_attributes=True) for row in rows[:limit]],
        next_cursor=rows[limit - 1].id if len(rows) > limit else None,
    )
