"""The database as its owner, for `dcops backup` and `dcops restore`: an outside one, a running embedded one, or one started for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from dcops.env import env_str
from dcops.local import preflight
from dcops.local.errors import LocalError
from dcops.local.instance import Instance
from dcops.local.postgres import EmbeddedPostgres
from dcops.local.process import end_orphans


@contextmanager
def database_owner(data_dir: Path, *, alone: bool) -> Iterator[str]:
    """Give the owner's URL of a database that answers; with `alone`, of one that nothing else of dcops uses meanwhile.

    Raises LocalError if dcops is in the way, or there is no database.
    """
    outside = env_str("DCOPS_OWNER_DATABASE_URL", "")
    if outside:
        if alone:
            _check_idle(outside)
        yield outside
        return
    instance = Instance(data_dir)
    if not alone and _answers(instance):
        yield instance.attached_urls().owner
        return
    lock = preflight.take_data_dir(instance.data_dir, instance.lock_file)
    postgres = EmbeddedPostgres(instance.data_dir)
    try:
        end_orphans(str(instance.data_dir))
        postgres.start()
        yield postgres.urls.owner
    finally:
        postgres.stop()
        lock.close()


def _answers(instance: Instance) -> bool:
    try:
        psycopg.connect(instance.attached_urls().owner, connect_timeout=5).close()
    except (psycopg.OperationalError, LocalError):
        return False
    return True


def _check_idle(owner_url: str) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    with psycopg.connect(owner_url) as connection:
        row = connection.execute(query).fetchone()
    if row and row[0]:
        raise LocalError(
            f"{row[0]} other connections use this database. Stop dcops before a restore."
        )
