"""People and their tokens, and the audit trail, over HTTP."""

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Path, Query, Router, Schema, Status
from pydantic import Field, StringConstraints

from dcops import clock
from dcops.access import actions, queries
from dcops.access.actor import Role, of_request
from dcops.access.responses import Body, Text, answers

router = Router(tags=["access"])

Name = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00]*$")]
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


class TokenIn(Body):
    """`role` is the most the token may do; it never reaches further than its owner."""

    name: Name
    role: Role = Role.VIEWER
    days: int = Field(default=90, ge=1, le=actions.MAX_TOKEN_DAYS)


class TokenText(Schema):
    """The token, shown this once."""

    token: str


class TokenOut(Schema):
    """What is known of a token; its secret is not."""

    id: str
    name: str
    owner: str
    role: Role
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class TokenList(Schema):
    """One's own tokens; everyone's for administrators."""

    items: list[TokenOut]


class UserIn(Body):
    """A new person."""

    username: Name
    password: Annotated[str, StringConstraints(max_length=1024, pattern=r"^[^\x00]*$")]
    role: Role = Role.VIEWER


class UserChange(Body):
    """What to change; null leaves it as it is."""

    role: Role | None = None
    active: bool | None = None


class UserOut(Schema):
    """A person."""

    username: str
    role: Role
    active: bool
    date_joined: datetime
    last_login: datetime | None


class UserList(Schema):
    """Everybody, by name."""

    items: list[UserOut]


def token_out(token: Any) -> TokenOut:
    """Copy a token, with its owner loaded, into its API form."""
    own = {name: getattr(token, name) for name in TokenOut.model_fields if name != "owner"}
    return TokenOut(owner=token.user.get_username(), **own)


def user_out(user: Any) -> UserOut:
    """Copy a person into their API form."""
    return UserOut(
        username=user.get_username(),
        role=user.role,
        active=user.is_active,
        date_joined=user.date_joined,
        last_login=user.last_login,
    )


@router.get("/tokens", response=answers(TokenList))
def list_tokens(request: HttpRequest) -> TokenList:
    """List API tokens, newest first."""
    return TokenList(
        items=[token_out(token) for token in queries.list_tokens(of_request(request))]
    )


@router.post("/tokens", response=answers(TokenText, status=201))
def create_token(request: HttpRequest, body: TokenIn) -> Status[TokenText]:
    """Make an API token for oneself. Needs a session: a token makes no tokens."""
    text = actions.create_token(
        of_request(request), name=body.name, role=body.role, days=body.days, now=clock.now()
    )
    return Status(201, TokenText(token=text))


@router.post("/tokens/{token_id}/revoke", response=answers(None, status=204))
def revoke_token(request: HttpRequest, token_id: Path[Text]) -> Status[None]:
    """Make a token worthless at once."""
    actions.revoke_token(of_request(request), token_id=token_id, now=clock.now())
    return Status(204, None)


@router.get("/users", response=answers(UserList))
def list_users(request: HttpRequest) -> UserList:
    """List everybody. For administrators."""
    return UserList(items=[user_out(user) for user in queries.list_users(of_request(request))])


@router.post("/users", response=answers(UserOut, status=201))
def create_user(request: HttpRequest, body: UserIn) -> Status[UserOut]:
    """Make a person with a first password. For administrators."""
    user = actions.create_user(
        of_request(request),
        username=body.username,
        password=body.password,
        role=body.role,
        now=clock.now(),
    )
    return Status(201, user_out(user))


@router.patch("/users/{username}", response=answers(UserOut))
def change_user(request: HttpRequest, username: Path[Text], body: UserChange) -> UserOut:
    """Change what a person may do, or shut them out or let them back in, at once. For administrators."""
    user = actions.change_user(
        of_request(request), username=username, role=body.role, active=body.active, now=clock.now()
    )
    return user_out(user)


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
