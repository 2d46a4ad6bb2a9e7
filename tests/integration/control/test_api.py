"""The REST API: who may call what, what it says, and that its description tells the truth."""

import json
from datetime import timedelta

import psycopg
import pytest

from dcops.access.actor import Role
from dcops.api import api
from dcops.audit.models import AuditEvent
from dcops.domain.nodes import NodeState
from dcops.fleet import actions, queries
from dcops.fleet.models import JoinToken, Node
from tests.integration.control.cast import NOW, PASSWORD, SHELL, bearer, inventory, join

# What each role gets for each operation; an operation that is not here fails the first test below.
ROLES = ("viewer", "operator", "administrator")
MATRIX = {
    ("get", "/api/v1/nodes"): (200, 200, 200),
    ("get", "/api/v1/nodes/{name}"): (200, 200, 200),
    ("get", "/api/v1/gpus"): (200, 200, 200),
    ("get", "/api/v1/gpus/{uuid}"): (200, 200, 200),
    ("get", "/api/v1/audit"): (403, 403, 200),
    ("post", "/api/v1/nodes/{name}/approve"): (403, 403, 200),
    ("post", "/api/v1/nodes/{name}/revoke"): (403, 403, 200),
    ("post", "/api/v1/nodes/{name}/quarantine"): (403, 200, 200),
    ("post", "/api/v1/nodes/{name}/rename"): (403, 200, 200),
    ("post", "/api/v1/join-tokens"): (403, 403, 201),
    ("get", "/api/v1/tokens"): (200, 200, 200),
    ("post", "/api/v1/tokens"): (201, 201, 201),
    ("post", "/api/v1/tokens/{token_id}/revoke"): (404, 404, 404),
    ("get", "/api/v1/users"): (403, 403, 200),
    ("post", "/api/v1/users"): (403, 403, 201),
    ("patch", "/api/v1/users/{username}"): (403, 403, 200),
}
BODIES = {
    ("post", "/api/v1/nodes/{name}/rename"): {"new_name": "gpu-one"},
    ("post", "/api/v1/tokens"): {"name": "t"},
    ("post", "/api/v1/users"): {"username": "new", "password": PASSWORD},
    ("patch", "/api/v1/users/{username}"): {"role": "operator"},
}
# A token makes no tokens, whoever holds it.
BY_SESSION_ALONE = {("post", "/api/v1/tokens")}


@pytest.fixture
def fleet(db):
    node = queries.node_for_link(join(hostname="gpu-1").node_id)
    actions.record_inventory(node.id, inventory("GPU-a", "GPU-b"), NOW)
    return node


@pytest.fixture
def person(request, viewer, operator, administrator):
    return {"viewer": viewer, "operator": operator, "administrator": administrator}


def call(client, method, path, headers, body=None):
    path = path.format(name="gpu-1", uuid="GPU-a", token_id="none", username="vera")
    if method == "get":
        return client.get(path, headers=headers)
    send = getattr(client, method)
    return send(path, data=body or {}, content_type="application/json", headers=headers)


def operations():
    for path, methods in api.get_openapi_schema()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_every_operation_stands_in_the_matrix():
    ours = {  # telemetry's own tests hold its part
        (method, path)
        for method, path, operation in operations()
        if not operation["operationId"].startswith("dcops_telemetry")
    }
    assert ours == set(MATRIX)


def test_every_operation_declares_every_error():
    for method, path, operation in operations():
        declared = {str(status) for status in operation["responses"]}
        assert declared >= {"401", "403", "404", "409", "422", "429"}, (method, path)
        assert operation["security"] == [{"BearerToken": []}, {"Session": []}], (method, path)


def test_the_description_is_openapi_3_1(administrator, client):
    schema = client.get("/api/v1/openapi.json", headers=bearer(administrator)).json()
    assert schema["openapi"].startswith("3.1")
    assert set(schema["components"]["securitySchemes"]) == {"BearerToken", "Session"}


@pytest.mark.parametrize("way", ["token", "session"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation", MATRIX, ids=lambda operation: " ".join(operation))
def test_each_role_may_do_what_the_matrix_says(fleet, person, client, operation, role, way):
    method, path = operation
    headers = {}
    if way == "token":
        headers = bearer(person[role])
    else:
        client.force_login(person[role])
    before = state()
    response = call(client, method, path, headers, BODIES.get(operation))
    refused = way == "token" and operation in BY_SESSION_ALONE
    assert response.status_code == (403 if refused else MATRIX[operation][ROLES.index(role)])
    if response.status_code == 403:
        assert response.json()["code"] == "forbidden"
        assert state() == before
        denial = AuditEvent.objects.latest("id")
        assert (denial.decision, denial.action) == ("denied", f"http.{method}")


def state():
    return list(Node.objects.values_list("state")), JoinToken.objects.count()


def test_a_node_that_is_missing_and_one_of_another_spelling_look_the_same(fleet, viewer, client):
    headers = bearer(viewer)
    said = {
        (response.status_code, response.content)
        for name in ("gpu-2", "GPU-1", "gpu", "gpu-1%20", "gpu-1%0a", "'%20OR%201=1", "%e2%80%ae")
        for response in [client.get(f"/api/v1/nodes/{name}", headers=headers)]
    }
    assert len(said) == 1
    assert said.pop()[0] == 404


def test_a_decision_that_comes_too_late_is_a_conflict(fleet, administrator, client):
    headers = bearer(administrator)
    assert call(client, "post", "/api/v1/nodes/{name}/approve", headers).status_code == 200
    again = call(client, "post", "/api/v1/nodes/{name}/approve", headers)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert "approved" in again.json()["message"]


def test_an_approval_keeps_its_reason(fleet, administrator, client):
    response = call(
        client,
        "post",
        "/api/v1/nodes/{name}/approve",
        bearer(administrator),
        {"reason": "rack 7 is ours"},
    )
    assert response.json()["state"] == "approved"
    row = AuditEvent.objects.latest("id")
    assert (row.reason, row.before, row.after) == (
        "rack 7 is ours",
        {"state": "pending"},
        {"state": "approved"},
    )
    assert row.auth_method == "api token"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", None),
        (b"[]", "body"),
        (b"5", "body"),
        (b'{"ttls": 5}', "ttls"),
        (b'{"ttl_s": 0}', "ttl_s"),
        (b'{"ttl_s": "x"}', "ttl_s"),
        (b'{"ttl_s": 1e400}', "ttl_s"),
        (b'{"uses": 2}', "uses"),
        (b'{"node_name": "A B"}', "node_name"),
        (b'{"node_name": "a\\u0000"}', "node_name"),
        (b"\xff\xfe", None),
    ],
)
def test_bad_input_is_a_sentence_that_names_its_field(administrator, client, body, field):
    response = client.post(
        "/api/v1/join-tokens",
        data=body,
        content_type="application/json",
        headers=bearer(administrator),
    )
    assert response.status_code == 422
    said = response.json()
    assert said["message"]
    assert said.get("field") == field
    assert not JoinToken.objects.exists()


def pages(client, path, headers, key):
    found, cursor = [], ""
    while True:
        page = client.get(f"{path}&cursor={cursor}" if cursor else path, headers=headers).json()
        found += [item[key] for item in page["items"]]
        if page["next_cursor"] is None:
            return found
        cursor = page["next_cursor"]


def test_pages_follow_each_other_without_gap_or_repeat(fleet, administrator, client):
    for number in range(6):
        join(hostname=f"n{number}")
    headers = bearer(administrator)
    names = sorted(["gpu-1", *(f"n{i}" for i in range(6))])
    assert pages(client, "/api/v1/nodes?limit=2", headers, "name") == names
    assert pages(client, "/api/v1/nodes?limit=7", headers, "name") == names
    assert pages(client, "/api/v1/gpus?limit=1", headers, "uuid") == ["GPU-a", "GPU-b"]
    trail = pages(client, "/api/v1/audit?limit=3", headers, "id")
    assert trail == list(AuditEvent.objects.order_by("-id").values_list("id", flat=True))


def test_nodes_can_be_asked_for_by_state(fleet, administrator, client):
    join(hostname="ok", auto_approve=True)
    response = client.get("/api/v1/nodes?state=approved", headers=bearer(administrator))
    assert [node["name"] for node in response.json()["items"]] == ["ok"]


@pytest.mark.parametrize(
    ("path", "queries_made"),
    [
        ("/api/v1/nodes", 2),
        ("/api/v1/gpus", 2),
        ("/api/v1/nodes/gpu-1", 2),
        ("/api/v1/gpus/GPU-a", 2),
        ("/api/v1/audit", 2),
    ],
)
def test_reading_takes_two_queries_at_any_size(
    fleet, administrator, client, django_assert_num_queries, path, queries_made
):
    for number in range(5):
        node = queries.node_for_link(join(hostname=f"n{number}").node_id)
        actions.record_inventory(node.id, inventory(f"GPU-{number}-0", f"GPU-{number}-1"), NOW)
    headers = bearer(administrator)
    client.get(path, headers=headers)  # the token's first use is noted
    with django_assert_num_queries(queries_made):
        assert client.get(path, headers=headers).status_code == 200


ANSWERS = {
    "/api/v1/nodes/gpu-1": {
        "name", "uuid", "state", "state_reason", "state_changed_at", "simulated", "enrolled_at",
        "last_seen_at", "inventory_at", "gpu_count", "hostname", "machine_id", "boot_id",
        "agent_version", "os", "kernel", "architecture", "cpu_model", "cpu_cores", "cpu_threads",
        "memory_total_bytes", "driver_version", "cuda_version", "nvml_version",
    },
    "/api/v1/gpus/GPU-a": {
        "uuid", "node", "simulated", "present", "index", "model", "serial", "pci_bus_id", "vbios",
        "architecture", "compute_capability", "memory_total_bytes", "power_limit_min_w",
        "power_limit_max_w", "power_limit_default_w", "temperature_slowdown_c",
        "temperature_shutdown_c", "temperature_memory_max_c", "sm_clock_max_mhz",
        "memory_clock_max_mhz", "pcie_link_generation_max", "pcie_link_width_max", "ecc_enabled",
        "persistence_mode", "mig_mode", "mig_devices", "first_seen_at", "last_seen_at",
    },
}  # fmt: skip


@pytest.mark.parametrize("path", ANSWERS)
def test_answers_hold_these_fields_and_no_others(fleet, viewer, client, path):
    assert set(client.get(path, headers=bearer(viewer)).json()) == ANSWERS[path]


def test_when_nothing_can_be_written_down_changes_fail_with_503_and_reads_go_on(
    fleet, administrator, client, database_urls
):
    headers = bearer(administrator)
    client.get("/api/v1/nodes", headers=headers)
    with psycopg.connect(database_urls.owner, autocommit=True) as owner:
        owner.execute("REVOKE INSERT ON audit_event FROM dcops_app")
        try:
            refused = call(client, "post", "/api/v1/nodes/{name}/approve", headers)
            read = call(client, "get", "/api/v1/nodes/{name}", headers)
        finally:
            owner.execute("GRANT INSERT ON audit_event TO dcops_app")
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert read.json()["state"] == NodeState.PENDING


def test_unknown_paths_and_methods_answer_in_json(administrator, client):
    headers = bearer(administrator)
    assert client.get("/api/v1/nope", headers=headers).json()["code"] == "not_found"
    assert client.delete("/api/v1/nodes", headers=headers).status_code == 405


def test_an_expired_token_of_a_person_is_refused(administrator, client):
    from dcops import clock
    from dcops.access import actions as access
    from tests.integration.control.cast import actor

    text = access.create_token(
        actor(administrator),
        name="old",
        role=Role.VIEWER,
        days=1,
        now=clock.now() - timedelta(days=2),
    )
    response = client.get("/api/v1/nodes", headers={"authorization": f"Bearer {text}"})
    assert response.status_code == 401


def test_the_token_of_the_api_lets_a_machine_in(administrator, client):
    from dcops import clock
    from tests.integration.control.cast import join_request

    response = call(
        client, "post", "/api/v1/join-tokens", bearer(administrator), {"auto_approve": True}
    )
    answer = actions.join_node(
        join_request(json.loads(response.content)["token"]), source_ip="", now=clock.now()
    )
    assert answer.state == NodeState.APPROVED


def test_approving_by_the_shell_and_by_the_api_are_the_same_thing(fleet, administrator, client):
    actions.quarantine_node(SHELL, name="gpu-1", reason="odd", now=NOW)
    response = call(client, "post", "/api/v1/nodes/{name}/approve", bearer(administrator))
    assert (response.json()["state"], response.json()["state_reason"]) == ("approved", "")


def test_a_renamed_node_keeps_its_identity_and_a_taken_name_is_a_conflict(fleet, operator, client):
    join(hostname="gpu-2")
    headers = bearer(operator, Role.OPERATOR)
    path = "/api/v1/nodes/{name}/rename"
    taken = call(client, "post", path, headers, {"new_name": "gpu-2"})
    assert (taken.status_code, taken.json()["code"]) == (409, "conflict")
    bad = call(client, "post", path, headers, {"new_name": "GPU 2"})
    assert (bad.status_code, bad.json()["field"]) == (422, "new_name")
    done = call(client, "post", path, headers, {"new_name": "rack-7"})
    assert (done.json()["name"], done.json()["uuid"]) == ("rack-7", fleet.uuid)
    assert client.get("/api/v1/nodes/gpu-1", headers=headers).status_code == 404
