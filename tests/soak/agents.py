"""Real agents as processes, to be killed and started again."""

import os
import subprocess
import sys
from pathlib import Path

from tests.bench.server import ROOT, ScratchServer
from tests.soak.agent_process import read_agent
from tests.soak.oracle import GpuLists, Produced

DRAIN_S = 120.0


class RealAgent:
    """One agent with its own state directory, joined and approved."""

    def __init__(
        self,
        server: ScratchServer,
        name: str,
        *,
        interval_s: float = 0.5,
        spool_kib: int | None = None,
    ) -> None:
        self.name = name
        self.state_dir = server.directory / name
        self.journal = server.directory / f"{name}.journal"
        self._log = (server.directory / f"{name}.log").open("ab")
        self._env = os.environ | {"SOAK_AGENT_INTERVAL_S": str(interval_s)}
        self.disk_full = server.directory / f"{name}.disk-full"
        if spool_kib is not None:
            self._env |= {"SOAK_SPOOL_KIB": str(spool_kib), "SOAK_DISK_FULL": str(self.disk_full)}
        self._process: subprocess.Popen[bytes] | None = None
        command = [
            str(Path(sys.executable).parent / "dcops-agent"),
            "join",
            "--server",
            server.url,
        ]
        command += ["--token", server.node_token(), "--state-dir", str(self.state_dir)]
        subprocess.run(command, check=True, stdout=self._log, stderr=self._log)

    def start(self, what: str = "run") -> None:
        """Start it, or let it "drain"."""
        command = [sys.executable, "-m", "tests.soak.agent_process", what]
        command += [str(self.state_dir), str(self.journal), self.name]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=self._env, stdout=self._log, stderr=self._log
        )

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9; the collector's child dies with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it politely."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def drain(self) -> None:
        """Let it deliver all it has. Raises subprocess.TimeoutExpired if it cannot."""
        self.stop()
        self.start("drain")
        assert self._process is not None
        try:
            self._process.wait(DRAIN_S)
        finally:
            self.kill()

    def log(self) -> str:
        """What it said."""
        return Path(self._log.name).read_text(errors="replace")

    def produced(self) -> tuple[list[Produced], GpuLists]:
        """What it says it produced."""
        return read_agent(self.state_dir, self.journal)
