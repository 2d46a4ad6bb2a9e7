"""Signing in and out, one's own password, and the first administrator."""

from dataclasses import asdict
from typing import Any

from django import forms
from django.contrib.auth import login, logout, update_session_auth_hash
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from dcops import clock
from dcops.access import actions, queries
from dcops.access.actor import of_request, visit_of
from dcops.domain.errors import Refused, TooMany

BACKEND = "django.contrib.auth.backends.ModelBackend"
LINK_IN_SESSION = "set_up_link"
MAX_PASSWORD = 1024


def _password(label: Any, autocomplete: str) -> forms.CharField:
    widget = forms.PasswordInput(attrs={"autocomplete": autocomplete})
    return forms.CharField(label=label, strip=False, max_length=MAX_PASSWORD, widget=widget)


class SignInForm(forms.Form):
    """A name and a password."""

    username = forms.CharField(
        label=gettext_lazy("User name"),
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "username", "autofocus": True}),
    )
    password = _password(gettext_lazy("Password"), "current-password")


class SetUpForm(forms.Form):
    """The first administrator."""

    username = forms.CharField(
        label=gettext_lazy("User name"),
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "username", "autofocus": True}),
    )
    password = _password(gettext_lazy("Password, 12 characters or more"), "new-password")
    password_again = _password(gettext_lazy("Password again"), "new-password")

    def clean(self) -> dict[str, Any]:
        """Refuse two passwords that differ."""
        values = super().clean() or {}
        if values.get("password") != values.get("password_again"):
            self.add_error("password_again", _("The two passwords differ."))
        return values


class PasswordForm(forms.Form):
    """One's present password and a new one, twice."""

    old_password = _password(gettext_lazy("Present password"), "current-password")
    new_password = _password(gettext_lazy("New password, 12 characters or more"), "new-password")
    new_password_again = _password(gettext_lazy("New password again"), "new-password")

    def clean(self) -> dict[str, Any]:
        """Refuse two new passwords that differ."""
        values = super().clean() or {}
        if values.get("new_password") != values.get("new_password_again"):
            self.add_error("new_password_again", _("The two passwords differ."))
        return values


def _show(request: HttpRequest, page: str, form: forms.Form, **context: Any) -> HttpResponse:
    status = 200 if request.method == "GET" else context.pop("status", 422)
    return render(request, f"pages/{page}.html", {"form": form, **context}, status=status)


def _refusal(form: forms.Form, error: Refused) -> None:
    form.add_error(error.field if error.field in form.fields else None, error.message)


def _next(request: HttpRequest) -> str:
    """Return where to go after signing in: a path of this server, never another."""
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    safe = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if safe else resolve_url("overview")


@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """Open a session for a name and password."""
    form = SignInForm(request.POST or None)
    target = _next(request)
    if request.method == "POST" and form.is_valid():
        try:
            user = actions.sign_in(
                form.cleaned_data["username"],
                form.cleaned_data["password"],
                **asdict(visit_of(request)),
                now=clock.now(),
            )
        except TooMany as error:
            form.add_error(None, error.message)
            response = _show(request, "sign_in", form, next=target, status=429)
            response["Retry-After"] = str(error.retry_after_s)
            return response
        except Refused as error:
            form.add_error(None, error.message)
        else:
            login(request, user, backend=BACKEND)
            return redirect(target)
    return _show(request, "sign_in", form, next=target)


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """End this session, on the server too."""
    actions.sign_out(of_request(request), now=clock.now())
    logout(request)
    return redirect("sign-in")


@never_cache
@require_safe
def open_set_up(request: HttpRequest, link: str) -> HttpResponse:
    """Take a set-up link out of the address (history, referrer, logs) into the session, and go to its form."""
    if queries.is_setup_link(link, clock.now()):
        request.session[LINK_IN_SESSION] = link
        request.session.set_expiry(actions.SETUP_LINK_TTL_S)
        return redirect("set-up")
    return render(request, "pages/set_up.html", {"form": None}, status=404)


@sensitive_post_parameters("password", "password_again")
@never_cache
@require_http_methods(["GET", "POST"])
def set_up(request: HttpRequest) -> HttpResponse:
    """Make an administrator for whoever came by a good link, and sign them in."""
    link = request.session.get(LINK_IN_SESSION, "")
    if not queries.is_setup_link(link, clock.now()):
        return render(request, "pages/set_up.html", {"form": None}, status=404)
    form = SetUpForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            user = actions.use_setup_link(
                link,
                username=form.cleaned_data["username"],
                password=form.cleaned_data["password"],
                **asdict(visit_of(request)),
                now=clock.now(),
            )
        except Refused as error:
            _refusal(form, error)
        else:
            request.session.flush()
            login(request, user, backend=BACKEND)
            return redirect("overview")
    return _show(request, "set_up", form)


@sensitive_post_parameters("old_password", "new_password", "new_password_again")
@never_cache
@require_http_methods(["GET", "POST"])
def password(request: HttpRequest) -> HttpResponse:
    """Change one's own password; every other session of that person ends."""
    form = PasswordForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            actions.change_password(
                of_request(request),
                user=request.user,  # type: ignore[arg-type]
                old_password=form.cleaned_data["old_password"],
                new_password=form.cleaned_data["new_password"],
                now=clock.now(),
            )
        except Refused as error:
            _refusal(form, error)
        else:
            update_session_auth_hash(request, request.user)  # type: ignore[arg-type]
            return redirect("overview")
    return _show(request, "password", form)
