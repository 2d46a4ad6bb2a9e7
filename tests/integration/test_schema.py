"""What `dcops up` does to the database before its programs start."""

import os
import subprocess
import sys

import psycopg
import pytest

from dcops.local import backup
from tests.servers import ROOT


@pytest.fixture
def urls(servers, worker_name):
    """A migrated database of this test's own."""
    name = f"schema_{worker_name}"
    yield servers.fresh_database(name)
    servers.postgres.drop_database(name)


def _run(urls, home, *command):
    env = os.environ | {
        "DCOPS_OWNER_DATABASE_URL": urls.owner,
        "DCOPS_DATABASE_URL": urls.owner,
        "DCOPS_DATA_DIR": str(home),
        "DCOPS_SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz-0123456789abcdefghij",
        "DJANGO_SETTINGS_MODULE": "dcops.settings",
    }
    done = subprocess.run(
        [sys.executable, *command], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def _prepare(urls, home):
    return _run(
        urls, home, "-m", "dcops.local.schema", "prepare", home / "backups", home / "backup.key"
    )


def test_an_older_database_is_backed_up_and_then_migrated(urls, tmp_path):
    assert (
        _run(urls, tmp_path, "manage.py", "migrate", "sessions", "zero", "--skip-checks")[0] == 0
    )
    status, said = _prepare(urls, tmp_path)
    assert status == 0, said
    assert "older than the code" in said
    (file,) = (tmp_path / "backups").iterdir()
    assert backup.verify(file, tmp_path / "backup.key").dump_bytes > 0
    with psycopg.connect(urls.app) as app:
        assert app.execute("SELECT count(*) FROM django_session").fetchone() == (0,)
    status, said = _prepare(urls, tmp_path)
    assert (status, said) == (0, "")
    assert list((tmp_path / "backups").iterdir()) == [file]


def test_a_backup_that_fails_keeps_the_old_schema(urls, tmp_path):
    assert (
        _run(urls, tmp_path, "manage.py", "migrate", "sessions", "zero", "--skip-checks")[0] == 0
    )
    (tmp_path / "backups").write_text("a file where the directory should be")
    status, said = _prepare(urls, tmp_path)
    assert status == 1
    assert "The backup cannot be written" in said
    with psycopg.connect(urls.owner) as owner:
        assert owner.execute("SELECT to_regclass('django_session')").fetchone() == (None,)
