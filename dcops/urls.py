"""Every path of the server but the agents' and the live socket's, which asgi.py routes."""

from django.urls import include, path

from dashboards.pages import account, refusals
from dcops import health
from dcops.api import api

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", health.metrics, name="metrics"),
    path("api/v1/", api.urls),
    path("sign-in", account.sign_in, name="sign-in"),
    path("sign-out", account.sign_out, name="sign-out"),
    path("password", account.password, name="password"),
    path("set-up/", account.set_up, name="set-up"),
    path("set-up/<str:link>", account.open_set_up, name="set-up-link"),
    path("", include("dashboards.urls")),
]

handler400 = refusals.unreadable
handler403 = refusals.forbidden
handler404 = refusals.missing
handler500 = refusals.broken
