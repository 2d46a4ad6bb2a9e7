"""No change without its audit row, and no audit row ever changes."""

import inspect
import random
import threading
import time
from contextlib import contextmanager, suppress
from itertools import pairwise

import psycopg
import pytest
from django.core import serializers
from django.db import DatabaseError, connection, transaction

from dcops.access import actions as access
from dcops.access import queries as people
from dcops.access.actor import Role, system
from dcops.access.models import ApiToken, SetupLink, User
from dcops.audit import actions as audit
from dcops.audit.models import AuditEvent
from dcops.domain.errors import NotFound, NotSignedIn
from dcops.fleet import actions as fleet
from dcops.fleet.models import Gpu, JoinToken, Node
from tests.integration.control.cast import (
    NOW,
    PASSWORD,
    SHELL,
    actor,
    inventory,
    join,
    join_request,
)

TABLES = (Node, Gpu, JoinToken, User, ApiToken, SetupLink)


class Stage:
    """Everything the verbs below act on, made before their audit rows are counted."""

    def __init__(self, administrator, viewer):
        self.administrator, self.viewer = administrator, viewer
        self.admin = actor(administrator)
        self.pending, self.other = join(hostname="pending"), join(hostname="other")
        self.token = fleet.create_join_token(SHELL, now=NOW)
        self.link = access.create_setup_link(SHELL, now=NOW).removeprefix("/set-up/")
        text = self.make_token()
        self.api_token = text.removeprefix(people.TOKEN_PREFIX).split("_")[0]

    def make_token(self):
        return access.create_token(actor(self.viewer), name="t", role=Role.VIEWER, days=1, now=NOW)

    def node_id(self):
        return Node.objects.get(name="pending").id


def wrong_password(stage):
    with pytest.raises(NotSignedIn):
        access.sign_in("vera", "wrong", source_ip="10.0.0.9", request_id="", now=NOW)


VERBS = {
    fleet.create_join_token: lambda s: fleet.create_join_token(s.admin, now=NOW),
    fleet.join_node: lambda s: fleet.join_node(
        join_request(s.token, hostname="new"), source_ip="", now=NOW
    ),
    fleet.approve_node: lambda s: fleet.approve_node(s.admin, name="pending", now=NOW),
    fleet.revoke_node: lambda s: fleet.revoke_node(s.admin, name="pending", now=NOW),
    fleet.quarantine_node: lambda s: fleet.quarantine_node(
        s.admin, name="pending", reason="strange", now=NOW
    ),
    fleet.rename_node: lambda s: fleet.rename_node(
        s.admin, name="pending", new_name="renamed", now=NOW
    ),
    fleet.adopt_gpus: lambda s: fleet.adopt_gpus(s.node_id(), ["GPU-nobody-named"], NOW),
    fleet.record_inventory: lambda s: fleet.record_inventory(s.node_id(), inventory("GPU-1"), NOW),
    access.create_setup_link: lambda s: access.create_setup_link(SHELL, now=NOW),
    access.use_setup_link: lambda s: access.use_setup_link(
        s.link, username="eve", password=PASSWORD, source_ip="", request_id="", now=NOW
    ),
    access.create_user: lambda s: access.create_user(
        s.admin, username="new", password=PASSWORD, role=Role.VIEWER, now=NOW
    ),
    access.change_user: lambda s: access.change_user(
        s.admin, username="vera", role=Role.OPERATOR, active=False, now=NOW
    ),
    access.sign_in: lambda s: access.sign_in(
        "vera", PASSWORD, source_ip="", request_id="", now=NOW
    ),
    access.sign_out: lambda s: access.sign_out(actor(s.viewer), now=NOW),
    access.change_password: lambda s: access.change_password(
        actor(s.viewer),
        user=s.viewer,
        old_password=PASSWORD,
        new_password="another horse battery",
        now=NOW,
    ),
    access.create_token: lambda s: s.make_token(),
    access.revoke_token: lambda s: access.revoke_token(s.admin, token_id=s.api_token, now=NOW),
    access.record_denial: lambda s: access.record_denial(
        actor(s.viewer), action="http.get", path="/x", now=NOW
    ),
    wrong_password: wrong_password,
}

# Verbs that decide nothing: what they store is a fact an agent states, a credential's last use, or what is over anyway.
NOT_AUDITED = {fleet.note_link, fleet.note_alive, access.use_token, access.forget_expired}


@pytest.fixture
def stage(administrator, viewer):
    return Stage(administrator, viewer)


def everything():
    """Every row of every table a verb may change, as text."""
    rows = [row for model in TABLES for row in model.objects.order_by("pk")]
    return serializers.serialize("json", rows)


@contextmanager
def without_audit(database_urls):
    """Take the runtime role's right to write audit rows away for a while."""
    with psycopg.connect(database_urls.owner, autocommit=True) as owner:
        owner.execute("REVOKE INSERT ON audit_event FROM dcops_app")
        try:
            yield
        finally:
            owner.execute("GRANT INSERT ON audit_event TO dcops_app")


def test_every_verb_is_listed_here():
    found = {
        function
        for module in (fleet, access)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == module.__name__
    }
    assert found == (VERBS.keys() - {wrong_password}) | NOT_AUDITED


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_each_verb_writes_exactly_one_row(stage, verb):
    before = AuditEvent.objects.count()
    VERBS[verb](stage)
    assert AuditEvent.objects.count() == before + 1
    row = AuditEvent.objects.latest("id")
    assert (row.at, row.action != "", row.actor_kind != "") == (NOW, True, True)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_no_verb_changes_anything_when_it_cannot_be_written_down(stage, verb, database_urls):
    before = everything()
    with without_audit(database_urls), pytest.raises(DatabaseError, match="audit_event"):
        VERBS[verb](stage)
    assert everything() == before


def test_an_inventory_that_says_nothing_new_writes_no_row(stage):
    VERBS[fleet.record_inventory](stage)
    before = AuditEvent.objects.count()
    VERBS[fleet.record_inventory](stage)
    assert AuditEvent.objects.count() == before


def test_recording_outside_a_transaction_is_refused(transactional_db):
    with pytest.raises(RuntimeError, match="transaction"):
        audit.record(system("test"), "x", object_type="t", object_id=1, now=NOW)
    assert not AuditEvent.objects.exists()


def record():
    with transaction.atomic():
        audit.record(system("test"), "x", object_type="t", object_id=1, now=NOW)


CHANGES = [
    "UPDATE audit_event SET reason = 'x'",
    "DELETE FROM audit_event",
    "TRUNCATE audit_event",
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_runtime_role_cannot_change_the_trail(db, change):
    record()
    with (
        pytest.raises(DatabaseError, match="permission denied"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(change)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("replica", ["origin", "replica"])
def test_even_a_superuser_is_stopped_by_the_trigger(
    transactional_db, database_urls, change, replica
):
    record()
    with psycopg.connect(database_urls.admin) as admin:
        admin.execute(f"SET session_replication_role = {replica}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            admin.execute(change)
    assert AuditEvent.objects.count() == 1


def test_the_runtime_role_cannot_rewrite_which_migrations_ran(db):
    with (
        pytest.raises(DatabaseError, match="permission denied"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("DELETE FROM django_migrations")


def test_no_secret_reaches_the_trail(stage):
    for verb in VERBS.values():
        with transaction.atomic():
            verb(stage)
            trail = serializers.serialize("json", AuditEvent.objects.all())
            transaction.set_rollback(True)
        for secret in (
            PASSWORD,
            "another horse battery",
            stage.token.rsplit(".", 1)[1],
            stage.link,
        ):
            assert secret not in trail


def test_a_name_nobody_has_is_not_written_down(db):
    with pytest.raises(NotSignedIn):
        access.sign_in(PASSWORD, "oops", source_ip="10.0.0.9", request_id="", now=NOW)
    row = AuditEvent.objects.get()
    assert (row.decision, row.actor_name, row.source_ip) == ("denied", "", "10.0.0.9")


def test_a_connection_that_dies_anywhere_leaves_change_and_row_together(
    transactional_db, database_urls
):
    """Backends are killed at random under a loop of renames; the chain of rows must tell every rename, and no other."""
    join(hostname="start")
    killed: list[int] = []
    killer = threading.Thread(target=kill_backends, args=(database_urls.admin, 60, killed))
    killer.start()
    while killer.is_alive():
        with suppress(DatabaseError, NotFound):
            name = Node.objects.get().name
            fleet.rename_node(SHELL, name=name, new_name=f"n-{time.monotonic_ns()}", now=NOW)
            continue
        connection.close()
    connection.close()
    renames = AuditEvent.objects.filter(action="node.rename").order_by("id")
    told = list(renames.values_list("before__name", "after__name"))
    assert len(killed) >= 60
    assert len(told) >= 10
    assert told[0][0] == "start"
    assert all(earlier[1] == later[0] for earlier, later in pairwise(told))
    assert told[-1][1] == Node.objects.get().name


def kill_backends(admin_url, times, killed):
    """End `times` backends of the runtime role, each in the middle of a transaction, and note them."""
    deadline = time.monotonic() + 30
    with psycopg.connect(admin_url, autocommit=True) as admin:
        while len(killed) < times and time.monotonic() < deadline:
            killed += admin.execute(KILL).fetchall()
            time.sleep(random.uniform(0, 0.02))


KILL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = 'dcops_app' AND xact_start IS NOT NULL
"""
