"""The secrets of docker-compose.yml: made once into files, so that no service has a default password."""

import secrets
from datetime import datetime
from pathlib import Path

from dcops.local import tls
from dcops.local.errors import LocalError
from dcops.local.process import own_directory
from dcops.local.redis import CELERY_RIGHTS, LIVE_RIGHTS

_DATABASE = "dcops"


def write_secrets(
    directory: Path,
    host: str,
    *,
    now: datetime,
    postgres: str = "postgres:5432",
    valkey: str = "valkey:6379",
) -> None:
    """Make every secret and the certificate for `host` in `directory`.

    The directory is its owner's alone (0700). The files in it are readable to all, because each container mounts its own
    as a user of its own; the keys of the authority and of the proxy are not. Raises LocalError if it is not empty.
    """
    if directory.exists() and any(directory.iterdir()):
        raise LocalError(
            f"{directory} is not empty. Keep the secrets you have, or name another directory."
        )
    own_directory(directory, None)
    passwords = {
        name: secrets.token_urlsafe(32)
        for name in ("admin", "owner", "app", "grafana", "celery", "live")
    }
    contents = {
        f"postgres_{role}": passwords[role] for role in ("admin", "owner", "app", "grafana")
    }
    contents |= {
        "secret_key": secrets.token_urlsafe(48),
        "owner_database_url": f"postgresql://dcops_owner:{passwords['owner']}@{postgres}/{_DATABASE}",
        "database_url": f"postgresql://dcops_app:{passwords['app']}@{postgres}/{_DATABASE}",
        "celery_url": f"redis://celery:{passwords['celery']}@{valkey}/0",
        "live_url": f"redis://live:{passwords['live']}@{valkey}/0",
        "valkey_acl": _access_list(passwords),
    }
    for name, text in contents.items():
        _write(directory / name, text)
    files = tls.ensure(directory, [host, "localhost", "127.0.0.1"], now)
    for public in (files.ca, files.certificate):
        public.chmod(0o444)


def _access_list(passwords: dict[str, str]) -> str:
    lines = (
        "user default off",
        f"user celery on >{passwords['celery']} {CELERY_RIGHTS}",
        f"user live on >{passwords['live']} {LIVE_RIGHTS}",
    )
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o444)


def write_env(path: Path, host: str) -> bool:
    """Name the host for docker compose, unless its file is there already. Returns whether it was written."""
    if path.exists():
        return False
    path.write_text(f"DCOPS_HOST={host}\n")
    return True
