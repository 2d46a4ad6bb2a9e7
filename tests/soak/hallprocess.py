"""A simulated hall in a process of its own, with its exact counts."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.server import ROOT, ScratchServer, tree_cpu_s


class HallProcess:
    """`dcops demo` against a scratch server. `counts()` is never older than two seconds while it runs, exact at the end."""

    def __init__(
        self,
        server: ScratchServer,
        nodes: int,
        *,
        gpus: int = 8,
        seed: int = 1,
        journal: bool = False,
        xids_per_hour: float = 0.0,
        drain_s: float = 60.0,
        name: str = "hall",
    ) -> None:
        self.nodes, self.gpus, self.seed = nodes, gpus, seed
        self.state_dir = server.directory / name
        self.journal = server.directory / f"{name}.journal"
        self._report = server.directory / f"{name}.json"
        command = [
            sys.executable,
            "-m",
            "agents.sim",
            "--server",
            server.url,
            "--token",
            server.hall_token(nodes),
        ]
        command += ["--nodes", str(nodes), "--gpus-per-node", str(gpus), "--seed", str(seed)]
        command += [
            "--state-dir",
            str(self.state_dir),
            "--report",
            str(self._report),
            "--drain",
            str(drain_s),
            "--quiet",
        ]
        command += ["--journal", str(self.journal)] if journal else []
        command += ["--xids-per-hour", str(xids_per_hour), "--silence-every", "0"]
        self._process = subprocess.Popen(command, cwd=ROOT)

    def counts(self) -> dict[str, Any]:
        """What it has made, sent and got acknowledged; {} before it has connected for the first time."""
        return json.loads(self._report.read_text()) if self._report.exists() else {}

    def wait_until_settled(self, limit_s: float = 300.0) -> None:
        """Wait until every node is connected and hardly anything waits. Raises RuntimeError if it does not come to that."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            now = self.counts()
            if now and now["connected"] == self.nodes and now["unacknowledged"] <= 2 * self.nodes:
                return
            if self._process.poll() is not None:
                raise RuntimeError(f"the hall ended with {self._process.returncode}")
            time.sleep(0.5)
        raise RuntimeError(f"the hall did not settle: {self.counts()}")

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        return tree_cpu_s(self._process.pid)

    def finish(self) -> dict[str, Any]:
        """Stop producing, wait for what is on its way, and return the final counts."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        return self.counts()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "HallProcess":
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self.kill()


def seconds(name: str, default: float) -> float:
    """A duration that the environment may shorten, such as SOAK_SECONDS=60."""
    import os

    return float(os.environ.get(name, default))


def directory() -> Path | None:
    """Where scratch servers live: SOAK_DIR, else the system's temporary directory (a disk, so that fsync costs what it costs)."""
    import os

    return Path(os.environ["SOAK_DIR"]) if "SOAK_DIR" in os.environ else None
