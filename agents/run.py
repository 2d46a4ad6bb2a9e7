"""`dcops-agent`: the composition root, the only module that names concrete adapters.

What only `run` and `join` need (TLS, cryptography, WebSockets) is imported by them: `doctor` and `once` start at once.
"""

import argparse
import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agents import doctor, snapshot
from agents.adapters import kmsg
from agents.adapters.host import Host
from agents.collector import COMMAND, Collector
from agents.config import RULES, BadSetting, Config, load
from agents.ports import EventSource, Want
from dcops.wire.frames import Finding

if TYPE_CHECKING:
    from agents.daemon import Agent, Latest

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "DCOPS_JOIN_TOKEN"  # noqa: S105, the name of a variable


class Unusable(Exception):
    """The agent cannot run here; the message says why and what to do."""


def agent_version() -> str:
    """The version of the installed package."""
    try:
        return version("dcops")
    except PackageNotFoundError:
        return "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command. Returns the exit status: 0 done, 1 failed, 2 wrong use."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        config = load(vars(options), os.environ, options.config)
        return int(options.command(config, options))
    except BadSetting as error:
        _complain(str(error))
        return 2
    except Unusable as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument("--config", type=Path, metavar="FILE", help="settings file (TOML)")
    for name, rule in RULES.items():
        settings.add_argument("--" + name.replace("_", "-"), metavar="VALUE", help=rule.help)
    parser = argparse.ArgumentParser(
        prog="dcops-agent",
        description="Collects what a GPU node knows about itself and sends it to dcops.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, what: str, command: object) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=what, description=what, parents=[settings])
        sub.set_defaults(command=command)
        return sub

    add("run", "collect and send until stopped", _run)
    join = add("join", "make this machine a node of a server", _join)
    join.add_argument("--server", required=True, metavar="URL", help="the server's address")
    join.add_argument(
        "--token",
        metavar="TOKEN",
        help=f"what `dcops node token` printed on the server (or in {TOKEN_VARIABLE})",
    )
    join.add_argument(
        "--replace", action="store_true", help="give up the identity that this machine has"
    )
    add("doctor", "say what can and cannot be read on this machine, and why", _doctor)
    add("once", "print one full reading of this machine", _once).add_argument(
        "--json", action="store_true", help="as JSON (the only format so far)"
    )
    add("version", "print the version", _version)
    return parser


def _complain(message: str) -> None:
    sys.stderr.write(f"dcops-agent: {message}\n")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _version(_config: Config, _options: argparse.Namespace) -> int:
    _print(f"dcops-agent {agent_version()}")
    return 0


def _once(config: Config, _options: argparse.Namespace) -> int:
    async def read() -> object:
        gpus = Collector(config.gpu_deadline_s)
        try:
            return await snapshot.take(gpus, Host())
        finally:
            await gpus.close()

    reading = asyncio.run(read())
    _print(msgspec.json.format(msgspec.json.encode(reading)).decode())
    return 0


def _doctor(config: Config, _options: argparse.Namespace) -> int:
    async def read() -> list[Finding]:
        gpus = Collector(config.gpu_deadline_s)
        try:
            report = await gpus.read(
                Want(sample=True, health=True, processes=True, inventory=True)
            )
        finally:
            await gpus.close()
        first = report.problem or Finding("GPUs", "ok", f"{len(report.uuids)} found")
        return [first, *report.findings]

    findings = asyncio.run(read()) + Host().findings()
    findings += [
        kmsg.finding(),
        doctor.check_state_dir(config.state_dir),
        doctor.check_joined(config.state_dir),
    ]
    _print(doctor.render(findings))
    return 0


def _join(config: Config, options: argparse.Namespace) -> int:
    from agents.join import JoinError, host_name, join, machine_id

    token = options.token or os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise Unusable(f"Give the token with --token or in {TOKEN_VARIABLE}.")
    try:
        answer = join(
            options.server,
            token,
            config.state_dir,
            hostname=host_name(),
            machine_id=machine_id(),
            replace=options.replace,
        )
    except JoinError as error:
        raise Unusable(str(error)) from error
    _print(f"This machine is now node {answer.node_name} ({answer.state}).")
    if answer.state == "pending":
        _print("An administrator must approve it before its data is taken.")
    return 0


def _run(config: Config, _options: argparse.Namespace) -> int:
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    with _only_one(config.state_dir):
        asyncio.run(run_agent(config))
    return 0


@contextlib.contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder: two agents in it would spoil each other's spool."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (state_dir / "lock").open("w")
    except OSError as error:
        raise Unusable(
            f"The state folder {state_dir} cannot be used ({error.strerror}). "
            "Run as the agent's user, or name another with --state-dir."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Unusable(f"Another dcops-agent runs with {state_dir} already.") from error
        yield


async def run_agent(config: Config, collector: Sequence[str] = COMMAND) -> None:
    """Collect and send until SIGTERM or SIGINT. Raises Unusable. `collector` is the child that reads the GPUs."""
    from agents.adapters.gpu_lists import GpuListStore
    from agents.adapters.keys import IdentityError
    from agents.adapters.spool import Spool
    from agents.adapters.systemd import Notifier
    from agents.adapters.uplink import Uplink
    from agents.daemon import Agent, Ports
    from agents.sampler import Plan

    notifier = Notifier()
    try:
        spool = Spool(config.state_dir / "spool", metrics_limit_bytes=config.spool_mib << 20)
        gpu_lists = GpuListStore(config.state_dir / "gpu_lists")
        uplink = Uplink.of_state_dir(
            config.state_dir, spool, agent_version=agent_version(), gpu_lists=gpu_lists.all
        )
    except IdentityError as error:
        raise Unusable(str(error)) from error
    except OSError as error:
        raise Unusable(f"The state folder {config.state_dir} cannot be used: {error}.") from error
    loop = asyncio.get_running_loop()
    ports = Ports(
        gpus=Collector(config.gpu_deadline_s, collector),
        host=Host(),
        metrics=spool.metrics,
        events=spool.events,
        gpu_lists=gpu_lists,
        link=uplink,
        kernel_log=_kernel_log(config),
        findings=lambda: [kmsg.finding()] if config.kernel_log else [],
    )

    plan = Plan(config.intervals_s, loop.time())
    agent = Agent(ports, plan, clock=loop.time, after_tick=notifier.ticked)
    # What is loaded by now stays: the garbage collector need not walk over it again and again.
    gc.collect()
    gc.freeze()
    try:
        await _until_stopped(config, agent, uplink.run())
    finally:
        notifier.say("STOPPING=1")
        spool.close()


async def _until_stopped(
    config: Config, agent: "Agent", link: Coroutine[object, object, None]
) -> None:
    """Run both until a signal comes, or one of them fails; then end both."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await _serve_metrics(config, agent.latest)
    tasks = [asyncio.create_task(work) for work in (agent.run(), link, stop.wait())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if server is not None:
            server.close()
    for task in done:
        task.result()


async def _serve_metrics(config: Config, latest: "Latest") -> asyncio.Server | None:
    if not config.metrics_port:
        return None
    from agents.exporter import serve

    try:
        return await serve(latest, config.metrics_port)
    except OSError as error:
        raise Unusable(
            f"/metrics cannot be served on port {config.metrics_port} ({error.strerror}). "
            "Choose another with --metrics-port, or 0 for none."
        ) from error


def _kernel_log(config: Config) -> EventSource | None:
    if not config.kernel_log:
        return None
    try:
        return kmsg.KernelLog(config.state_dir / "kmsg.place", kmsg.boot_id())
    except OSError as error:
        log.warning("XIDs come only from the driver: the kernel log cannot be read (%s).", error)
        return None


if __name__ == "__main__":
    sys.exit(main())
