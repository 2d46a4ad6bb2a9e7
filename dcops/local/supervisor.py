"""Keeps the programs of one dcops running: a child that dies is started again, later and later; the end ends them all."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dcops.local.process import finish, spawn

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0
STEADY_AFTER_S = 60.0  # a child that lived this long starts again at once the next time
LOG_MAX_BYTES = 10 << 20


def next_delay(previous_s: float, lived_s: float) -> float:
    """Return how long to wait before a dead child is started again: doubling from 0.5 s to 30 s, anew after a steady life."""
    if lived_s >= STEADY_AFTER_S or previous_s == 0:
        return FIRST_DELAY_S
    return min(previous_s * 2, MAX_DELAY_S)


class Child(Protocol):
    """What the supervisor watches."""

    name: str

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The running process, None before start()."""
        ...

    def start(self) -> None:
        """Start it. May raise LocalError."""
        ...

    def ask_to_end(self) -> None:
        """Tell it to end, without waiting. A server that others need until their end does nothing yet."""
        ...

    def stop(self) -> None:
        """End it; returns when it is gone."""
        ...


@dataclass
class Program:
    """One of dcops's own programs, with its log file."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log_dir: Path
    stop_signal: signal.Signals = signal.SIGTERM
    # Sent by the kernel when the launcher dies; one that lets the program end its own children where it has any.
    death_signal: signal.Signals = signal.SIGKILL
    patience_s: float = 8.0
    process: subprocess.Popen[bytes] | None = None
    _asked: bool = False

    @property
    def log_file(self) -> Path:
        """Where its output goes."""
        return self.log_dir / f"{self.name}.log"

    def start(self) -> None:
        """Start it, with a fresh log file where the last one has grown large."""
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > LOG_MAX_BYTES:
                self.log_file.replace(self.log_file.with_suffix(".log.1"))
        self._asked = False
        with self.log_file.open("ab") as log:
            self.process = spawn(
                self.command, env=self.env, death_signal=self.death_signal, stdout=log
            )

    def ask_to_end(self) -> None:
        """Send the polite signal."""
        if self.process is not None and self.process.poll() is None and not self._asked:
            self.process.send_signal(self.stop_signal)
            self._asked = True

    def stop(self) -> None:
        """End it and its whole process group."""
        self.ask_to_end()
        if self.process is not None:
            finish(self.process, self.patience_s)


@dataclass
class _Watch:
    child: Child
    started_s: float
    delay_s: float = 0.0
    due_s: float | None = None


@dataclass
class Supervisor:
    """Starts children in order, restarts the dead, stops all in the opposite order."""

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _watched: list[_Watch] = field(default_factory=list)

    def start(self, child: Child) -> None:
        """Start a child and watch it from now on. Raises what its start raises; then it is not watched."""
        child.start()
        self._watched.append(_Watch(child, self.clock()))

    def look(self) -> None:
        """Start again whoever died, once its delay is over."""
        for watch in self._watched:
            process = watch.child.process
            if watch.due_s is None:
                if process is not None and process.poll() is not None:
                    self._note_death(watch, process)
            elif self.clock() >= watch.due_s:
                self._restart(watch)

    def stop(self) -> None:
        """End all children, the programs at once and their servers after them."""
        for watch in self._watched:
            watch.child.ask_to_end()
        for watch in reversed(self._watched):
            with contextlib.suppress(OSError):
                watch.child.stop()
        self._watched.clear()

    def _note_death(self, watch: _Watch, process: subprocess.Popen[bytes]) -> None:
        now = self.clock()
        watch.delay_s = next_delay(watch.delay_s, now - watch.started_s)
        watch.due_s = now + watch.delay_s
        self.say(
            f"{watch.child.name} ended ({_how(process.returncode)}); starting it again in {watch.delay_s:g} s."
        )

    def _restart(self, watch: _Watch) -> None:
        watch.started_s, watch.due_s = self.clock(), None
        try:
            watch.child.stop()  # what is left of its process group
            watch.child.start()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on and this one is tried again
            watch.delay_s = next_delay(watch.delay_s, 0)
            watch.due_s = self.clock() + watch.delay_s
            self.say(f"{watch.child.name} cannot be started: {error}")


def _how(returncode: int) -> str:
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit status {returncode}"
