"""`dcops-agent`: the composition root, the only module that names concrete adapters."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from agents import doctor, snapshot
from agents.adapters import kmsg
from agents.adapters.host import Host
from agents.collector import Collector
from agents.config import RULES, BadSetting, Config, load
from agents.ports import Want
from dcops.wire.frames import Finding


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


if __name__ == "__main__":
    sys.exit(main())
