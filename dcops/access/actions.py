"""Writes of access control: people, sign-in, passwords, tokens, the set-up link."""

import hashlib
from datetime import datetime, timedelta

from django.contrib.auth import authenticate
from django.contrib.auth.password_validation import validate_password
from django.contrib.sessions.models import Session
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.utils.translation import gettext as _

from dcops.access import queries, store
from dcops.access.actor import Action, Actor, Role, can, require
from dcops.access.credentials import digest, issue
from dcops.access.models import ApiToken, SetupLink, SignInThrottle, User
from dcops.audit import actions as audit
from dcops.domain.errors import Conflict, Forbidden, Invalid, NotFound, NotSignedIn, TooMany

SETUP_LINK_TTL_S = 3600
MAX_SETUP_LINK_TTL_S = 86_400
MAX_TOKEN_DAYS = 366
MAX_FAILURES = 5
THROTTLE_WINDOW = timedelta(minutes=5)
LAST_USED_EVERY = timedelta(minutes=1)


# -- the set-up link ----------------------------------------------------------------------------------------------


def create_setup_link(actor: Actor, *, ttl_s: int = SETUP_LINK_TTL_S, now: datetime) -> str:
    """Return the path of a new one-time link that makes an administrator; earlier unused links stop working.

    Only for who holds a shell on the server (kinds system and cli). Raises Forbidden or Invalid.
    """
    if actor.kind not in ("system", "cli"):
        raise Forbidden(_("A set-up link is made on the server itself, with `dcops setup-link`."))
    if not 1 <= ttl_s <= MAX_SETUP_LINK_TTL_S:
        raise Invalid(
            _("A set-up link lives 1 to %(max)s seconds.") % {"max": MAX_SETUP_LINK_TTL_S},
            field="ttl_s",
        )
    issued = issue()
    with transaction.atomic():
        SetupLink.objects.filter(used_at=None, expires_at__gt=now).update(expires_at=now)
        SetupLink.objects.create(
            id=issued.id,
            secret_sha256=issued.sha256,
            created_at=now,
            expires_at=now + timedelta(seconds=ttl_s),
        )
        audit.record(
            actor,
            "setup_link.create",
            object_type="setup_link",
            object_id=issued.id,
            after={"ttl_s": ttl_s},
            now=now,
        )
    return f"/set-up/{issued.id}.{issued.secret}"


def use_setup_link(
    text: str, *, username: str, password: str, source_ip: str, request_id: str, now: datetime
) -> User:
    """Make an administrator and use the link up; of two at once one succeeds. Raises Invalid or NotFound."""
    link_id, _dot, secret = text.partition(".")
    with transaction.atomic():
        used = SetupLink.objects.filter(
            id=link_id, secret_sha256=digest(secret), used_at=None, expires_at__gt=now
        ).update(used_at=now)
        if used != 1:
            raise NotFound(
                _("This set-up link is used or too old. Make a new one with `dcops setup-link`.")
            )
        actor = Actor(
            "cli",
            link_id,
            "set-up link",
            Role.ADMINISTRATOR,
            auth_method="set-up link",
            source_ip=source_ip,
            request_id=request_id,
        )
        return create_user(
            actor, username=username, password=password, role=Role.ADMINISTRATOR, now=now
        )


# -- people -------------------------------------------------------------------------------------------------------


def create_user(actor: Actor, *, username: str, password: str, role: Role, now: datetime) -> User:
    """Make a person with a password. Raises Forbidden, Invalid (field username or password) or Conflict."""
    require(actor, Action.ADMINISTER)
    user = User(username=User.normalize_username(username), role=role, date_joined=now)
    _check_password(password, user)
    user.set_password(password)
    try:
        user.full_clean(exclude=["password"], validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        raise Invalid(" ".join(error.messages), field="username") from None
    try:
        with transaction.atomic():
            user.save()
            _record_user(actor, "user.create", user, after={"role": role}, now=now)
    except IntegrityError:
        raise Conflict(_("Someone has that user name. Choose another.")) from None
    return user


def change_user(
    actor: Actor,
    *,
    username: str,
    role: Role | None = None,
    active: bool | None = None,
    now: datetime,
) -> User:
    """Change a person's role, or shut them out: sessions, sockets and tokens of theirs end at once. None leaves as is.

    Raises Forbidden, Invalid (nothing to change), NotFound, Conflict (the last administrator).
    """
    require(actor, Action.ADMINISTER)
    wanted = {"role": role, "is_active": active}
    change: dict[str, object] = {name: v for name, v in wanted.items() if v is not None}
    if not change:
        raise Invalid(_("Say what to change: role, active or both."), field="role")
    with transaction.atomic():
        # All administrators are locked, in one order, so that two cannot each remove the other as the last.
        list(User.objects.select_for_update().filter(role=Role.ADMINISTRATOR).order_by("pk"))
        user = User.objects.select_for_update().filter(username=username).first()
        if user is None:
            raise NotFound(_("There is no such person."))
        administered = not queries.needs_setup()
        before = {name: getattr(user, name) for name in change}
        for name, value in change.items():
            setattr(user, name, value)
        user.save(update_fields=list(change))
        if administered and queries.needs_setup():
            raise Conflict(_("This is the last administrator. Make another one first."))
        _record_user(actor, "user.change", user, before=before, after=change, now=now)
    return user


def _record_user(
    actor: Actor,
    action: str,
    user: User,
    *,
    before: dict[str, object] | None = None,
    after: dict[str, object] | None = None,
    now: datetime,
) -> None:
    audit.record(
        actor,
        action,
        object_type="user",
        object_id=user.pk,
        object_name=user.get_username(),
        before=before,
        after=after,
        now=now,
    )


def _check_password(password: str, user: User) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise Invalid(" ".join(error.messages), field="password") from None


# -- signing in and out -------------------------------------------------------------------------------------------


def sign_in(
    username: str, password: str, *, source_ip: str, request_id: str, now: datetime
) -> User:
    """Check a name and password and write down the outcome; the caller then opens the session.

    One address may fail MAX_FAILURES times per name and window, so nobody can shut out another. Raises TooMany, or
    NotSignedIn in the same words whatever was wrong.
    """
    key = hashlib.sha256(f"{source_ip}\0{username.lower()}".encode(errors="replace")).digest()
    failed, wait_s = queries.failures(key, now)
    if failed >= MAX_FAILURES:
        raise TooMany(_("Too many tries. Wait a few minutes."), retry_after_s=wait_s)
    user = authenticate(username=username.replace("\0", ""), password=password)
    if not isinstance(user, User):
        _note_failure(key, username, source_ip, request_id, now)
        raise NotSignedIn(_("The user name or the password is wrong."))
    actor = queries.actor_of_user(
        user, auth_method="password", source_ip=source_ip, request_id=request_id
    )
    with transaction.atomic():
        SignInThrottle.objects.filter(key=key).delete()
        _record_user(actor, "session.sign_in", user, now=now)
    return user


def _note_failure(
    key: bytes, username: str, source_ip: str, request_id: str, now: datetime
) -> None:
    known = User.objects.filter(username=username.replace("\0", "")).first()
    # A name nobody has may be a password typed into the wrong box: it is not written down.
    actor = Actor(
        "user",
        str(known.pk) if known else "",
        known.get_username() if known else "",
        auth_method="password",
        source_ip=source_ip,
        request_id=request_id,
    )
    with transaction.atomic():
        store.count_failure(connection, key, now, now + THROTTLE_WINDOW)
        audit.record(
            actor,
            "session.sign_in",
            object_type="user",
            object_id=actor.id,
            object_name=actor.name,
            decision="denied",
            reason="wrong name or password",
            now=now,
        )


def sign_out(actor: Actor, *, now: datetime) -> None:
    """Write down that a session ends; the caller ends it."""
    with transaction.atomic():
        audit.record(
            actor,
            "session.sign_out",
            object_type="user",
            object_id=actor.id,
            object_name=actor.name,
            now=now,
        )


def forget_expired(*, now: datetime) -> None:
    """Remove sessions and throttles that are over; they meant nothing any more, so no audit row."""
    Session.objects.filter(expire_date__lt=now).delete()
    SignInThrottle.objects.filter(window_ends_at__lt=now).delete()


def change_password(
    actor: Actor, *, user: User, old_password: str, new_password: str, now: datetime
) -> None:
    """Give a person a new password of their own; all their other sessions end. Raises Invalid."""
    if not user.check_password(old_password):
        raise Invalid(_("That is not your present password."), field="old_password")
    try:
        validate_password(new_password, user)
    except ValidationError as error:
        raise Invalid(" ".join(error.messages), field="new_password") from None
    user.set_password(new_password)
    with transaction.atomic():
        user.save(update_fields=["password"])
        _record_user(actor, "user.change_password", user, now=now)


def record_denial(actor: Actor, *, action: str, path: str, now: datetime) -> None:
    """Write down that someone asked for what they may not do."""
    with transaction.atomic():
        audit.record(
            actor,
            action,
            object_type="path",
            object_id=path[:200],
            decision="denied",
            reason="role",
            now=now,
        )


# -- API tokens ---------------------------------------------------------------------------------------------------


def create_token(actor: Actor, *, name: str, role: Role, days: int, now: datetime) -> str:
    """Make an API token for oneself and return its text, which is shown this once.

    Only a person makes one: a token that could make tokens would outlive its own end. Raises Forbidden or Invalid.
    """
    if actor.kind != "user":
        raise Forbidden(_("A token is made by a person who is signed in, for themselves."))
    if not 1 <= days <= MAX_TOKEN_DAYS:
        raise Invalid(
            _("A token lives 1 to %(max)s days.") % {"max": MAX_TOKEN_DAYS}, field="days"
        )
    if not name.strip():
        raise Invalid(_("Give the token a name, to know it by when you revoke it."), field="name")
    issued = issue()
    with transaction.atomic():
        token = ApiToken.objects.create(
            id=issued.id,
            name=name.strip()[:100],
            user_id=int(actor.id),
            role=role,
            secret_sha256=issued.sha256,
            created_at=now,
            expires_at=now + timedelta(days=days),
        )
        _record_token(actor, "token.create", token, now, after={"role": role, "days": days})
    return f"{queries.TOKEN_PREFIX}{issued.id}_{issued.secret}"


def revoke_token(actor: Actor, *, token_id: str, now: datetime) -> None:
    """Make a token worthless at once. Raises NotFound, also for another person's token."""
    token = ApiToken.objects.select_related("user").filter(id=token_id, revoked_at=None).first()
    if token is None or not _is_self_or_administrator(actor, token.user):
        raise NotFound(_("There is no such token."))
    with transaction.atomic():
        if ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now) != 1:
            raise NotFound(_("There is no such token."))
        _record_token(actor, "token.revoke", token, now)


def use_token(text: str, *, now: datetime) -> ApiToken | None:
    """Return the token if it counts, noting its use at most once a minute; None otherwise."""
    token = queries.find_token(text, now)
    if token is not None and (
        token.last_used_at is None or now - token.last_used_at > LAST_USED_EVERY
    ):
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)
    return token


def _is_self_or_administrator(actor: Actor, user: User) -> bool:
    return (actor.kind, actor.id) == ("user", str(user.pk)) or can(actor, Action.ADMINISTER)


def _record_token(
    actor: Actor,
    action: str,
    token: ApiToken,
    now: datetime,
    after: dict[str, object] | None = None,
) -> None:
    audit.record(
        actor,
        action,
        object_type="api_token",
        object_id=token.id,
        object_name=f"{token.user.get_username()}/{token.name}",
        after=after,
        now=now,
    )
