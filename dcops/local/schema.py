"""Bring a database to the code's schema, as its owner. Run as a program so that the runtime never holds the owner's rights."""

import importlib.util
import os
import sys

from dcops.env import SettingError, env_str


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
    """Migrate the database of DCOPS_OWNER_DATABASE_URL and bring the telemetry columns in line with the metric registry."""
    owner_url = set_up_django_as_owner()
    from django.core.management import call_command

    from dcops.local.postgres import grant_defaults

    grant_defaults(owner_url)
    call_command("migrate", verbosity=verbosity, interactive=False, skip_checks=True)
    if importlib.util.find_spec("dcops.telemetry.actions"):
        importlib.import_module("dcops.telemetry.actions").sync_schema()


if __name__ == "__main__":
    try:
        migrate(int(os.environ.get("DCOPS_MIGRATE_VERBOSITY", "1")))
    except SettingError as error:
        sys.exit(str(error))
