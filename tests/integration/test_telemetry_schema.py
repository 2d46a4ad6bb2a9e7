"""What the runtime role may do to the schema, what Grafana may read, and which database ingest will not start on."""

from datetime import UTC, datetime

import psycopg
import pytest

from dcops.telemetry import actions
from dcops.telemetry.durability import weaknesses
from dcops.telemetry.queries import over_budget

T0 = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)


@pytest.fixture
def app(database_urls, db):
    with psycopg.connect(database_urls.app) as connection:
        yield connection
        connection.rollback()


def test_partitions_are_made_once_and_dropped_by_name(app):
    make = "SELECT telemetry_make_partition(%s, %s)"
    names = {app.execute(make, ("gpu_sample", T0)).fetchone()[0] for _ in range(2)}
    assert names == {"gpu_sample_p2026112010"}
    bounds = "SELECT lower_bound, upper_bound FROM telemetry_partition WHERE child = 'gpu_sample_p2026112010'"
    lower, upper = app.execute(bounds).fetchone()
    assert lower == T0.replace(minute=0)
    assert (upper - lower).total_seconds() == 3600
    app.execute("SELECT telemetry_drop_partition('gpu_sample', 'gpu_sample_p2026112010')")
    assert app.execute(bounds).fetchone() is None


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT telemetry_make_partition('fleet_node', now())",
        "SELECT telemetry_make_partition('gpu_sample; DROP TABLE fleet_node', now())",
        "SELECT telemetry_drop_partition('gpu_sample', 'fleet_node')",
        "SELECT telemetry_drop_partition('audit_event', 'fleet_node')",
        "INSERT INTO telemetry_partitioned VALUES ('fleet_node', 'hour')",
        "DROP TABLE gpu_sample",
        "TRUNCATE gpu_sample",
    ],
)
def test_the_runtime_role_cannot_reach_further(app, statement):
    with pytest.raises(
        (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue)
    ):
        app.execute(statement)


def test_grafana_reads_views_and_no_table(database_urls, db):
    with psycopg.connect(database_urls.grafana, autocommit=True) as grafana:
        for view in ("gpu_sample", "gpu_sample_minute", "node_sample_hour", "event"):
            assert grafana.execute(f"SELECT count(*) FROM grafana.{view}").fetchone() == (0,)
        for table in ("gpu_sample", "fleet_node", "telemetry_spool"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                grafana.execute(f"SELECT 1 FROM public.{table}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            grafana.execute("SELECT public_key FROM fleet_node")


def test_syncing_an_up_to_date_schema_changes_nothing_and_needs_no_rights(db):
    actions.sync_schema()


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit"])
def test_a_database_that_could_lose_acknowledged_data_is_named(name):
    safe = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
    assert weaknesses(safe.get) == []
    (sentence,) = weaknesses((safe | {name: "off"}).get)
    assert name in sentence


@pytest.mark.parametrize(
    ("size", "free", "full"), [(99, 0.5, False), (101, 0.5, True), (99, 0.04, True)]
)
def test_metrics_are_refused_before_the_disk_is_full(size, free, full):
    assert over_budget(size, free, 100, 5) is full
