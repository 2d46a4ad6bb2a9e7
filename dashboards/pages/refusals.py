"""What is answered where there is no page: one sentence, as JSON to programs, and nothing of the request repeated."""

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from dcops.access.middleware import refuse
from dcops.access.responses import error_response
from dcops.domain.errors import Forbidden, Invalid, NotFound, Unavailable


def missing(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404"""
    del exception
    return refuse(request, NotFound(_("There is nothing here.")))


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403"""
    del exception
    return refuse(request, Forbidden(_("This is not for you.")))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """403 for a form that did not come from a page of ours, or from one too old."""
    del reason
    return refuse(
        request, Forbidden(_("This form is too old. Reload the page and send it again."))
    )


def unreadable(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400, also for a Host we do not serve: nothing here may ask the request for its host."""
    del request, exception
    response = error_response(Invalid(_("The request cannot be read.")))
    response.status_code = 400
    return response


def broken(request: HttpRequest) -> HttpResponse:
    """500. No template: whatever broke may break there again."""
    del request
    response = error_response(Unavailable(_("Something went wrong. It was written to the log.")))
    response.status_code = 500
    return response
