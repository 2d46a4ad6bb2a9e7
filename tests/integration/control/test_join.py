"""How a machine becomes a node: one token, one node, whatever happens at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from django.db import connection

from dcops.audit.models import AuditEvent
from dcops.domain.errors import Conflict, Forbidden, Invalid
from dcops.domain.nodes import NodeState
from dcops.fleet import actions, queries
from dcops.fleet.errors import JoinRefused
from dcops.fleet.models import JoinToken, Node
from dcops.wire.frames import RefusalCode
from tests.integration.control.cast import (
    NOW,
    SHELL,
    actor,
    fresh_key,
    join,
    join_request,
)


def try_join(text, **request):
    """Join from a thread of its own and say how it went."""
    try:
        return actions.join_node(
            join_request(text, **request), source_ip="10.0.0.1", now=NOW
        ).node_name
    except JoinRefused as refused:
        return RefusalCode(refused.code)
    finally:
        connection.close()


def at_once(count, work):
    """Run work(i) in `count` threads that all start together."""
    start = threading.Barrier(count)

    def run(number):
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.fixture
def wide_pool(transactional_db):
    """Enough connections for a real race; the tests' pool of four would hold it back."""
    pool = connection.settings_dict["OPTIONS"]["pool"]
    before = dict(pool)
    connection.close()
    connection.close_pool()
    pool.update(max_size=64, timeout=60)
    yield
    connection.close()
    connection.close_pool()
    pool.clear()
    pool.update(before)


def test_of_many_machines_with_one_token_exactly_one_gets_in(wide_pool):
    text = actions.create_join_token(SHELL, now=NOW)
    outcomes = at_once(1000, lambda i: try_join(text, hostname=f"host-{i}"))
    assert outcomes.count(RefusalCode.TOKEN) == 999
    assert Node.objects.count() == 1
    assert AuditEvent.objects.filter(action="node.join").count() == 1
    assert JoinToken.objects.get().uses_left == 0


def test_a_shared_token_of_a_hall_lets_in_as_many_as_it_says(wide_pool):
    text = actions.create_join_token(SHELL, simulated=True, uses=30, now=NOW)
    outcomes = at_once(50, lambda i: try_join(text, hostname=f"sim-{i}", simulated=True))
    assert outcomes.count(RefusalCode.TOKEN) == 20
    assert Node.objects.filter(simulated=True).count() == 30


def test_machines_of_one_name_that_join_at_once_all_get_names_of_their_own(wide_pool):
    texts = [actions.create_join_token(SHELL, now=NOW) for _ in range(4)]
    names = at_once(4, lambda i: try_join(texts[i], hostname="gpu"))
    assert sorted(names) == ["gpu", "gpu-2", "gpu-3", "gpu-4"]


def test_a_token_is_refused_one_second_after_its_end(db):
    text = actions.create_join_token(SHELL, now=NOW)
    late = NOW + timedelta(seconds=actions.DEFAULT_TOKEN_TTL_S + 1)
    with pytest.raises(JoinRefused) as refused:
        actions.join_node(join_request(text), source_ip="", now=late)
    assert refused.value.code == RefusalCode.TOKEN
    assert not Node.objects.exists()


def test_a_token_is_good_until_its_last_second(db):
    text = actions.create_join_token(SHELL, now=NOW)
    last = NOW + timedelta(seconds=actions.DEFAULT_TOKEN_TTL_S - 1)
    assert actions.join_node(join_request(text), source_ip="", now=last).state == "pending"


def test_wrong_used_and_unknown_tokens_are_refused_in_the_same_words(db):
    text = actions.create_join_token(SHELL, now=NOW)
    request = join_request(text)
    wrong = join_request(text[:-1] + ("a" if text[-1] != "a" else "b"))
    unknown = join_request(text.replace(request.token_id, "zzzzzzzzzz"))
    said = []
    for attempt in (wrong, unknown):
        with pytest.raises(JoinRefused) as refused:
            actions.join_node(attempt, source_ip="", now=NOW)
        said.append((refused.value.code, refused.value.message))
    actions.join_node(request, source_ip="", now=NOW)
    with pytest.raises(JoinRefused) as refused:
        actions.join_node(join_request(text), source_ip="", now=NOW)
    assert {*said, (refused.value.code, refused.value.message)} == {said[0]}


def test_a_join_whose_reply_was_lost_gets_the_same_answer_again(db):
    text = actions.create_join_token(SHELL, now=NOW)
    request = join_request(text)
    first = actions.join_node(request, source_ip="", now=NOW)
    assert actions.join_node(request, source_ip="", now=NOW) == first
    assert AuditEvent.objects.filter(action="node.join").count() == 1


def test_a_known_key_cannot_join_by_another_token(db):
    key = fresh_key()
    first, second = (actions.create_join_token(SHELL, now=NOW) for _ in range(2))
    actions.join_node(join_request(first, public_key=key), source_ip="", now=NOW)
    with pytest.raises(JoinRefused) as refused:
        actions.join_node(join_request(second, public_key=key), source_ip="", now=NOW)
    assert refused.value.code == RefusalCode.IDENTITY
    assert JoinToken.objects.filter(uses_left=1).count() == 1


@pytest.mark.parametrize("key", ["", "AAAA", "not base64", "é"])
def test_a_key_that_is_none_leaves_the_token_good(db, key):
    text = actions.create_join_token(SHELL, now=NOW)
    with pytest.raises(JoinRefused) as refused:
        actions.join_node(join_request(text, public_key=key or "="), source_ip="", now=NOW)
    assert refused.value.code == RefusalCode.MALFORMED
    assert actions.join_node(join_request(text), source_ip="", now=NOW).node_name == "gpu-1"


def test_nodes_wait_for_approval_unless_the_token_says_otherwise(db):
    assert join().state == NodeState.PENDING
    assert join(auto_approve=True).state == NodeState.APPROVED


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("GPU-7.example.com", "gpu-7"),
        ("weird host\0<script>", "weird-host-script"),
        ("", "node"),
        ("---", "node"),
        ("é", "node"),
        ("x" * 300, "x" * 63),
    ],
)
def test_any_hostname_gives_a_proper_name(db, hostname, name):
    assert join(hostname=hostname).node_name == name


def test_a_token_for_a_name_gives_a_known_node_its_new_key(db):
    first = join(hostname="gpu-1", auto_approve=True)
    before = queries.node_for_link(first.node_id)
    again = join(hostname="whatever", node_name="gpu-1")
    after = queries.node_for_link(first.node_id)
    assert (again.node_id, again.node_name, again.state) == (first.node_id, "gpu-1", "pending")
    assert after.public_key != before.public_key
    assert AuditEvent.objects.filter(action="node.rejoin").count() == 1


def test_real_and_simulated_stay_apart(db):
    text = actions.create_join_token(SHELL, now=NOW)
    with pytest.raises(JoinRefused, match="imulated"):
        actions.join_node(join_request(text, simulated=True), source_ip="", now=NOW)
    join(hostname="gpu-1")
    with pytest.raises(JoinRefused, match="imulated"):
        join(node_name="gpu-1", simulated=True)
    assert JoinToken.objects.filter(uses_left=1).count() == 2


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"ttl_s": 0}, "ttl_s"),
        ({"ttl_s": 1801}, "ttl_s"),
        ({"uses": 2}, "uses"),
        ({"uses": 0, "simulated": True}, "uses"),
        ({"node_name": "Bad Name"}, "node_name"),
        ({"node_name": "gpu-1\n"}, "node_name"),
        ({"node_name": "sim", "simulated": True, "uses": 2}, "node_name"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused_with_its_field(db, wanted, field):
    with pytest.raises(Invalid) as refused:
        actions.create_join_token(SHELL, now=NOW, **wanted)
    assert refused.value.field == field


def test_only_administrators_make_tokens(viewer, operator, administrator):
    for person in (viewer, operator):
        with pytest.raises(Forbidden):
            actions.create_join_token(actor(person), now=NOW)
    assert actions.create_join_token(actor(administrator), now=NOW).startswith("dcops1.")


def test_the_database_holds_no_token_secret(db):
    text = actions.create_join_token(SHELL, now=NOW)
    secret = text.rsplit(".", 1)[1]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM fleet_join_token t, audit_event a WHERE t::text || a::text LIKE %s",
            [f"%{secret}%"],
        )
        assert cursor.fetchone() == (0,)


def test_who_decides_on_what_someone_else_just_changed_is_told_to_look_again(
    wide_pool, database_urls
):
    name = join().node_name

    def approve():
        try:
            actions.approve_node(SHELL, name=name, now=NOW)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool, psycopg.connect(database_urls.owner) as other:
        other.execute("UPDATE fleet_node SET state = 'revoked'")
        decision = pool.submit(approve)
        wait_until_one_waits_for_a_lock(database_urls)
        other.commit()
        with pytest.raises(Conflict, match="revoked"):
            decision.result(timeout=30)
    assert Node.objects.get().state == NodeState.REVOKED
    assert not AuditEvent.objects.filter(action="node.approve").exists()


def wait_until_one_waits_for_a_lock(database_urls):
    deadline = time.monotonic() + 30
    with psycopg.connect(database_urls.admin, autocommit=True) as admin:
        while not admin.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone():
            assert time.monotonic() < deadline, "nobody waited"
            time.sleep(0.01)


def test_a_revoked_node_stays_revoked(db):
    name = join().node_name
    actions.revoke_node(SHELL, name=name, now=NOW)
    for verb in (actions.approve_node, actions.revoke_node):
        with pytest.raises(Conflict):
            verb(SHELL, name=name, now=NOW)
    assert Node.objects.get().state == NodeState.REVOKED
