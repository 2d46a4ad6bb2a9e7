"""`dcops up` as an operator starts it, for tests: a process of its own, watched from outside."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from dcops.local.process import processes_of

DCOPS = Path(sys.executable).parent / "dcops"
START_TIMEOUT_S = 90.0
END_TIMEOUT_S = 40.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment(**more):
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DCOPS_", "DJANGO_", "PYTEST_"))
    }
    return kept | more


def wait_until(condition, timeout_s, what):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what()}"
        time.sleep(0.05)
    return result


class Launcher:
    """One `dcops up`. Its end is forced when the test ends, whatever happened."""

    def __init__(self, data_dir, *arguments, **environment):
        self.data_dir, self.port = Path(data_dir), free_port()
        self._said = self.data_dir.with_name(f"{self.data_dir.name}-{self.port}.txt")
        with self._said.open("wb") as output:
            self.process = subprocess.Popen(
                [DCOPS, "up", "--data-dir", self.data_dir, "--port", str(self.port), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment(**environment),
                start_new_session=True,
            )

    @property
    def said(self):
        return self._said.read_text()

    def wait_until_ready(self):
        def ready():
            assert self.process.poll() is None, self.said
            return "Ctrl-C ends it" in self.said

        wait_until(ready, START_TIMEOUT_S, self.evidence)
        return self

    def url(self):
        return re.search(r"dcops runs at (\S+)", self.said)[1]

    def fetch(self, path, **options):
        cookies = urllib.request.HTTPCookieProcessor()
        with urllib.request.build_opener(cookies).open(
            self.url() + path, timeout=10, **options
        ) as answer:
            return answer.status, answer.read().decode()

    def processes(self):
        return processes_of(str(self.data_dir))

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(END_TIMEOUT_S)

    def wait_until_nothing_is_left(self):
        wait_until(lambda: not self.processes(), END_TIMEOUT_S, lambda: str(self.processes()))

    def evidence(self):
        logs = sorted((self.data_dir / "log").glob("*.log"))
        tails = [f"== {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs]
        return "\n".join([self.said, *tails])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
