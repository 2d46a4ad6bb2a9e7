"""What machines ask the server about itself, and what stops a start."""

import psycopg
import pytest
from django.conf import settings as django_settings
from django.core.checks import run_checks
from django.db import connection
from prometheus_client.parser import text_string_to_metric_families

from dcops.fleet import actions, queries
from tests.integration.control.cast import NOW, bearer, inventory, join


def ids():
    return {error.id for error in run_checks(tags=["security"]) if error.id.startswith("access")}


def test_a_process_that_answers_is_healthy_without_a_database(client):
    response = client.get("/healthz")
    assert (response.status_code, response.content) == (200, b"ok\n")


def test_ready_with_everything_there(db, client, settings, redis_urls):
    settings.LIVE_URL = redis_urls.live
    response = client.get("/readyz")
    assert (response.status_code, response.json()["state"]) == (200, "ready")


def test_without_redis_it_is_degraded_and_still_ready(db, client, settings):
    settings.LIVE_URL = "redis://127.0.0.1:1/0"
    response = client.get("/readyz")
    assert (response.status_code, response.json()["state"]) == (200, "degraded")
    assert response.json()["redis"] == "Redis does not answer"


def test_without_durability_it_is_not_ready(transactional_db, client, database_urls):
    name = connection.settings_dict["NAME"]
    connection.close()
    connection.close_pool()
    with psycopg.connect(database_urls.admin, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    response = client.get("/readyz")
    connection.close()
    connection.close_pool()
    assert response.status_code == 503
    assert "synchronous_commit" in response.json()["database"]


def test_with_a_migration_missing_it_is_not_ready(transactional_db, client, database_urls):
    with psycopg.connect(database_urls.owner, autocommit=True) as owner:
        owner.execute("DELETE FROM django_migrations WHERE app = 'fleet'")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "dcops migrate" in response.json()["database"]


@pytest.fixture
def database_away(transactional_db):
    """Django's connection leads nowhere for the length of the test."""
    there = connection.settings_dict
    connection.close()
    connection.close_pool()
    pool = there["OPTIONS"]["pool"] | {"timeout": 0.5}
    connection.settings_dict = there | {"HOST": "/nowhere", "OPTIONS": {"pool": pool}}
    yield
    connection.close()
    connection.close_pool()
    connection.settings_dict = there


def test_without_a_database_everything_says_so_and_nothing_more(database_away, client):
    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["database"]) == (503, "PostgreSQL does not answer")
    api = client.get("/api/v1/nodes", headers={"authorization": "Bearer dcops_pat_a_b"})
    assert (api.status_code, api.json()["code"]) == (503, "unavailable")
    client.cookies[django_settings.SESSION_COOKIE_NAME] = "a" * 32
    page = client.get("/nodes/")
    assert page.status_code == 503
    for response in (ready, api, page):
        assert b"nowhere" not in response.content


def test_metrics_count_the_fleet(viewer, client):
    node = queries.node_for_link(join().node_id)
    actions.record_inventory(node.id, inventory("GPU-a", "GPU-b"), NOW)
    text = client.get("/metrics", headers=bearer(viewer)).content.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    nodes = {sample.labels["state"]: sample.value for sample in families["dcops_nodes"].samples}
    assert nodes == {"pending": 1, "approved": 0, "quarantined": 0, "revoked": 0}
    assert families["dcops_gpus"].samples[0].value == 2
    assert families["dcops_build_info"].samples[0].labels["version"]


GOOD_KEY = "k3vQz8!mR2xW7pL0aN5bC9dE1fG4hJ6tY8uI2oP3sD7fG1hK5l"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"SECRET_KEY": "short"}, "access.E001"),
        ({"SECRET_KEY": "x" * 80}, "access.E001"),
        ({"SECRET_KEY": "django-insecure-" + GOOD_KEY}, "access.E001"),
        ({"PUBLIC_URL": "http://dcops.example.com"}, "access.E002"),
        ({"PUBLIC_URL": "http://10.0.0.1:8000"}, "access.E002"),
        ({"PUBLIC_URL": "http://localhost.evil.example"}, "access.E002"),
        ({"PUBLIC_URL": "ftp://localhost"}, "access.E002"),
        ({"ALLOWED_HOSTS": ["a.example", "*"]}, "access.E004"),
    ],
)
def test_a_dangerous_setting_stops_the_start(settings, change, error):
    settings.SECRET_KEY = GOOD_KEY
    for name, value in change.items():
        setattr(settings, name, value)
    assert ids() == {error}


@pytest.mark.parametrize(
    "url",
    ["https://dcops.example.com", "http://localhost:8000", "http://127.0.0.1", "http://[::1]:80"],
)
def test_a_safe_setting_does_not(settings, url):
    settings.SECRET_KEY = GOOD_KEY
    settings.PUBLIC_URL = url
    assert ids() == set()


def test_a_server_key_that_others_can_read_stops_the_start(settings, tmp_path):
    settings.SECRET_KEY = GOOD_KEY
    settings.SERVER_KEY_FILE = tmp_path / "key.pem"
    settings.SERVER_KEY_FILE.touch(mode=0o600)
    assert ids() == set()
    settings.SERVER_KEY_FILE.chmod(0o640)
    assert ids() == {"access.E003"}
