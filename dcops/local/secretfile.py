"""The random secrets of one data directory: made once, kept in one file that only its owner may read."""

import json
import os
import secrets
from pathlib import Path

from dcops.local.errors import LocalError

NAMES = (
    "secret_key",
    "postgres_admin",
    "postgres_owner",
    "postgres_app",
    "postgres_grafana",
    "redis_default",
    "redis_celery",
    "redis_live",
)


def load(data_dir: Path) -> dict[str, str]:
    """Return every secret of the data directory, creating what is missing. Raises LocalError if the file cannot be used."""
    path = data_dir / "secrets.json"
    try:
        known = json.loads(path.read_text()) if path.exists() else {}
        missing = {name: secrets.token_urlsafe(48) for name in NAMES if name not in known}
        if missing:
            known |= missing
            write_private(path, json.dumps(known, indent=1).encode())
    except (OSError, ValueError) as error:
        raise LocalError(
            f"The secrets in {path} cannot be used: {error}. Restore that file from a backup."
        ) from None
    return dict(known)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read (0600), all of it or nothing, and make it durable."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
