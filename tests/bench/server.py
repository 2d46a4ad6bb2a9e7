"""A whole dcops in a directory of its own, for benchmarks and soaks: the programs and settings of `dcops up`, on a free port.

    with ScratchServer() as server:
        token = server.hall_token(1000)
        ...
        server.cpu_s()   # {"web": 12.3, "postgres": 8.9, "redis": 0.4}

Every part can be killed and started again on its own; what is on its disk stays.
"""

import contextlib
import http.cookiejar
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import psycopg

from dcops.local.instance import Urls
from dcops.local.postgres import EmbeddedPostgres
from dcops.local.process import end_orphans
from dcops.local.redis import EmbeddedRedis
from dcops.local.supervisor import Program, Supervisor
from dcops.local.up import Launch, Options

ROOT = Path(__file__).resolve().parents[2]
READY_S = 60.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
USER, PASSWORD = "bench", "a long enough benchmark password"
_VERBS = """
import json, os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")
import django
django.setup()
from dcops import clock
from dcops.access import actions as access
from dcops.access.actor import cli
from dcops.access.models import Role
from dcops.fleet import actions as fleet
verb, arguments = sys.argv[1], json.loads(sys.argv[2])
actor, now = cli("benchmark"), clock.now()
if verb == "token":
    print(fleet.create_join_token(actor, now=now, **arguments))
else:
    access.create_user(actor, role=Role.ADMINISTRATOR, now=now, **arguments)
"""


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ScratchServer:
    """PostgreSQL, Redis and one web process (pages, live sockets and ingest), optionally the worker and beat.

    `pg_settings` overrides PostgreSQL's parameters, `env` the server's environment, `app` the ASGI application.
    """

    def __init__(
        self,
        *,
        worker: bool = False,
        pg_settings: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        app: str | None = None,
        directory: Path | None = None,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dcops-bench-", dir=directory))
        self.directory.chmod(0o711)
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self.postgres = EmbeddedPostgres(self.directory, settings=pg_settings)
        self.redis = EmbeddedRedis(self.directory)
        self.programs: dict[str, Program] = {}
        self._worker = worker
        self._app = app
        self._extra = env or {}
        self._ended_cpu_s: dict[str, float] = {}

    def __enter__(self) -> "ScratchServer":
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for program in self.programs.values():
            with contextlib.suppress(OSError):
                program.stop()
        self.redis.stop()
        self.postgres.stop()
        end_orphans(str(self.directory))
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self) -> None:

        def quiet(_line: str) -> None:
            """Say nothing: a benchmark prints its figure."""

        launch = Launch(
            Options(data_dir=self.directory, port=self.port, agent=False), Supervisor(quiet), quiet
        )
        self._instance = launch.instance
        self._instance.log_dir.mkdir(exist_ok=True)
        self.postgres.start()
        self.redis.start()
        launch._publish()
        found = Urls(
            self.postgres.urls.owner,
            self.postgres.urls.app,
            self.redis.urls.celery,
            self.redis.urls.live,
        )
        launch._prepare(found)
        # An application under test may live in tests/.
        path = {"PYTHONPATH": str(ROOT)}
        self.env = self._instance.server_environment(found) | path | self._extra
        for program in launch._programs(self.env):
            if program.name == "web" or self._worker:
                self.programs[program.name] = program
        if self._app is not None:
            web = self.programs["web"]
            web.command = [
                self._app if part == "dcops.asgi:application" else part for part in web.command
            ]
        for program in self.programs.values():
            program.start()
        self.wait_until_ready()

    # -- what a client needs

    def wait_until_ready(self, limit_s: float = READY_S) -> None:
        """Wait for the web process to answer. Raises RuntimeError with the end of its log."""
        deadline = time.monotonic() + limit_s
        while True:
            if self.answers():
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server does not answer:\n{self.log('web')[-3000:]}")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether the web process answers now."""
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=2):
                return True
        except OSError:
            return False

    def log(self, name: str) -> str:
        """What a program has written."""
        path = self._instance.log_dir / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _do(self, verb: str, **arguments: object) -> str:
        command = [sys.executable, "-c", _VERBS, verb, json.dumps(arguments)]
        done = subprocess.run(command, env=self.env, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    def hall_token(self, nodes: int) -> str:
        """A join token for a simulated hall, its nodes approved at once."""
        return self._do("token", uses=nodes, simulated=True, auto_approve=True, ttl_s=1800)

    def node_token(self) -> str:
        """A join token for one real node, approved at once."""
        return self._do("token", auto_approve=True, ttl_s=1800)

    def sign_in(self) -> str:
        """Make an administrator, sign in through the page, and return the Cookie header of the session."""
        self._do("user", username=USER, password=PASSWORD)
        jar = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(strict_domain=False))
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        page = browser.open(f"{self.url}/sign-in").read().decode()
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        if found is None:
            raise RuntimeError("the sign-in page has no form")
        form = {"csrfmiddlewaretoken": found[1], "username": USER, "password": PASSWORD}
        request = urllib.request.Request(
            f"{self.url}/sign-in",
            urllib.parse.urlencode(form).encode(),
            {"Referer": f"{self.url}/sign-in"},
        )
        browser.open(request)
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)

    def connect(self) -> psycopg.Connection:
        """A connection as the superuser: for an oracle, which must not depend on the product's code."""
        return psycopg.connect(self.postgres.urls.admin, autocommit=True)

    # -- faults

    def kill(self, name: str) -> None:
        """kill -9: "web", "worker", "beat", "postgres" (all its processes) or "redis". Nothing is tidied up."""
        process = self._process(name)
        if process is None:
            return
        self._ended_cpu_s[name] = self._ended_cpu_s.get(name, 0.0) + tree_cpu_s(process.pid)
        for pid in [process.pid, *children(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def start(self, name: str) -> None:
        """Start a killed part again, as the supervisor would."""
        if name == "postgres":
            self.postgres.process = None
            self.postgres.start()
        elif name == "redis":
            self.redis.process = None
            self.redis.start()
        else:
            self.programs[name].start()

    def _process(self, name: str) -> "subprocess.Popen[bytes] | None":
        if name == "postgres":
            return self.postgres.process
        return self.redis.process if name == "redis" else self.programs[name].process

    # -- figures

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds since their start of every part, PostgreSQL with all its backends."""
        found = dict(self._ended_cpu_s)
        for name in ["postgres", "redis", *self.programs]:
            process = self._process(name)
            if process is not None and process.poll() is None:
                found[name] = found.get(name, 0.0) + tree_cpu_s(process.pid)
        return found

    def rss_bytes(self, name: str = "web") -> int:
        """Resident memory of one part's main process."""
        process = self._process(name)
        if process is None:
            return 0
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0


def children(pid: int) -> list[int]:
    """All processes below this one."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process, of all it has reaped, and of all that live below it."""
    return sum(_cpu_s(one) for one in [pid, *children(pid)])


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) * TICK_S  # utime, stime, cutime, cstime
