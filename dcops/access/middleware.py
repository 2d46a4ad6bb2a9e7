"""Closed by default: every path asks who is there, except the few that OPEN names."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import asdict
from urllib.parse import urlencode

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _

from dcops import clock
from dcops.access import actions, queries
from dcops.access.actor import Actor, Visit, visit_of
from dcops.access.models import User
from dcops.access.responses import error_response, status_of
from dcops.domain.errors import Forbidden, NotSignedIn, Refused, Unavailable

logger = logging.getLogger(__name__)

# A path is open if it is one of these, or lies under one that ends in a slash. Reviewed; tests/integration holds it to six.
OPEN = ("/sign-in", "/set-up/", "/static/", "/healthz", "/readyz", "/agent/")
# Programs reach these, by session or by bearer token, and get JSON instead of a redirect.
FOR_PROGRAMS = ("/api/", "/metrics")
BEARER = "Bearer "


def is_open(path: str) -> bool:
    """Whether a path is for everyone."""
    return any(path == entry or (entry.endswith("/") and path.startswith(entry)) for entry in OPEN)


def source_ip(request: HttpRequest) -> str:
    """Return the client's address: the connection's, or what our own proxy wrote last; never what a client claims."""
    forwarded = request.headers.get("X-Forwarded-For", "") if settings.BEHIND_PROXY else ""
    if forwarded:
        return forwarded.rsplit(",", 1)[-1].strip()
    return str(request.META.get("REMOTE_ADDR", ""))


class RequireSignInMiddleware:
    """Find out who asks, put them on the request as `actor`, and turn nobody away from OPEN paths alone."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        visit = Visit(source_ip(request), secrets.token_hex(8))
        request.visit = visit  # type: ignore[attr-defined]
        request.actor = None  # type: ignore[attr-defined]
        response = self._admit(request)
        response["X-Request-Id"] = visit.request_id
        if not request.path_info.startswith("/static/") and "Cache-Control" not in response:
            response["Cache-Control"] = "no-store"
        return response

    def _admit(self, request: HttpRequest) -> HttpResponse:
        if is_open(request.path_info):
            return self.get_response(request)
        try:
            actor = find_actor(request)
        except DatabaseError as error:
            logger.error("nobody can be signed in: %s", error)
            return refuse(request, away())
        if actor is None:
            return _turn_away(request)
        request.actor = actor  # type: ignore[attr-defined]
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer what a page refuses, and a database that is away, with their status and a sentence."""
        if isinstance(error, DatabaseError):
            logger.error("database refused %s", request.path_info, exc_info=error)
            error = away()
        return refuse(request, error) if isinstance(error, Refused) else None


def away() -> Unavailable:
    """Return what is said while the database does not answer or will not write."""
    return Unavailable(_("The database does not answer. Try again shortly."))


def refuse(request: HttpRequest, error: Refused) -> HttpResponse:
    """Answer a refusal, as JSON to programs and as a page to people; one for lack of rights is written down first."""
    actor = getattr(request, "actor", None)
    if isinstance(error, Forbidden) and isinstance(actor, Actor):
        error = _denied(request, actor, error)
    if request.path_info.startswith(FOR_PROGRAMS) or isinstance(error, Unavailable):
        return error_response(error)
    return render(
        request, "pages/refused.html", {"message": error.message}, status=status_of(error)
    )


def _denied(request: HttpRequest, actor: Actor, error: Refused) -> Refused:
    action = f"http.{(request.method or '').lower()}"
    try:
        actions.record_denial(actor, action=action, path=request.path_info, now=clock.now())
    except DatabaseError as problem:
        logger.error("denial not written down: %s", problem)
        return away()
    return error


def find_actor(request: HttpRequest) -> Actor | None:
    """Return who asks: by bearer token where programs go, and then by nothing else; by session otherwise."""
    authorization = request.headers.get("Authorization", "")
    by_token = request.path_info.startswith(FOR_PROGRAMS)
    if by_token and authorization:
        return _by_token(request, authorization)
    user = request.user
    if not isinstance(user, User):
        return None
    return queries.actor_of_user(user, **asdict(visit_of(request)))


def _by_token(request: HttpRequest, authorization: str) -> Actor | None:
    if not authorization.startswith(BEARER):
        return None
    token = actions.use_token(authorization.removeprefix(BEARER).strip(), now=clock.now())
    if token is None:
        return None
    return queries.actor_of_token(token, **asdict(visit_of(request)))


def _turn_away(request: HttpRequest) -> HttpResponse:
    if request.path_info.startswith(FOR_PROGRAMS):
        return error_response(NotSignedIn(_("Sign in, or send a token that is still valid.")))
    target = reverse("sign-in")
    if request.method == "GET" and request.path_info != "/":
        target += "?" + urlencode({"next": request.get_full_path()})
    if request.headers.get("HX-Request") == "true":
        response = HttpResponse(status=401)
        response["HX-Redirect"] = target
        return response
    return HttpResponseRedirect(target)
