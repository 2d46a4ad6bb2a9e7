"""Signing in, staying in, being shut out, and the first administrator."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth.hashers import identify_hasher, make_password
from django.db import connection
from django.test import Client

from dcops import clock
from dcops.access import actions, queries
from dcops.access.actor import Role, cli, system
from dcops.access.models import SetupLink, SignInThrottle, User
from dcops.audit.models import AuditEvent
from dcops.domain.errors import Conflict, Forbidden, Invalid, NotFound, TooMany
from tests.integration.control.cast import NOW, PASSWORD, SHELL, actor, bearer


def sign_in(client, username="vera", password=PASSWORD, **extra):
    return client.post("/sign-in", {"username": username, "password": password, **extra})


def test_a_good_password_opens_a_new_session(viewer, client):
    client.get("/sign-in")
    response = sign_in(client)
    assert (response.status_code, response["Location"]) == (302, "/")
    assert client.get("/api/v1/nodes").status_code == 200
    assert AuditEvent.objects.get(action="session.sign_in").decision == "allowed"


def test_wrong_name_wrong_password_and_shut_out_look_the_same(viewer, client):
    actions.change_user(SHELL, username="vera", active=False, now=NOW)
    answers = {
        (response.status_code, response.content.replace(name.encode(), b"?"))
        for name, password in [("vera", PASSWORD), ("nobody", PASSWORD), ("vera", "wrong-one")]
        for response in [sign_in(client, name, password)]
    }
    texts = {strip_tokens(content) for _status, content in answers}
    assert {status for status, _content in answers} == {422}
    assert len(texts) == 1


def strip_tokens(content):
    return re.sub(rb'name="csrfmiddlewaretoken" value="[^"]+"', b"", content)


def test_too_many_tries_must_wait_and_others_need_not(viewer, operator, client):
    for _ in range(actions.MAX_FAILURES):
        assert sign_in(client, password="wrong").status_code == 422
    waits = sign_in(client)
    assert waits.status_code == 429
    assert 1 <= int(waits["Retry-After"]) <= actions.THROTTLE_WINDOW.total_seconds()
    assert sign_in(client, "otto").status_code == 302
    elsewhere = Client(REMOTE_ADDR="10.9.9.9")
    assert sign_in(elsewhere).status_code == 302


def test_the_wait_ends_with_its_window(viewer):
    for _ in range(actions.MAX_FAILURES):
        with pytest.raises(Exception, match="wrong"):
            actions.sign_in("vera", "wrong", source_ip="1.1.1.1", request_id="", now=NOW)
    with pytest.raises(TooMany):
        actions.sign_in("vera", PASSWORD, source_ip="1.1.1.1", request_id="", now=NOW)
    later = NOW + actions.THROTTLE_WINDOW
    actions.sign_in("vera", PASSWORD, source_ip="1.1.1.1", request_id="", now=later)
    assert not SignInThrottle.objects.exists()


def test_a_client_cannot_choose_the_address_it_is_counted_under(viewer, client):
    for number in range(actions.MAX_FAILURES):
        client.post(
            "/sign-in",
            {"username": "vera", "password": "wrong"},
            headers={"x-forwarded-for": f"10.0.0.{number}"},
        )
    assert sign_in(client).status_code == 429
    assert set(AuditEvent.objects.values_list("source_ip", flat=True)) >= {"127.0.0.1"}


def test_behind_our_proxy_the_address_it_saw_counts(viewer, client, settings):
    settings.BEHIND_PROXY = True
    client.post(
        "/sign-in",
        {"username": "vera", "password": "wrong"},
        headers={"x-forwarded-for": "6.6.6.6, 10.1.1.1"},
    )
    assert AuditEvent.objects.latest("id").source_ip == "10.1.1.1"


@pytest.mark.parametrize("said", ["unknown", "10.0.0.1:80", "<script>", "fe80::1%eth0", ", "])
def test_an_address_that_is_none_breaks_nothing(viewer, client, settings, said):
    settings.BEHIND_PROXY = True
    form = {"username": "vera", "password": "wrong"}
    response = client.post("/sign-in", form, headers={"x-forwarded-for": said})
    assert response.status_code == 422


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "javascript:alert(1)"]
)
def test_signing_in_never_leads_away_from_here(viewer, client, target):
    assert sign_in(client, next=target)["Location"] == "/"


def test_signing_in_leads_back_to_where_one_was(viewer, client):
    assert sign_in(client, next="/nodes/?q=1")["Location"] == "/nodes/?q=1"


@pytest.mark.parametrize("name", ["\0", "x" * 5000, "a' OR 1=1 --", "\ud7ff"])
def test_no_name_breaks_the_sign_in(db, client, name):
    assert sign_in(client, name, "p").status_code == 422


def test_signing_out_ends_the_session_on_the_server(viewer, client):
    sign_in(client)
    key = client.session.session_key
    assert queries.actor_of_session(key).name == "vera"
    assert client.get("/sign-out").status_code == 405
    client.post("/sign-out")
    assert queries.actor_of_session(key) is None


def ways_in(user, client):
    """A session, its socket check and a token of one person: each a function that says whether it still works."""
    client.force_login(user)
    key, token = client.session.session_key, bearer(user)
    return [
        lambda: client.get("/api/v1/nodes").status_code == 200,
        lambda: queries.actor_of_session(key) is not None,
        lambda: Client().get("/api/v1/nodes", headers=token).status_code == 200,
    ]


def test_shutting_a_person_out_ends_every_way_in_at_once(viewer, client):
    ways = ways_in(viewer, client)
    assert [way() for way in ways] == [True, True, True]
    actions.change_user(SHELL, username="vera", active=False, now=NOW)
    assert [way() for way in ways] == [False, False, False]


def test_a_new_password_ends_the_other_sessions_and_keeps_this_one(viewer, client):
    other = Client()
    other.force_login(viewer)
    client.force_login(viewer)
    key = other.session.session_key
    changed = client.post(
        "/password",
        {
            "old_password": PASSWORD,
            "new_password": "another horse battery",
            "new_password_again": "another horse battery",
        },
    )
    assert changed.status_code == 302
    assert client.get("/api/v1/nodes").status_code == 200
    assert queries.actor_of_session(key) is None
    assert other.get("/api/v1/nodes").status_code == 401


@pytest.mark.parametrize(
    ("old", "new", "again"),
    [
        ("wrong", "another horse battery", "another horse battery"),
        (PASSWORD, "short", "short"),
        (PASSWORD, "another horse battery", "a different horse"),
        (PASSWORD, "password1234", "password1234"),
        (PASSWORD, "x" * 2000, "x" * 2000),
    ],
)
def test_a_password_that_will_not_do_is_refused(viewer, browser, old, new, again):
    form = {"old_password": old, "new_password": new, "new_password_again": again}
    assert browser(viewer).post("/password", form).status_code == 422
    viewer.refresh_from_db()
    assert viewer.check_password(PASSWORD)


def test_less_of_a_role_counts_from_the_next_request(administrator, client):
    User.objects.create(username="second", role=Role.ADMINISTRATOR)
    token = bearer(administrator)
    assert client.get("/api/v1/audit", headers=token).status_code == 200
    actions.change_user(SHELL, username="ada", role=Role.VIEWER, now=NOW)
    assert client.get("/api/v1/audit", headers=token).status_code == 403


def test_the_last_administrator_stays(administrator):
    with pytest.raises(Conflict):
        actions.change_user(SHELL, username="ada", role=Role.VIEWER, now=NOW)
    with pytest.raises(Conflict):
        actions.change_user(SHELL, username="ada", active=False, now=NOW)
    administrator.refresh_from_db()
    assert (administrator.role, administrator.is_active) == (Role.ADMINISTRATOR, True)


# -- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_ends_when_it_expires_or_is_revoked(viewer):
    text = actions.create_token(actor(viewer), name="t", role=Role.VIEWER, days=1, now=NOW)
    assert queries.find_token(text, NOW + timedelta(hours=23)) is not None
    assert queries.find_token(text, NOW + timedelta(hours=25)) is None
    token = queries.find_token(text, NOW)
    actions.revoke_token(actor(viewer), token_id=token.id, now=NOW)
    assert queries.find_token(text, NOW) is None


def test_a_token_reaches_no_further_than_its_owner(viewer, client):
    token = bearer(viewer, Role.ADMINISTRATOR)
    assert client.get("/api/v1/audit", headers=token).status_code == 403


def test_a_token_may_reach_less_far_than_its_owner(administrator, client):
    token = bearer(administrator, Role.VIEWER)
    assert client.get("/api/v1/audit", headers=token).status_code == 403


def test_nobody_revokes_a_token_of_someone_else(viewer, operator, administrator):
    text = actions.create_token(actor(operator), name="t", role=Role.VIEWER, days=1, now=NOW)
    token_id = queries.find_token(text, NOW).id
    with pytest.raises(NotFound):
        actions.revoke_token(actor(viewer), token_id=token_id, now=NOW)
    assert queries.list_tokens(actor(viewer)) == []
    actions.revoke_token(actor(administrator), token_id=token_id, now=NOW)
    assert queries.find_token(text, NOW) is None


def test_a_token_makes_no_tokens(administrator, client):
    response = client.post(
        "/api/v1/tokens",
        data={"name": "heir"},
        content_type="application/json",
        headers=bearer(administrator),
    )
    assert response.status_code == 403


def test_a_person_makes_lists_and_revokes_a_token_of_their_own(viewer, browser):
    session = browser(viewer)
    made = session.post(
        "/api/v1/tokens", data={"name": "grafana"}, content_type="application/json"
    )
    headers = {"authorization": f"Bearer {made.json()['token']}"}
    assert Client().get("/api/v1/nodes", headers=headers).status_code == 200
    (listed,) = session.get("/api/v1/tokens").json()["items"]
    assert (listed["name"], listed["owner"], listed["role"]) == ("grafana", "vera", "viewer")
    gone = session.post(f"/api/v1/tokens/{listed['id']}/revoke")
    assert (gone.status_code, gone.content) == (204, b"")
    assert Client().get("/api/v1/nodes", headers=headers).status_code == 401


def test_an_administrator_lets_people_in_and_shuts_them_out(administrator, browser):
    session = browser(administrator)
    made = session.post(
        "/api/v1/users",
        data={"username": "nils", "password": PASSWORD, "role": "operator"},
        content_type="application/json",
    )
    assert (made.status_code, made.json()["role"]) == (201, "operator")
    assert PASSWORD not in made.content.decode()
    assert sign_in(Client(), "nils").status_code == 302
    changed = session.patch(
        "/api/v1/users/nils", data={"active": False}, content_type="application/json"
    )
    assert changed.json()["active"] is False
    assert sign_in(Client(REMOTE_ADDR="10.0.0.5"), "nils").status_code == 422
    assert [user["username"] for user in session.get("/api/v1/users").json()["items"]] == [
        "ada",
        "nils",
    ]


def test_the_use_of_a_token_is_noted_once_a_minute(viewer, django_assert_num_queries):
    text = actions.create_token(actor(viewer), name="t", role=Role.VIEWER, days=1, now=NOW)
    for seconds, queries_made in [(0, 2), (1, 1), (59, 1), (61, 2)]:
        with django_assert_num_queries(queries_made):
            actions.use_token(text, now=NOW + timedelta(seconds=seconds))


def test_the_database_holds_no_token_and_no_password(viewer, settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    viewer.set_password(PASSWORD)
    viewer.save()
    link = actions.create_setup_link(SHELL, now=NOW)
    text = actions.create_token(actor(viewer), name="t", role=Role.VIEWER, days=1, now=NOW)
    for secret in (text.rsplit("_", 1)[1], link.rsplit(".", 1)[1], PASSWORD):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT coalesce(string_agg(t::text, ''), '') || coalesce(string_agg(u::text, ''), '') || "
                "coalesce(string_agg(s::text, ''), '') || coalesce(string_agg(a::text, ''), '') "
                "FROM access_user u, access_api_token t, access_setup_link s, audit_event a"
            )
            assert secret not in cursor.fetchone()[0]


def test_passwords_are_kept_with_argon2id(settings):
    from dcops.settings import PASSWORD_HASHERS

    settings.PASSWORD_HASHERS = PASSWORD_HASHERS
    kept = make_password(PASSWORD)
    assert identify_hasher(kept).algorithm == "argon2"
    assert "$argon2id$" in kept


# -- the set-up link ------------------------------------------------------------------------------------------------


def form(**change):
    return {"username": "ada", "password": PASSWORD, "password_again": PASSWORD} | change


def test_the_set_up_link_makes_one_administrator_and_signs_them_in(db, client):
    assert queries.needs_setup()
    link = actions.create_setup_link(system("up"), now=clock.now())
    opened = client.get(link)
    assert (opened.status_code, opened["Location"]) == (302, "/set-up/")
    assert client.get("/set-up/").status_code == 200
    assert client.post("/set-up/", form())["Location"] == "/"
    assert client.get("/api/v1/audit").status_code == 200
    assert User.objects.get().role == Role.ADMINISTRATOR
    assert not queries.needs_setup()
    assert Client().get(link).status_code == 404


def test_a_mistake_in_the_form_does_not_use_up_the_link(db, client):
    client.get(actions.create_setup_link(SHELL, now=clock.now()))
    for change in (
        {"password_again": "different"},
        {"password": "short", "password_again": "short"},
        {"username": "a b"},
    ):
        assert client.post("/set-up/", form(**change)).status_code == 422
    assert not User.objects.exists()
    assert client.post("/set-up/", form()).status_code == 302


def test_without_a_link_there_is_no_set_up(db, client):
    for answer in (
        client.get("/set-up/"),
        client.post("/set-up/", form()),
        client.get("/set-up/a.b"),
    ):
        assert answer.status_code == 404
    assert not User.objects.exists()


def use(link, now=NOW, **change):
    wanted = {"username": "ada", "password": PASSWORD, "source_ip": "", "request_id": ""}
    return actions.use_setup_link(link.removeprefix("/set-up/"), now=now, **wanted | change)


def test_a_link_is_used_once_and_in_time(db):
    link = actions.create_setup_link(SHELL, ttl_s=60, now=NOW)
    with pytest.raises(NotFound):
        use(link, NOW + timedelta(seconds=60))
    use(link, NOW + timedelta(seconds=59))
    with pytest.raises(NotFound):
        use(link, username="eve")


def test_a_newer_link_replaces_the_older(db):
    old = actions.create_setup_link(SHELL, now=NOW)
    new = actions.create_setup_link(SHELL, now=NOW)
    with pytest.raises(NotFound):
        use(old)
    use(new)
    assert SetupLink.objects.exclude(used_at=None).count() == 1


def test_a_name_that_is_taken_leaves_the_link_good(administrator):
    link = actions.create_setup_link(SHELL, now=NOW)
    with pytest.raises(Conflict):
        use(link)
    use(link, username="second")


def test_only_a_shell_on_the_server_makes_links(administrator):
    with pytest.raises(Forbidden):
        actions.create_setup_link(actor(administrator), now=NOW)
    with pytest.raises(Invalid):
        actions.create_setup_link(cli("root"), ttl_s=0, now=NOW)
