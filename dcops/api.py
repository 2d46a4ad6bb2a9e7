"""The REST API at /api/v1: one NinjaAPI, its two ways to sign in, and one shape for every error."""

from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError
from ninja.security import APIKeyCookie, HttpBearer

import dcops.access.api
import dcops.fleet.api
import dcops.telemetry.api
from dcops.access.actor import Actor
from dcops.access.middleware import refuse
from dcops.domain.errors import Forbidden, Invalid, NotFound, NotSignedIn


class BearerToken(HttpBearer):
    """An API token in the Authorization header; the middleware has judged it already."""

    def authenticate(self, request: HttpRequest, token: str) -> Actor | None:
        """Return the token's actor."""
        del token
        return _actor(request, "token")


class Session(APIKeyCookie):
    """The browser's session. Unsafe methods need the CSRF token too, as with any form."""

    param_name = settings.SESSION_COOKIE_NAME

    def __call__(self, request: HttpRequest) -> Actor | None:
        """Ask for the CSRF token only from a session: a token's request has none to forge."""
        return super().__call__(request) if _actor(request, "user") else None

    def authenticate(self, request: HttpRequest, key: str | None) -> Actor | None:
        """Return the person's actor."""
        del key
        return _actor(request, "user")


def _actor(request: HttpRequest, kind: str) -> Actor | None:
    actor = getattr(request, "actor", None)
    return actor if isinstance(actor, Actor) and actor.kind == kind else None


def build() -> NinjaAPI:
    """Return the API with every router that the apps offer."""
    api = NinjaAPI(
        title="dcops",
        version="1",
        description="Nodes, GPUs, telemetry and the audit trail of one dcops server.",
        auth=[BearerToken(), Session()],
        # The bundled viewers need inline script, which the CSP forbids; openapi.json is there for any viewer.
        docs_url=None,
    )
    for kind, handler in _HANDLERS.items():
        api.add_exception_handler(kind, handler)
    api.add_router("", dcops.fleet.api.router)
    api.add_router("", dcops.access.api.router)
    api.add_router("", dcops.telemetry.api.router)
    return api


def _on_invalid(request: HttpRequest, error: Any) -> HttpResponse:
    first = error.errors[0]
    place = [str(part) for part in first.get("loc", ())]
    message = f"{'.'.join(place[1:]) or 'body'}: {first.get('msg', 'is not valid')}"
    return refuse(request, Invalid(message, field=place[-1] if place else ""))


def _on_http_error(request: HttpRequest, error: Any) -> HttpResponse:
    if isinstance(error, AuthenticationError):
        return refuse(request, NotSignedIn(_("Sign in, or send a token that is still valid.")))
    if error.status_code == 403:
        return refuse(
            request,
            Forbidden(_("The form's CSRF token is missing or old. Reload the page."), code="csrf"),
        )
    return refuse(request, Invalid(_("The request cannot be read: %s") % error))


def _on_missing(request: HttpRequest, error: Any) -> HttpResponse:
    del error
    return refuse(request, NotFound(_("There is nothing here.")))


# Refused and DatabaseError pass through to RequireSignInMiddleware, which answers them here as everywhere.
_HANDLERS: dict[type[Exception], Any] = {
    ValidationError: _on_invalid,
    HttpError: _on_http_error,
    Http404: _on_missing,
}

api = build()
