"""The real PostgreSQL and Redis of one test run, shared by all xdist workers, and a database of its own for each worker."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dcops.local.postgres import EmbeddedPostgres, PostgresUrls
from dcops.local.redis import EmbeddedRedis, RedisUrls

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "dcops_template"
MEMORY_NEEDED_BYTES = 2 << 30


def make_data_dir():
    """Return a fresh, short directory; in memory where there is room, so that fsync stays on and costs nothing."""
    shm = Path("/dev/shm")
    roomy = (
        shm.is_dir()
        and os.access(shm, os.W_OK)
        and shutil.disk_usage(shm).free >= MEMORY_NEEDED_BYTES
    )
    return Path(tempfile.mkdtemp(prefix="dcops-test-", dir=shm if roomy else None))


@dataclass
class Servers:
    """The embedded servers, owned by the process that starts them and ended by it or with it."""

    postgres: EmbeddedPostgres
    redis: EmbeddedRedis

    @classmethod
    def start(cls):
        data_dir = make_data_dir()
        servers = cls(
            EmbeddedPostgres(
                data_dir, settings={"max_connections": "200", "shared_buffers": "64MB"}
            ),
            EmbeddedRedis(data_dir),
        )
        servers.postgres.start()
        servers.redis.start()
        return servers

    @classmethod
    def attach(cls, data_dir):
        """Use the servers that the controlling process of this run has started."""
        servers = cls(EmbeddedPostgres(data_dir), EmbeddedRedis(data_dir))
        servers.postgres.attach()
        servers.redis.attach()
        return servers

    def stop(self):
        self.redis.stop()
        self.postgres.stop()
        shutil.rmtree(self.postgres.data_dir, ignore_errors=True)

    @property
    def redis_urls(self) -> RedisUrls:
        return self.redis.urls

    def fresh_database(self, name) -> PostgresUrls:
        """Give a database of that name holding the migrated schema and nothing else; an older one of that name is dropped."""
        with self._locked():
            if not self._has(TEMPLATE):
                self._build_template()
        self.postgres.drop_database(name)
        return self.postgres.create_database(name, template=TEMPLATE)

    def _build_template(self):
        building = self.postgres.create_database("dcops_template_building")
        migrate_database(building)
        self._rename("dcops_template_building", TEMPLATE)

    def _has(self, name):
        return bool(self._admin("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchall())

    def _rename(self, old, new):
        self._admin(f"ALTER DATABASE {old} RENAME TO {new}")

    def _admin(self, statement, parameters=None):
        import psycopg

        with psycopg.connect(
            self.postgres.urls_of("postgres").admin, autocommit=True
        ) as connection:
            return connection.execute(statement, parameters)

    @contextmanager
    def _locked(self):
        with (self.postgres.data_dir / "template.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def migrate_database(urls):
    """Migrate as the owner, in a process of its own, exactly as `dcops migrate` does."""
    done = subprocess.run(
        [sys.executable, "-m", "dcops.local.schema"],
        env=os.environ | {"DCOPS_OWNER_DATABASE_URL": urls.owner, "DCOPS_MIGRATE_VERBOSITY": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"The migrations failed:\n{done.stdout}{done.stderr}")
