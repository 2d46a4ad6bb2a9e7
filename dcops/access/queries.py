"""Reads about people and credentials."""

from datetime import datetime
from importlib import import_module

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.utils.crypto import constant_time_compare

from dcops.access.actor import Action, Actor, Role, can, lowest, require
from dcops.access.credentials import digest
from dcops.access.models import ApiToken, SetupLink, SignInThrottle, User
from dcops.audit.models import AuditEvent

TOKEN_PREFIX = "dcops_pat_"  # noqa: S105 - a public marker, not a secret


def needs_setup() -> bool:
    """Whether nobody can administer this dcops yet."""
    return not User.objects.filter(role=Role.ADMINISTRATOR, is_active=True).exists()


def is_setup_link(text: str, now: datetime) -> bool:
    """Whether this id.secret would still make an administrator."""
    link_id, _dot, secret = text.partition(".")
    return SetupLink.objects.filter(
        id=link_id, secret_sha256=digest(secret), used_at=None, expires_at__gt=now
    ).exists()


def actor_of_user(
    user: User, *, auth_method: str = "session", source_ip: str = "", request_id: str = ""
) -> Actor:
    """Return the actor a signed-in person is."""
    return Actor(
        "user",
        str(user.pk),
        user.get_username(),
        Role(user.role),
        auth_method=auth_method,
        source_ip=source_ip,
        request_id=request_id,
    )


def actor_of_session(session_key: str | None, *, source_ip: str = "") -> Actor | None:
    """Return who holds this session now, or None: for sockets, which ask again every few seconds (revocation)."""
    if not session_key:
        return None
    session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    if BACKEND_SESSION_KEY not in session:
        return None
    user = User.objects.filter(pk=session.get(SESSION_KEY), is_active=True).first()
    if user is None:
        return None
    if not constant_time_compare(session.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash()):
        return None
    return actor_of_user(user, source_ip=source_ip)


def find_token(text: str, now: datetime) -> ApiToken | None:
    """Return the token with its user if it still counts, or None."""
    if not text.startswith(TOKEN_PREFIX):
        return None
    token_id, _, secret = text.removeprefix(TOKEN_PREFIX).partition("_")
    return (
        ApiToken.objects.select_related("user")
        .filter(
            id=token_id,
            secret_sha256=digest(secret),
            revoked_at=None,
            expires_at__gt=now,
            user__is_active=True,
        )
        .first()
    )


def actor_of_token(token: ApiToken, *, source_ip: str = "", request_id: str = "") -> Actor:
    """Return the actor a token is: its own id, its owner's name, the weaker of both roles."""
    return Actor(
        "token",
        token.id,
        f"{token.user.get_username()}/{token.name}",
        lowest(Role(token.role), Role(token.user.role)),
        auth_method="api token",
        source_ip=source_ip,
        request_id=request_id,
    )


def failures(key: bytes, now: datetime) -> tuple[int, int]:
    """Return how often this key failed in its running window, and the seconds until the window ends."""
    row = SignInThrottle.objects.filter(key=key, window_ends_at__gt=now).first()
    if row is None:
        return 0, 0
    return row.failures, max(1, round((row.window_ends_at - now).total_seconds()))


def list_users(actor: Actor) -> list[User]:
    """Return everybody, by name. Raises Forbidden."""
    require(actor, Action.ADMINISTER)
    return list(User.objects.order_by("username"))


def list_tokens(actor: Actor) -> list[ApiToken]:
    """Return the tokens the actor may revoke, newest first, each with its owner: their own, or all for administrators."""
    tokens = ApiToken.objects.select_related("user").order_by("-created_at", "id")
    if can(actor, Action.ADMINISTER):
        return list(tokens)
    return list(tokens.filter(user_id=actor.id)) if actor.kind == "user" else []


def page_of_audit(actor: Actor, *, before_id: int | None = None, limit: int) -> list[AuditEvent]:
    """Return up to `limit` audit rows, newest first, older than `before_id`. Raises Forbidden."""
    require(actor, Action.READ_AUDIT)
    rows = AuditEvent.objects.order_by("-id")
    if before_id is not None:
        rows = rows.filter(id__lt=before_id)
    return list(rows[:limit])
