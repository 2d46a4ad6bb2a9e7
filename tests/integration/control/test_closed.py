"""Closed by default: without signing in there is nothing to see, whatever the path, method or header."""

import re

import pytest
from django.conf import settings
from django.urls import URLPattern, URLResolver, get_resolver

from dcops.access.actor import Role
from dcops.access.middleware import OPEN, is_open
from dcops.audit.models import AuditEvent
from dcops.domain.nodes import NodeState
from dcops.fleet import queries
from dcops.fleet.models import JoinToken
from tests.integration.control.cast import bearer, join

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]
FILLED = {"int": "1", "path": "a/b"}


def all_paths(patterns=None, prefix="/"):
    """Every path the server knows, with its parameters filled in."""
    for pattern in patterns or get_resolver().url_patterns:
        here = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from all_paths(pattern.url_patterns, here)
        elif isinstance(pattern, URLPattern):
            yield re.sub(r"<(?:(\w+):)?\w+>", lambda m: FILLED.get(m[1], "x"), here)


PATHS = sorted(set(all_paths()))


def turned_away(response):
    if response.status_code == 302:
        return response["Location"].startswith("/sign-in")
    return response.status_code == 401


def test_the_open_list_is_short():
    assert len(OPEN) <= 6
    assert len([path for path in PATHS if not is_open(path)]) >= 15


def test_every_open_path_is_one_that_was_reviewed():
    assert {path for path in PATHS if is_open(path)} == {
        "/sign-in",
        "/set-up/",
        "/set-up/x",
        "/healthz",
        "/readyz",
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_stranger_is_turned_away_everywhere_else(db, client, method):
    surprises = [
        path
        for path in [
            *PATHS,
            "/",
            "/admin/",
            "/nope",
            "/api/v2/x",
            "/.git/config",
            "//evil.example",
        ]
        if not is_open(path) and not turned_away(client.generic(method, path))
    ]
    assert surprises == []


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer dcops_pat_aaaaaaaaaa_bbbb"},
        {"authorization": "Bearer "},
        {"authorization": "Basic YWRhOmFkYQ=="},
        {"x-forwarded-user": "ada", "x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"},
        {"cookie": f"{settings.SESSION_COOKIE_NAME}=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
    ],
    ids=["token", "empty", "basic", "forwarded", "cookie"],
)
def test_a_false_credential_opens_nothing(administrator, client, headers):
    surprises = [
        path
        for path in PATHS
        if not is_open(path) and not turned_away(client.get(path, headers=headers))
    ]
    assert surprises == []


@pytest.mark.parametrize(
    "path",
    [
        "/healthz/../metrics",
        "/static/../metrics",
        "/static/%2e%2e/metrics",
        "/sign-in/../metrics",
        "/SIGN-IN",
        "/sign-in/",
        "/healthzz",
    ],
)
def test_no_spelling_slips_past_the_list(db, client, path):
    response = client.get(path)
    assert turned_away(response) or response.status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/sign-in/",
        "/sign-inx",
        "/healthzz",
        "/set-up",
        "/staticx",
        "/agent",
        "/API/v1/nodes",
    ],
)
def test_what_only_looks_open_is_not(path):
    assert not is_open(path)


def test_a_bad_bearer_token_is_not_rescued_by_a_good_session(administrator, browser):
    response = browser(administrator).get(
        "/api/v1/nodes", headers={"authorization": "Bearer dcops_pat_x_y"}
    )
    assert response.status_code == 401


def test_a_token_opens_no_page(administrator, client):
    response = client.get("/", headers=bearer(administrator))
    assert turned_away(response)


def test_programs_are_told_in_json_and_people_are_sent_to_sign_in(db, client):
    api = client.get("/api/v1/nodes")
    assert (api.status_code, api.json()["code"]) == (401, "not_signed_in")
    assert api["WWW-Authenticate"] == "Bearer"
    assert client.get("/nodes/?q=1")["Location"] == "/sign-in?next=%2Fnodes%2F%3Fq%3D1"


def test_a_fragment_request_of_a_signed_out_tab_goes_to_sign_in_whole(db, client):
    response = client.get("/nodes/", headers={"hx-request": "true"})
    assert (response.status_code, response["HX-Redirect"][:8]) == (401, "/sign-in")


def test_a_host_we_do_not_serve_is_refused(db, client):
    response = client.get("/sign-in", headers={"host": "evil.example"})
    assert response.status_code == 400
    assert b"evil" not in response.content


@pytest.mark.parametrize("path", ["/password", "/api/v1/nodes", "/sign-in"])
def test_every_answer_carries_the_security_headers(administrator, browser, path):
    response = browser(administrator).get(path)
    assert "script-src 'self'" in response["Content-Security-Policy"]
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["X-Frame-Options"] == "DENY"
    assert response["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response["Cache-Control"]
    assert response["X-Request-Id"]


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_a_session_needs_the_csrf_token_for_every_unsafe_method(administrator, method):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(administrator)
    surprises = []
    for path in PATHS:
        response = getattr(client, method)(path, data={}, content_type="application/json")
        if response.status_code not in (400, 403, 404, 405):
            surprises.append((path, response.status_code))
    assert surprises == []


def test_metrics_are_for_those_who_may_read(viewer, client):
    response = client.get("/metrics", headers=bearer(viewer, Role.VIEWER))
    assert response.status_code == 200
    assert b"# TYPE" in response.content


@pytest.mark.parametrize("path", ["/nodes/gpu-1/approve", "/nodes/add"])
def test_a_page_refuses_what_the_role_does_not_allow_and_says_so(viewer, browser, path):
    node = join()
    response = browser(viewer).post(path)
    assert response.status_code == 403
    assert b"administrator" in response.content
    assert response["Content-Type"].startswith("text/html")
    denial = AuditEvent.objects.latest("id")
    assert (denial.decision, denial.object_id, denial.actor_name) == ("denied", path, "vera")
    assert queries.node_for_link(node.node_id).state == NodeState.PENDING
    assert JoinToken.objects.count() == 1


def test_a_page_that_is_not_there_is_a_page(viewer, browser):
    response = browser(viewer).get("/nowhere/<script>")
    assert (response.status_code, response["Content-Type"][:9]) == (404, "text/html")
    assert b"<script>" not in response.content.replace(b"<script type", b"").replace(
        b"<script id", b""
    )
