"""What machines ask the server about itself: /healthz, /readyz and /metrics."""

from importlib.metadata import version

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Gauge, Info, generate_latest

from dcops.access.actor import Action, of_request, require
from dcops.fleet import queries as fleet

DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
REDIS_TIMEOUT_S = 1.0
BUILD = Info("dcops_build", "The version of dcops that answers.")
BUILD.info({"version": version("dcops")})
NODES = Gauge("dcops_nodes", "Nodes by state.", ["state"])
GPUS = Gauge("dcops_gpus", "GPUs present in the last inventory of their node.")


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Answer as long as this process can: restart it if it does not."""
    del request
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Say whether to send traffic here: 200, or 503 with what is wrong. Redis away is degraded, not unready."""
    del request
    checks = {"database": database_problem(), "redis": redis_problem()}
    ready = not checks["database"]
    state = "ready" if ready and not checks["redis"] else "degraded" if ready else "not ready"
    body = {"state": state, **{name: problem or "ok" for name, problem in checks.items()}}
    return JsonResponse(body, status=200 if ready else 503)


def database_problem() -> str:
    """Return what keeps the database from being used, or nothing."""
    try:
        if pending_migrations():
            return "migrations are not applied: run dcops migrate"
        weak = weak_settings()
    except DatabaseError:
        return "PostgreSQL does not answer"
    return f"PostgreSQL may lose what it acknowledged: {', '.join(weak)} is off" if weak else ""


def pending_migrations() -> bool:
    """Whether the code knows migrations that the database does not have."""
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def weak_settings() -> list[str]:
    """Return the settings without which an acknowledged row may be lost in a crash."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = 'off' ORDER BY name",
            [list(DURABLE)],
        )
        return [name for (name,) in cursor.fetchall()]


def redis_problem() -> str:
    """Return what keeps live updates from flowing, or nothing."""
    if not settings.LIVE_URL:
        return "not configured"
    client = redis.Redis.from_url(
        settings.LIVE_URL, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
    )
    try:
        client.ping()
    except redis.RedisError:
        return "Redis does not answer"
    finally:
        client.close()
    return ""


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus text of this process. Needs a session or token: it tells an attacker names, sizes and versions."""
    actor = of_request(request)
    require(actor, Action.READ_METRICS)
    for state, count in fleet.count_nodes(actor).items():
        NODES.labels(state).set(count)
    GPUS.set(fleet.count_gpus(actor))
    return HttpResponse(generate_latest(REGISTRY), content_type=CONTENT_TYPE_LATEST)
