"""`dcops up`: from a data directory to a running dcops, and back to nothing left behind."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from dcops import clock
from dcops.local import preflight, tls
from dcops.local.errors import LocalError
from dcops.local.instance import Instance, Urls, program
from dcops.local.postgres import EmbeddedPostgres
from dcops.local.process import end_orphans, spawn
from dcops.local.redis import EmbeddedRedis
from dcops.local.supervisor import Program, Supervisor

READY_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.1
# A frame holds at most 1 MiB of rows (dcops.wire.frames); nothing larger is read into memory.
WS_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class Hall:
    """The simulated hall of `make demo`."""

    nodes: int
    gpus_per_node: int
    rate_hz: float = 1.0

    def arguments(self) -> list[str]:
        """Return them as `dcops demo` takes them."""
        return [
            *("--nodes", str(self.nodes)),
            *("--gpus-per-node", str(self.gpus_per_node)),
            *("--rate", f"{self.rate_hz:g}"),
        ]


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    data_dir: Path
    port: int
    bind: str | None = None
    hall: Hall | None = None
    agent: bool = True


class _Terminated(Exception):
    """Somebody wants an end: Ctrl-C, SIGTERM or the terminal's end."""


def _terminate(number: int, frame: FrameType | None) -> None:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    raise _Terminated


def up(options: Options, say: Callable[[str], None]) -> int:
    """Run dcops until it is told to end. Returns the exit status. Raises LocalError if it cannot start."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _terminate)
    os.umask(0o077)  # what this and every child writes is their account's alone
    supervisor = Supervisor(say)
    launch = Launch(options, supervisor, say)
    try:
        with launch.take_place():
            try:
                launch.start()
                while True:
                    supervisor.look()
                    time.sleep(LOOK_EVERY_S)
            finally:
                supervisor.stop()
    except _Terminated:
        say("dcops has ended.")
        return 0


class Launch:
    """The steps of one start, in their order."""

    def __init__(
        self, options: Options, supervisor: Supervisor, say: Callable[[str], None]
    ) -> None:
        self.options = options
        self.instance = Instance(options.data_dir)
        self._supervisor = supervisor
        self._say = say
        self._bind = options.bind or "127.0.0.1"
        self._tls: tls.TlsFiles | None = None
        self._public_url = f"http://localhost:{options.port}"

    def take_place(self) -> "Place":
        """Check the machine, lock the data directory, end what an earlier start left. Raises LocalError."""
        preflight.check_python(preflight.python_version())
        preflight.check_transport(self._bind, os.environ.get("DCOPS_PUBLIC_URL"))
        place = Place(self.instance)
        try:
            if left := end_orphans(str(self.instance.data_dir)):
                self._say(f"Ended {left} processes that an earlier start had left behind.")
            preflight.check_port(self._bind, self.options.port)
        except BaseException:
            place.release()
            raise
        return place

    def start(self) -> None:
        """Start everything, and tell how to sign in once it answers."""
        self.instance.log_dir.mkdir(exist_ok=True)
        self._publish()
        urls = self._start_servers()
        self._prepare(urls)
        env = self.instance.server_environment(urls)
        web, *background = self._programs(env)
        self._supervisor.start(web)
        steps = self._first_steps(env)
        self._wait_until_ready()
        if "join_token" in steps:
            self._join(steps["join_token"])
        self._start_agents(steps.get("hall_token"))
        for (
            child
        ) in background:  # after the agent: the first number on the page waits for none of them
            self._supervisor.start(child)
        self._greet(steps.get("set_up"))

    def _publish(self) -> None:
        settings = {"DCOPS_PUBLIC_URL": self._public_url}
        if not preflight.is_loopback(self._bind):
            names = tls.names_for(self._bind)
            self._tls = tls.ensure(self.instance.data_dir / "tls", names, clock.now())
            self._public_url = f"https://{_in_url(names[0])}:{self.options.port}"
            settings = {
                "DCOPS_PUBLIC_URL": self._public_url,
                "DCOPS_ALLOWED_HOSTS": ",".join(_in_url(name) for name in names),
                "DCOPS_CA_FILE": str(self._tls.ca),
            }
        self.instance.publish(settings)

    def _start_servers(self) -> Urls:
        given = {
            name: os.environ.get(f"DCOPS_{name}_URL", "")
            for name in ("OWNER_DATABASE", "DATABASE", "CELERY", "LIVE")
        }
        _check_pair(given, "OWNER_DATABASE", "DATABASE")
        _check_pair(given, "CELERY", "LIVE")
        owner, app = given["OWNER_DATABASE"], given["DATABASE"]
        if not app:
            postgres = EmbeddedPostgres(self.instance.data_dir)
            self._supervisor.start(postgres)
            owner, app = postgres.urls.owner, postgres.urls.app
        celery, live = given["CELERY"], given["LIVE"]
        if not live:
            redis = EmbeddedRedis(self.instance.data_dir)
            self._supervisor.start(redis)
            celery, live = redis.urls.celery, redis.urls.live
        return Urls(owner, app, celery, live)

    def _prepare(self, urls: Urls) -> None:
        env = self.instance.server_environment(urls) | {"DCOPS_OWNER_DATABASE_URL": urls.owner}
        command = [
            "-m",
            "dcops.local.schema",
            "prepare",
            str(self.instance.backup_dir),
            str(self.instance.backup_key),
        ]
        output = _run(command, env, "The database could not be prepared")
        if output:
            self._say(output)

    def _programs(self, env: dict[str, str]) -> list[Program]:
        celery = [sys.executable, "-m", "celery", "--app", "dcops.celery"]
        schedule = self.instance.data_dir / "beat-schedule"
        work = [
            "worker",
            "--concurrency",
            "1",
            "--loglevel",
            "WARNING",
            "--without-gossip",
            "--without-mingle",
        ]
        beat = ["beat", "--schedule", str(schedule), "--pidfile=", "--loglevel", "WARNING"]
        logs = self.instance.log_dir
        return [
            Program(
                "web",
                [sys.executable, "-m", "uvicorn", *self._uvicorn()],
                env,
                logs,
                patience_s=10.0,
            ),
            Program("worker", [*celery, *work], env, logs, death_signal=signal.SIGQUIT),
            Program("beat", [*celery, *beat], env, logs),
        ]

    def _uvicorn(self) -> list[str]:
        arguments = [
            "dcops.asgi:application",
            *("--host", self._bind),
            *("--port", str(self.options.port)),
            *("--ws", "websockets-sansio"),
            *("--ws-max-size", str(WS_MAX_BYTES)),
            *("--ws-ping-interval", "20"),
            *("--ws-ping-timeout", "20"),
            *("--ws-per-message-deflate", "false"),
            *("--timeout-graceful-shutdown", "5"),
            *("--log-level", "warning"),
            "--no-access-log",
            "--no-server-header",
            "--no-proxy-headers",
        ]
        if self._tls:
            arguments += [
                "--ssl-certfile",
                str(self._tls.certificate),
                "--ssl-keyfile",
                str(self._tls.key),
            ]
        return arguments

    def _first_steps(self, env: dict[str, str]) -> dict[str, str]:
        known = self._agent_identity()
        trusts = self._tls.ca.read_text() if self._tls else ""
        here = (known.get("server"), known.get("ca_pem", "")) == (self._local_url(), trusts)
        join = "join" if self.options.agent and not here else "stay"
        nodes = self.options.hall.nodes if self.options.hall else 0
        command = ["-m", "dcops.local.first_steps", join, known.get("node_name", ""), str(nodes)]
        output = _run(command, env, "The first steps failed")
        steps: dict[str, str] = json.loads(output.splitlines()[-1])
        return steps

    def _agent_identity(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(
                (self.instance.data_dir / "agent" / "identity.json").read_text()
            )
        except (OSError, ValueError):
            return {}
        return found

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        trust = ssl.create_default_context(cafile=str(self._tls.ca)) if self._tls else None
        while not _answers(f"{self._local_url()}/healthz", trust):
            self._supervisor.look()
            if time.monotonic() > deadline:
                raise LocalError(
                    f"The web process does not answer; see {self.instance.log_dir / 'web.log'}."
                )
            time.sleep(0.05)

    def _local_url(self) -> str:
        if self._bind in ("0.0.0.0", "::", "127.0.0.1", "::1", "localhost"):  # noqa: S104 - compared, not bound
            return f"{'https' if self._tls else 'http'}://localhost:{self.options.port}"
        return self._public_url

    def _join(self, token: str) -> None:
        address = ["--server", self._local_url()]
        command = [program("dcops-agent"), "join", *address, "--replace", *self._state("agent")]
        env = self.instance.base_environment() | {"DCOPS_JOIN_TOKEN": token}
        _run_command(command, env, "This machine's agent could not join")

    def _start_agents(self, hall_token: str | None) -> None:
        env, logs = self.instance.base_environment(), self.instance.log_dir
        if self.options.agent:
            run = [program("dcops-agent"), "run", *self._state("agent")]
            self._supervisor.start(Program("agent", run, env, logs, death_signal=signal.SIGTERM))
        if self.options.hall and hall_token:
            hall = [sys.executable, "-m", "agents.sim", "--server", self._local_url()]
            hall += [*self.options.hall.arguments(), *self._state("hall")]
            env = env | {"DCOPS_SIM_TOKEN": hall_token}
            self._supervisor.start(Program("hall", hall, env, logs, death_signal=signal.SIGTERM))

    def _state(self, name: str) -> list[str]:
        return ["--state-dir", str(self.instance.data_dir / name)]

    def _greet(self, set_up: str | None) -> None:
        self._say(f"\ndcops runs at {self._public_url}")
        if self._tls:
            self._say(
                f"Its certificate comes from its own authority; import {self._tls.ca} into your browser."
            )
        if set_up:
            self._say(
                f"Sign in for the first time (works once, for one hour):\n  {self._public_url}{set_up}"
            )
        else:
            self._say(
                "Sign in with your account. A new one-time link for an administrator: dcops setup-link"
            )
        self._say(f"Ctrl-C ends it. Logs are in {self.instance.log_dir}\n")


class Place:
    """The locked data directory of a running launcher."""

    def __init__(self, instance: Instance) -> None:
        self._lock = preflight.take_data_dir(instance.data_dir, instance.lock_file)

    def release(self) -> None:
        """Let another launcher have it."""
        self._lock.close()

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _check_pair(given: dict[str, str], first: str, second: str) -> None:
    if bool(given[first]) != bool(given[second]):
        missing = second if given[first] else first
        raise LocalError(
            f"DCOPS_{missing}_URL is not set, but its partner is. Set both for outside servers, or neither for the embedded ones."
        )


def _in_url(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _answers(url: str, trust: ssl.SSLContext | None) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2, context=trust):  # noqa: S310 - our own http(s) address
            return True
    except urllib.error.HTTPError:
        return False
    except OSError:
        return False


def _run(python_arguments: list[str], env: dict[str, str], failure: str) -> str:
    return _run_command([sys.executable, *python_arguments], env, failure)


def _run_command(command: list[str], env: dict[str, str], failure: str) -> str:
    """Run a program to its end and return its output. Raises LocalError with the last line of what it complained about."""
    process = spawn(command, env=env, stdout=subprocess.PIPE)
    try:
        output, _ = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    text = output.decode(errors="replace").strip()
    if process.returncode != 0:
        raise LocalError(f"{failure}: {(text.splitlines() or ['no message'])[-1]}")
    return text
