"""All nodes: who reports, who waits for approval, and how to add one."""

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST, require_safe

from dashboards.frames import state
from dashboards.panels.overview import host_rows
from dashboards.units import duration
from dcops import clock
from dcops.access.actor import Action, can, of_request, require
from dcops.domain.errors import Refused
from dcops.fleet import actions as fleet_actions

TOKEN_TTL_S = 900


class TokenForm(forms.Form):
    """What a join token is bound to."""

    node_name = forms.CharField(
        label=gettext_lazy("Node name (optional)"),
        help_text=gettext_lazy(
            "Empty takes the machine's own name. A known node's name gives that node a new key."
        ),
        required=False,
        max_length=63,
    )
    auto_approve = forms.BooleanField(label=gettext_lazy("Approve at once"), required=False)


def _page(
    request: HttpRequest, form: TokenForm, token: str = "", status: int = 200
) -> HttpResponse:
    actor = of_request(request)
    view = state().view(clock.now())
    rows = sorted(host_rows(view), key=lambda row: str(row["name"]))
    return render(request, "pages/nodes.html", {
        "rows": rows,
        "waiting": [row for row in rows if row["state"] in ("pending", "quarantined")],
        "can_administer": can(actor, Action.ADMINISTER),
        "form": form,
        "token": token,
        "server": request.build_absolute_uri("/").rstrip("/"),
        "ttl": duration(TOKEN_TTL_S),
        "now_us": view.now_us,
    }, status=status)  # fmt: skip


@require_safe
def nodes(request: HttpRequest) -> HttpResponse:
    """GET /nodes/"""
    require(of_request(request), Action.VIEW)
    return _page(request, TokenForm())


@require_POST
def add_node(request: HttpRequest) -> HttpResponse:
    """POST /nodes/add: make a join token and show the command, this once."""
    form = TokenForm(request.POST)
    if not form.is_valid():
        return _page(request, form, status=422)
    try:
        token = fleet_actions.create_join_token(
            of_request(request),
            ttl_s=TOKEN_TTL_S,
            node_name=form.cleaned_data["node_name"] or None,
            auto_approve=form.cleaned_data["auto_approve"],
            now=clock.now(),
        )
    except Refused as error:
        if error.field is None or error.field not in form.fields:
            raise
        form.add_error(error.field, error.message)
        return _page(request, form, status=422)
    return _page(request, TokenForm(), token)


@require_POST
def approve(request: HttpRequest, name: str) -> HttpResponse:
    """POST /nodes/<name>/approve"""
    fleet_actions.approve_node(of_request(request), name=name, now=clock.now())
    messages.success(request, _("%s is approved.") % name)
    return HttpResponseRedirect(reverse("nodes"))
