"""Who acts, and what they may do.

Roles are ordered: an operator may do all a viewer may, an administrator all an operator may. `can` and `require` are the
only questions the rest of dcops asks; a later engine with policies answers them with the same signatures.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from django.http import HttpRequest
from django.utils.translation import gettext as _

from dcops.domain.errors import Forbidden, NotSignedIn


class Role(StrEnum):
    """What a person may do at most, in rising order."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"


class Action(StrEnum):
    """Everything an actor can ask for. VIEW, OPERATE and ADMINISTER are asked of an object."""

    VIEW = "view"  # read nodes, GPUs, events, series
    OPERATE = "operate"  # change how a node is used: quarantine, rename
    ADMINISTER = "administer"  # decide who belongs: tokens, approval, revocation, people
    READ_AUDIT = "read_audit"
    READ_METRICS = "read_metrics"


NEEDS: dict[Action, Role] = {
    Action.VIEW: Role.VIEWER,
    Action.READ_METRICS: Role.VIEWER,
    Action.OPERATE: Role.OPERATOR,
    Action.ADMINISTER: Role.ADMINISTRATOR,
    Action.READ_AUDIT: Role.ADMINISTRATOR,
}
_RANK = {role: rank for rank, role in enumerate(Role)}

ActorKind = Literal["user", "token", "node", "system", "cli"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, how they proved it, and from where; what an audit row remembers of them.

    `id` is the user's, token's or node's own id. `role` is None for a node: it may do nothing a person does.
    """

    kind: ActorKind
    id: str
    name: str
    role: Role | None = None
    auth_method: str = ""
    source_ip: str = ""
    request_id: str = ""


def lowest(first: Role, second: Role) -> Role:
    """Return the weaker of two roles: a token never reaches further than its owner."""
    return min(first, second, key=_RANK.__getitem__)


def system(name: str) -> Actor:
    """Return the server itself, acting without a person; `name` says which part of it."""
    return Actor("system", name, name, Role.ADMINISTRATOR, auth_method="process")


def cli(name: str) -> Actor:
    """Return someone with a shell on the server, who holds its database and keys already."""
    return Actor("cli", name, name, Role.ADMINISTRATOR, auth_method="shell")


def can(actor: Actor, action: Action, obj: object = None) -> bool:
    """Whether the actor may do this to `obj`, or at all where the action has no object."""
    del obj  # roles reach every object; policies will not
    return actor.role is not None and _RANK[actor.role] >= _RANK[NEEDS[action]]


def require(actor: Actor, action: Action, obj: object = None) -> None:
    """Raise Forbidden unless the actor may do this."""
    if not can(actor, action, obj):
        raise Forbidden(
            _("This needs the role %(role)s. Ask an administrator.") % {"role": NEEDS[action]}
        )


@dataclass(frozen=True, slots=True)
class Visit:
    """One HTTP request as the server saw it: the address it came from, and the number it has in the logs and the trail."""

    source_ip: str
    request_id: str


def visit_of(request: HttpRequest) -> Visit:
    """Return what RequireSignInMiddleware noted about this request."""
    visit: Visit = request.visit  # type: ignore[attr-defined]
    return visit


def of_request(request: HttpRequest) -> Actor:
    """Return who sent this request, as RequireSignInMiddleware found them. Raises NotSignedIn for nobody."""
    actor = getattr(request, "actor", None)
    if not isinstance(actor, Actor):
        raise NotSignedIn(_("Sign in, or send a token that is still valid."))
    return actor
