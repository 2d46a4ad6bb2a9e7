"""Property-based: whatever the description allows, and what it does not, the API answers as declared and never breaks."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dcops.fleet import actions, queries
from dcops.wsgi import application
from tests.integration.control.cast import NOW, bearer, inventory, join

# A schema cannot say that only a simulated hall shares a token, that a token makes no tokens, or what a good password is.
ACROSS_FIELDS = {
    "/api/v1/join-tokens",
    "/api/v1/tokens",
    "/api/v1/users",
    "/api/v1/users/{username}",
    "/api/v1/nodes/{name}/rename",
}
NAMES = ("name", "uuid", "token_id", "username", "table", "subject", "spool_id")
LIMITS = settings(
    max_examples=15,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def described(transactional_db, administrator):
    """The API's own description as an administrator gets it, and their headers."""
    node = queries.node_for_link(join(hostname="gpu-1").node_id)
    actions.record_inventory(node.id, inventory("GPU-a"), NOW)
    headers = {"Authorization": bearer(administrator)["authorization"], "Host": "localhost"}
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", application, headers=headers)
    return schema, headers


def test_everything_the_api_answers_is_as_described(described):
    schema, headers = described
    tried = 0
    for result in schema.get_all_operations():
        _check(result.ok(), headers)
        tried += 1
    assert tried >= 8


def _check(operation, headers):
    excluded = [positive_data_acceptance] if operation.path in ACROSS_FIELDS else []

    @LIMITS
    @given(case=operation.as_strategy())
    def answers_as_described(case):
        case.call_and_validate(headers=headers, excluded_checks=excluded)

    answers_as_described()


def test_a_stranger_is_refused_as_described(described):
    schema, _headers = described
    for result in schema.get_all_operations():
        operation = result.ok()
        case = operation.Case(path_parameters=dict.fromkeys(NAMES, "x"))
        response = case.call(headers={"Host": "localhost"})
        assert response.status_code == 401
