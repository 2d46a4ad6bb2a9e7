"""The servers that `make up` starts: closed to strangers, and each role may do its own work and nothing else."""

from datetime import UTC, datetime

import psycopg
import pytest
import redis
from django.db import connection


@pytest.mark.django_db
def test_django_runs_as_the_runtime_role_on_the_migrated_schema():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user, count(*) FROM django_migrations")
        role, migrations = cursor.fetchone()
    assert role == "dcops_app"
    assert migrations > 0


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (a int)",
        "CREATE TEMPORARY TABLE mine (a int)",
        "TRUNCATE django_session",
        "DROP TABLE django_session",
        "ALTER TABLE django_session ADD COLUMN a int",
        "SET session_replication_role = replica",
        "CREATE ROLE other",
        "COPY django_session TO PROGRAM 'cat'",
    ],
)
def test_the_runtime_role_cannot_change_the_schema_or_rise(database_urls, statement):
    with (
        psycopg.connect(database_urls.app) as app,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        app.execute(statement)


def test_the_owner_is_no_superuser(database_urls):
    with psycopg.connect(database_urls.owner) as owner:
        row = owner.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    assert row == (False,) * 5


def test_no_login_without_the_password(database_urls):
    wrong = psycopg.conninfo.make_conninfo(database_urls.admin, password="guess")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_postgres_listens_on_no_network_and_keeps_what_it_acknowledged(database_urls):
    with psycopg.connect(database_urls.admin) as admin:
        found = {
            name: admin.execute("SELECT current_setting(%s)", [name]).fetchone()[0]
            for name in (
                "listen_addresses",
                "fsync",
                "synchronous_commit",
                "full_page_writes",
                "data_checksums",
            )
        }
    assert found == {
        "listen_addresses": "",
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
    }


def _client(url):
    return redis.Redis.from_url(url.replace("redis+socket://", "unix://"))


@pytest.mark.parametrize("role", ["celery", "live"])
@pytest.mark.parametrize(
    "command",
    [
        ["CONFIG", "GET", "*"],
        ["FLUSHALL"],
        ["DEBUG", "SLEEP", "0"],
        ["MODULE", "LIST"],
        ["KEYS", "*"],
        ["ACL", "LIST"],
        ["SHUTDOWN"],
    ],
)
def test_no_role_may_administer_redis(redis_urls, role, command):
    with (
        _client(getattr(redis_urls, role)) as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command(*command)


def test_only_celery_may_run_scripts_and_keep_keys(redis_urls):
    with _client(redis_urls.celery) as celery:
        assert celery.eval("return 1", 0) == 1
        assert celery.set("dcops:test", "1")
        with pytest.raises(redis.exceptions.NoPermissionError):
            celery.set("elsewhere", "1")
    with _client(redis_urls.live) as live:
        for command in (
            ["EVAL", "return 1", "0"],
            ["GET", "dcops:test"],
            ["PUBLISH", "dcops:x", "y"],
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                live.execute_command(*command)
        assert live.publish("dcops-live__group__fleet", "x") == 0


def test_redis_refuses_who_gives_no_password(servers):
    with (
        redis.Redis(unix_socket_path=str(servers.redis.socket), retry=None) as stranger,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        stranger.ping()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("visit", [1, 2])
def test_a_transactional_test_starts_from_an_untouched_database(visit):
    from django.contrib.sessions.models import Session

    assert Session.objects.count() == 0
    Session.objects.create(
        session_key="left-behind",
        session_data="",
        expire_date=datetime(2030, 1, visit, tzinfo=UTC),
    )


def test_grafana_reads_the_views_and_nothing_else(database_urls):
    with psycopg.connect(database_urls.grafana, autocommit=True) as grafana:
        views = grafana.execute(
            "SELECT viewname FROM pg_views WHERE schemaname = 'grafana'"
        ).fetchall()
        assert views
        for (view,) in views:
            grafana.execute(f"SELECT * FROM grafana.{view} LIMIT 1")
        for statement in (
            "SELECT * FROM access_user",
            "SELECT * FROM fleet_join_token",
            "SELECT * FROM audit_event",
            "INSERT INTO fleet_node DEFAULT VALUES",
            "CREATE TABLE mine (a int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                grafana.execute(statement)
