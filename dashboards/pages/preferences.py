"""Theme and language, kept in cookies: a form post, so that it works without script."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from dashboards.context import THEME_COOKIE, THEMES

A_YEAR_S = 365 * 24 * 3600


@require_POST
def preferences(request: HttpRequest) -> HttpResponse:
    """POST /preferences with theme= or language=, and next= to return to."""
    target = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    ):
        target = reverse("overview")
    response = HttpResponseRedirect(target)
    theme, language = request.POST.get("theme"), request.POST.get("language")
    if theme in THEMES:
        _remember(response, THEME_COOKIE, theme)
    if language in dict(settings.LANGUAGES):
        _remember(response, settings.LANGUAGE_COOKIE_NAME, language)
    return response


def _remember(response: HttpResponse, name: str, value: str | None) -> None:
    response.set_cookie(
        name,
        value or "",
        max_age=A_YEAR_S,
        secure=settings.SECURE_TRANSPORT,
        httponly=True,
        samesite="Lax",
    )
