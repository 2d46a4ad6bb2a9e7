"""Bring a database to the code's schema, as its owner. Run as a program so that the runtime never holds the owner's rights."""

import os
import sys
from pathlib import Path

from dcops.env import SettingError, env_str
from dcops.local.errors import LocalError


def pending() -> bool:
    """Tell whether the code has migrations the database has not. Django must be set up."""
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def is_new() -> bool:
    """Tell whether nothing was ever migrated into the database. Django must be set up."""
    from django.db import connection

    return "django_migrations" not in connection.introspection.table_names()


def set_up_django_as_owner() -> str:
    """Point Django at DCOPS_OWNER_DATABASE_URL and set it up. Returns that URL. Raises SettingError if it is not set."""
    owner_url = env_str("DCOPS_OWNER_DATABASE_URL")
    os.environ["DCOPS_DATABASE_URL"] = owner_url
    os.environ.pop("DCOPS_DATABASE_URL_FILE", None)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")
    import django

    django.setup()
    return owner_url


def migrate(verbosity: int = 1) -> None:
    """Migrate the database Django is set up with, as its owner, and bring the telemetry columns in line with the registry."""
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection

    from dcops.access.store import grant_app_role
    from dcops.local.postgres import grant_defaults
    from dcops.telemetry.actions import sync_schema

    grant_defaults(settings.DATABASE_URL)
    call_command("migrate", verbosity=verbosity, interactive=False, skip_checks=True)
    grant_app_role(connection)
    sync_schema()


def prepare(backup_dir: Path, backup_key: Path) -> None:
    """What `dcops up` needs before its programs start: a checked configuration, the schema, the static files.

    A database that holds data and lacks migrations is backed up first.
    """
    from django.core.management import call_command

    _check_configuration()
    if pending() and not is_new():
        _back_up(backup_dir, backup_key)
    migrate(verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0, skip_checks=True)


def _check_configuration() -> None:
    from django.core.checks import ERROR, run_checks

    for found in run_checks(tags=["security"]):
        if found.level >= ERROR:
            raise LocalError(str(found.msg))


def _back_up(directory: Path, key_file: Path) -> None:
    from django.conf import settings

    from dcops import clock
    from dcops.local import backup

    path = directory / f"before-migration-{clock.now():%Y%m%dT%H%M%SZ}.dcops"
    backup.write(
        settings.DATABASE_URL,
        path,
        key_file,
        now=clock.now(),
        server_key_file=settings.SERVER_KEY_FILE,
    )
    sys.stdout.write(f"The database is older than the code. Backed up to {path} first.\n")


def main(arguments: list[str]) -> None:
    """`prepare BACKUP_DIR BACKUP_KEY`, or nothing to migrate only."""
    try:
        set_up_django_as_owner()
        if arguments[:1] == ["prepare"]:
            prepare(Path(arguments[1]), Path(arguments[2]))
        else:
            migrate(verbosity=int(os.environ.get("DCOPS_MIGRATE_VERBOSITY", "1")))
    except (SettingError, LocalError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
