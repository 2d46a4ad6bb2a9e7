"""One data directory's dcops: where things lie in it, and the environment its programs run with."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dcops.local import secretfile
from dcops.local.errors import LocalError
from dcops.local.postgres import EmbeddedPostgres
from dcops.local.process import COOKIE
from dcops.local.redis import EmbeddedRedis

_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "DCOPS_TRACES",
)
_SERVER_URLS = (
    "DCOPS_OWNER_DATABASE_URL",
    "DCOPS_DATABASE_URL",
    "DCOPS_CELERY_URL",
    "DCOPS_LIVE_URL",
)


@dataclass(frozen=True)
class Urls:
    """Every server dcops talks to, one URL per role; owner is empty where this process may not migrate."""

    owner: str
    app: str
    celery: str
    live: str


class Instance:
    """Paths and environment of one data directory; starts nothing by itself."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = Path(os.path.abspath(data_dir))
        self.log_dir = self.data_dir / "log"
        self.backup_dir = self.data_dir / "backups"
        self.backup_key = self.data_dir / "backup.key"
        self.lock_file = self.data_dir / "dcops.lock"
        self._published = self.data_dir / "instance.json"

    def published(self) -> dict[str, str]:
        """Return the settings of the last start that are no secret (public URL, host names, CA), {} before the first."""
        try:
            found: dict[str, str] = json.loads(self._published.read_text())
        except (OSError, ValueError):
            return {}
        return found

    def publish(self, settings: Mapping[str, str]) -> None:
        """Remember the settings of this start for `dcops node token` and its like."""
        secretfile.write_private(self._published, json.dumps(dict(settings), indent=1).encode())

    def base_environment(self) -> dict[str, str]:
        """Return what every child gets: no secrets, and the cookie by which a later start recognises it."""
        kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return kept | {COOKIE: str(self.data_dir), "PYTHONUNBUFFERED": "1"}

    def server_environment(self, urls: Urls) -> dict[str, str]:
        """Return what the server's own programs get. The owner's URL is not part of it: only migrations have that."""
        from_caller = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("DCOPS_") and name.removesuffix("_FILE") not in _SERVER_URLS
        }
        own = {
            "DCOPS_DATA_DIR": str(self.data_dir),
            "DCOPS_DATABASE_URL": urls.app,
            "DCOPS_CELERY_URL": urls.celery,
            "DCOPS_LIVE_URL": urls.live,
        }
        if "DCOPS_SECRET_KEY" not in from_caller and "DCOPS_SECRET_KEY_FILE" not in from_caller:
            own["DCOPS_SECRET_KEY"] = secretfile.load(self.data_dir)["secret_key"]
        return self.base_environment() | self.published() | from_caller | own

    def attached_urls(self) -> Urls:
        """Return the URLs of the running embedded servers. Raises LocalError if there are none in this directory."""
        if not (self.data_dir / "postgres").is_dir():
            raise LocalError(
                f"There is no dcops in {self.data_dir}. Start it with `dcops up`, or name its directory with --data-dir."
            )
        postgres, redis = EmbeddedPostgres(self.data_dir), EmbeddedRedis(self.data_dir)
        postgres.attach()
        redis.attach()
        return Urls(postgres.urls.owner, postgres.urls.app, redis.urls.celery, redis.urls.live)


def program(name: str) -> str:
    """Return the path of a console command of this installation."""
    return str(Path(sys.executable).parent / name)
