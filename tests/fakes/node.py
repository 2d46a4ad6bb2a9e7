"""A whole agent as a process, joined to a server in this one: `with` a state folder, a collector's child, and a server."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from agents.adapters.keys import keep
from tests.fakes.server import FakeServer

ROOT = Path(__file__).resolve().parents[2]
CHILD = ROOT / "tests" / "fakes" / "collector_child.py"

_PROGRAM = """
import asyncio, sys
from pathlib import Path
from agents.config import Config
from agents.run import run_agent
asyncio.run(run_agent(Config(state_dir=Path(sys.argv[1]), kernel_log=False), sys.argv[2:]))
"""


def join(state_dir: Path, server: FakeServer) -> None:
    """Put the key and the identity of the server's node into the state folder."""
    state_dir.mkdir(parents=True, exist_ok=True)
    keep(state_dir, server.node_key, server.identity())


def scripted(scenario: str, folder: Path, gpus: int) -> list[str]:
    """The command of a collector's child with a scripted driver."""
    return [sys.executable, str(CHILD), scenario, str(folder), str(gpus)]


@contextlib.asynccontextmanager
async def agent(
    state_dir: Path, collector: Sequence[str] | None = None, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an agent that has joined; its own collector, or another. It is killed at the end if it still runs."""
    if collector is None:
        command = ["-m", "agents.run", "run", "--state-dir", str(state_dir)]
    else:
        command = ["-c", _PROGRAM, str(state_dir), *collector]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, env=os.environ | environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
