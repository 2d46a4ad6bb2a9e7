"""What every test may ask for: real servers, a migrated database for this worker, and the policy for optional tools.

Fixtures: `servers`, `redis_urls`, `database_urls` (this worker's database, one URL per role), and pytest-django's `db`,
`transactional_db` and `django_db` marker, which use that database as the runtime role. tests/unit needs none of it.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# Django reads these once, when the first test module that needs it is collected.
os.environ.update(
    DCOPS_SECRET_KEY="only-for-tests-" + "x" * 40,
    DCOPS_DATABASE_URL="postgresql://not-set-yet@localhost/not-set-yet",
    DCOPS_DATABASE_POOL="4",
    DCOPS_LOG_LEVEL="WARNING",
)
for name in ("DCOPS_CELERY_URL", "DCOPS_LIVE_URL", "DCOPS_DATA_DIR", "DCOPS_PUBLIC_URL"):
    os.environ.pop(name, None)

DJANGO_FREE = {"unit", "architecture"}


def _program(*names):
    return any(
        shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin")
        for name in names
    )


# Marker -> (is it there?, what to install). A GPU is no extra that one could install: without it the test is skipped.
EXTRAS = {
    "needs_chromium": (lambda: _program("chromium"), "Chromium (apt install chromium)"),
    "needs_nginx": (lambda: _program("nginx"), "nginx (apt install nginx)"),
    "needs_cc": (lambda: _program("cc"), "a C compiler (apt install gcc)"),
    "needs_torch": (lambda: importlib.util.find_spec("torch") is not None, "PyTorch (make torch)"),
    "needs_gpu": (lambda: Path("/dev/nvidia0").exists(), "an NVIDIA GPU"),
}


def pytest_runtest_setup(item):
    for marker, (present, what) in EXTRAS.items():
        if item.get_closest_marker(marker) is None or present():
            continue
        if os.environ.get("CI") == "true" and marker != "needs_gpu":
            pytest.fail(f"CI=true, but this test needs {what}.", pytrace=False)
        pytest.skip(f"needs {what}")


def pytest_collectstart(collector):
    """Set Django up before the first module outside tests/unit is imported, and not at all when only those run."""
    if not isinstance(collector, pytest.Module) or "DJANGO_SETTINGS_MODULE" in os.environ:
        return
    if (
        collector.path.is_relative_to(TESTS)
        and collector.path.relative_to(TESTS).parts[0] in DJANGO_FREE
    ):
        return
    os.environ["DJANGO_SETTINGS_MODULE"] = "dcops.settings"
    from django.conf import settings
    from pytest_django.plugin import _setup_django

    assert settings.SECRET_KEY
    _setup_django(collector.config)


_SERVERS = pytest.StashKey()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Under xdist the controlling process owns the servers, as it outlives every worker."""
    from tests.servers import Servers

    config = node.config
    if _SERVERS not in config.stash:
        config.stash[_SERVERS] = Servers.start()
    node.workerinput["dcops_data_dir"] = str(config.stash[_SERVERS].postgres.data_dir)


def pytest_unconfigure(config):
    if _SERVERS in config.stash:
        config.stash[_SERVERS].stop()


@pytest.fixture(scope="session")
def worker_name(request):
    return getattr(request.config, "workerinput", {}).get("workerid", "alone")


@pytest.fixture(scope="session")
def servers(request):
    """The run's PostgreSQL and Redis."""
    from tests.servers import Servers

    given = getattr(request.config, "workerinput", {}).get("dcops_data_dir")
    if given is not None:
        yield Servers.attach(Path(given))
        return
    own = Servers.start()
    yield own
    own.stop()


@pytest.fixture(scope="session")
def redis_urls(servers):
    """Redis, one URL per role (celery, live)."""
    return servers.redis_urls


@pytest.fixture(scope="session")
def database_urls(servers, worker_name):
    """This worker's migrated database, one URL per role (admin, owner, app, grafana)."""
    return servers.fresh_database(f"dcops_test_{worker_name}")


@pytest.fixture(scope="session")
def django_db_setup(database_urls, servers, worker_name, django_db_blocker, tmp_path_factory):
    """Point Django at this worker's database as the runtime role, which may neither create nor truncate tables.

    After a transactional test the database is made anew from the template: the audit trail cannot be emptied, by design.
    """
    from django.conf import settings
    from django.db import connection, connections
    from django.test import TransactionTestCase

    from dcops.settings import database

    os.environ["DCOPS_DATABASE_URL"] = settings.DATABASE_URL = database_urls.app
    found = database(database_urls.app)
    connections.settings["default"].update(
        {key: found[key] for key in ("NAME", "USER", "PASSWORD", "HOST", "PORT")}
    )
    settings.SERVER_KEY_FILE = tmp_path_factory.mktemp("keys") / "server-key.pem"

    def start_anew(self):
        connections.close_all()
        connection.close_pool()
        servers.fresh_database(f"dcops_test_{worker_name}")

    original = TransactionTestCase._fixture_teardown
    TransactionTestCase._fixture_teardown = start_anew
    yield
    TransactionTestCase._fixture_teardown = original
    with django_db_blocker.unblock():
        connections.close_all()
        connection.close_pool()
