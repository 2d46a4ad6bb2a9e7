"""docker-compose.yml without a container engine: each service's own command as a plain process of this machine.

PostgreSQL and Valkey are stood in for by the embedded servers, started with the file's own parameters, roles script and
access list; names and ports of the containers' network become loopback ports.
"""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import yaml

from dcops.local.deployment import write_secrets
from dcops.local.postgres import EmbeddedPostgres, binaries
from dcops.local.process import finish, spawn
from dcops.local.redis import find_server
from tests.acceptance.launcher import clean_environment, free_port
from tests.servers import ROOT

HOST = "localhost"
BIN = Path(sys.executable).parent


class Compose:
    """The services of the file, started on demand in `home`."""

    def __init__(self, home):
        self.home, self.secrets, self.state = home, home / "secrets", home / "state"
        self.logs = home / "logs"
        for directory in (self.state, self.logs):
            directory.mkdir(parents=True)
        self.file = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        self.ports = {
            name: free_port() for name in ("valkey", "web", "live", "ingest", "http", "https")
        }
        self.url = f"https://{HOST}:{self.ports['https']}"
        self.postgres = EmbeddedPostgres(home / "pg", settings=self._postgres_parameters())
        self.processes = {}

    # -- the file, with this machine's paths and ports in place of the containers' ----------------------------------

    def service(self, name):
        return self.file["services"][name]

    def command(self, name):
        return [self._here(str(part)) for part in self.service(name)["command"]]

    def environment(self, name):
        own = {
            key: self._here(str(value))
            for key, value in self.service(name).get("environment", {}).items()
        }
        if "DCOPS_PUBLIC_URL" in own:
            own["DCOPS_PUBLIC_URL"] = self.url
            own["FORWARDED_ALLOW_IPS"] = "127.0.0.1"
        for server in ("GRANIAN", "UVICORN"):
            if f"{server}_PORT" in own:
                own |= {f"{server}_HOST": "127.0.0.1", f"{server}_PORT": str(self.ports[name])}
        return clean_environment(
            PATH=f"{BIN}:{os.environ['PATH']}:/usr/sbin",
            HOSTNAME=socket.gethostname(),
            DCOPS_DATA_DIR=str(self.state),
            DCOPS_STATIC_ROOT=str(self.home / "static"),
            **own,
        )

    def _here(self, text):
        text = re.sub(r"\$\{DCOPS_HOST(:\?[^}]*)?\}", HOST, text)
        text = text.replace("/var/lib/dcops", str(self.state)).replace("$$", "$")
        return re.sub(r"/run/secrets/(\w+)", lambda found: self._secret(found[1]), text)

    def _secret(self, name):
        return str(self.secrets / Path(self.file["secrets"][name]["file"]).name)

    def _postgres_parameters(self):
        words = self.service("postgres")["command"]
        pairs = [
            word.split("=", 1) for before, word in itertools.pairwise(words) if before == "-c"
        ]
        return dict(pairs) | {"shared_buffers": "64MB"}

    # -- starting, in the order of depends_on ---------------------------------------------------------------------

    def start(self):
        self._start_postgres()
        self._start("valkey", [find_server(), *self.command("valkey")[1:]])
        self.run("migrate", self.command("migrate"))
        self.run("migrate", ["python", "manage.py", "collectstatic", "--noinput"])
        for name in ("web", "live", "ingest", "worker", "beat"):
            self._start(name, self.command(name))
        for name in ("web", "live", "ingest"):
            self._wait_for_port(name, self.ports[name])
        self._start_proxy()

    def _start_postgres(self):
        self.postgres.start()
        sockets = self.postgres.urls.owner.split("@")[1].split("/")[0]
        write_secrets(
            self.secrets,
            HOST,
            now=datetime.now(tz=UTC),
            postgres=sockets,
            valkey=f"127.0.0.1:{self.ports['valkey']}",
        )
        acl = self.command("valkey")
        acl[acl.index("--port") + 1] = str(self.ports["valkey"])
        self.service("valkey")["command"] = acl
        with psycopg.connect(self.postgres.urls_of("postgres").admin, autocommit=True) as admin:
            admin.execute("DROP DATABASE dcops")
            for role in ("owner", "app", "grafana"):
                admin.execute(f"DROP ROLE dcops_{role}")
        parts = psycopg.conninfo.conninfo_to_dict(self.postgres.urls.admin)
        script = next(
            v.split(":")[0] for v in self.service("postgres")["volumes"] if v.endswith(":ro")
        )
        subprocess.run(
            ["sh", ROOT / script],
            env=clean_environment(
                PATH=f"{binaries()}:/usr/bin:/bin",
                SECRETS_DIR=str(self.secrets),
                POSTGRES_USER=self.service("postgres")["environment"]["POSTGRES_USER"],
                PGHOST=parts["host"],
                PGPASSWORD=parts["password"],
            ),
            check=True,
        )

    def _start_proxy(self):
        env = self.environment("proxy") | {
            "HTTP_PORT": f"127.0.0.1:{self.ports['http']}",
            "HTTPS_PORT": f"127.0.0.1:{self.ports['https']}",
        }
        env |= {
            name.upper(): f"127.0.0.1:{self.ports[name]}" for name in ("web", "live", "ingest")
        }
        template = next(v.split(":")[0] for v in self.service("proxy")["volumes"])
        text = re.sub(
            r"\$\{([A-Z_]+)\}", lambda found: env[found[1]], (ROOT / template).read_text()
        )
        (self.home / "site.conf").write_text(text)
        temporary = "".join(
            f"{kind}_temp_path {self.home}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if os.geteuid() == 0 else ""
        (self.home / "nginx.conf").write_text(
            f"{user}pid {self.home}/nginx.pid;\nerror_log stderr warn;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{temporary}include {self.home}/site.conf;\n}}\n"
        )
        self._start(
            "proxy", [*self.command("proxy"), "-c", self.home / "nginx.conf", "-p", self.home], env
        )
        self._wait_for_port("proxy", self.ports["https"])

    def _start(self, name, command, env=None):
        env = env or self.environment(name)
        program = command[0] if "/" in str(command[0]) else _which(command[0], env["PATH"])
        with (self.logs / f"{name}.log").open("wb") as log:
            self.processes[name] = spawn(
                [program, *command[1:]], env=env, stdout=log, cwd=self.home
            )

    def _wait_for_port(self, name, port):
        deadline = time.monotonic() + 60
        while True:
            assert self.processes[name].poll() is None, self.log(name)
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, self.log(name)
                time.sleep(0.05)
            else:
                return

    # -- using it ------------------------------------------------------------------------------------------------

    def run(self, service, command, timeout_s=90):
        """Run a command in a service's environment (docker compose exec) and return its output."""
        env = self.environment(service)
        done = subprocess.run(
            [_which(command[0], env["PATH"]), *command[1:]],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def health(self, service):
        """Run a service's health check as its container would. Returns whether it is healthy."""
        kind, command = self.service(service)["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        shell = ["sh", "-c", self._here(command)]
        done = subprocess.run(
            shell, env=self.environment(service), cwd=self.home, capture_output=True, check=False
        )
        return done.returncode == 0

    def log(self, name):
        return (self.logs / f"{name}.log").read_text(errors="replace")[-3000:]

    def stop(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            finish(process, 10)
        self.postgres.stop()


def _which(name, path):
    import shutil

    found = shutil.which(name, path=path)
    assert found, f"{name} is not installed"
    return found
