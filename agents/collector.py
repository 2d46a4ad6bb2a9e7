"""The GPUs are read in a child process, because a call into a driver may hang for ever.

The parent asks over a socket and waits until a deadline; past it the child is killed, and a new one is started after a
back-off. A child that cannot even be killed (uninterruptible in the kernel) is left behind, and after ABANDONED_MAX of them
no more are started until one has gone. The agent stays alive through all of this and says what happened as events.

One message is one packet of a SOCK_SEQPACKET pair: (number, Want) one way, (number, GpuReport) the other.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Protocol

import msgspec

from agents.ports import GpuReport, Want
from dcops.wire.frames import Event, Finding, Severity

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "agents.collector")
FIRST_DEADLINE_S = 60.0
BACKOFF_S = 1.0
BACKOFF_MAX_S = 60.0
# A child that lived this long ends a row of failures.
WELL_S = 60.0
NO_DRIVER_RETRY_S = 300.0
ABANDONED_MAX = 3
_PACKET_BYTES = 4 << 20
_LOST = "the driver no longer lists it"

Question = tuple[int, Want]
Answer = tuple[int, GpuReport]


class Blocking(Protocol):
    """The GPUs as the child sees them: calls may hang."""

    def read(self, want: Want) -> GpuReport: ...

    def drain_events(self) -> list[Event]: ...

    def close(self) -> None: ...


class _Condition(Enum):
    """How the last reading went: an event marks a change, not every failure."""

    STARTING = auto()
    WELL = auto()
    HUNG = auto()
    DIED = auto()
    NO_DRIVER = auto()


class Collector:
    """A GpuSource that no driver can hang."""

    def __init__(
        self,
        deadline_s: float,
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.monotonic,
        first_deadline_s: float = FIRST_DEADLINE_S,
        kill: Callable[[subprocess.Popen[bytes]], None] = subprocess.Popen.kill,
    ) -> None:
        """`deadline_s` for an answer; the first one of a child may take `first_deadline_s`, as drivers start slowly."""
        self._kill = kill
        self._deadline_s = deadline_s
        self._first_deadline_s = max(first_deadline_s, deadline_s)
        self._command = command
        self._clock = clock
        self._child: _Child | None = None
        self._abandoned: list[subprocess.Popen[bytes]] = []
        self._start_at = float("-inf")
        self._backoff_s = BACKOFF_S
        self._condition = _Condition.STARTING
        self._problem = Finding("GPUs", "failed", "The GPU collector has not started yet.")
        self._events: list[Event] = []
        self._present: dict[str, None] = {}
        self._lost: set[str] = set()

    async def read(self, want: Want) -> GpuReport:
        """Ask the child; see GpuSource.read."""
        self._reap()
        if self._child is None and not self._start():
            return self._nothing()
        child = self._child
        assert child is not None
        deadline_s = self._deadline_s if child.answered else self._first_deadline_s
        try:
            report = await child.ask(want, deadline_s)
        except TimeoutError:
            self._hung(deadline_s)
        except (OSError, EOFError, msgspec.DecodeError) as error:
            self._died(error)
        else:
            return self._answered(report)
        return self._nothing()

    def drain_events(self) -> list[Event]:
        """Return the events seen since the last call."""
        events, self._events = self._events, []
        return events

    async def close(self) -> None:
        """Ask the child to leave by closing its socket; kill it if it does not."""
        child, self._child = self._child, None
        if child is None:
            return
        child.close()
        # Waiting in a thread is for the last moment only: there is no loop to disturb any more.
        try:
            await asyncio.to_thread(child.process.wait, 3.0)
        except subprocess.TimeoutExpired:
            child.process.kill()

    # -- outcomes

    def _answered(self, report: GpuReport) -> GpuReport:
        self._events += report.events
        if report.problem is not None:
            self._without_driver(report.problem)
            return self._nothing()
        if self._condition is _Condition.HUNG:
            self._say("collector", Severity.INFO, "The NVIDIA driver answers again.")
        self._condition = _Condition.WELL
        self._problem = Finding("GPUs", "ok", f"{len(report.uuids)} found.")
        self._compare(report)
        return report

    def _without_driver(self, problem: Finding) -> None:
        """A library that does not match the driver can only be loaded anew, by a new process."""
        missing = problem.status == "missing"
        if not missing and problem != self._problem:
            self._say("driver", Severity.CRITICAL, problem.message)
        self._give_up(_Condition.NO_DRIVER, problem)
        if missing:
            self._start_at = self._clock() + NO_DRIVER_RETRY_S

    def _hung(self, deadline_s: float) -> None:
        message = f"The NVIDIA driver did not answer within {deadline_s:g} s (NVML hung)."
        if self._condition is not _Condition.HUNG:
            self._say("collector", Severity.CRITICAL, message)
        self._give_up(_Condition.HUNG, Finding("GPUs", "failed", message))

    def _died(self, error: Exception) -> None:
        message = "The GPU collector ended unexpectedly; a new one is started."
        if self._condition is not _Condition.DIED:
            self._say("collector", Severity.WARNING, message)
        log.warning("GPU collector: %s", error or type(error).__name__)
        self._give_up(_Condition.DIED, Finding("GPUs", "failed", message))

    def _give_up(self, condition: "_Condition", problem: Finding) -> None:
        """End the child, and wait longer each time before the next, unless this one was well for long."""
        child, self._child = self._child, None
        if child is not None:
            child.close()
            self._kill(child.process)
            self._abandoned.append(child.process)
            if self._clock() - child.started_s > WELL_S:
                self._backoff_s = BACKOFF_S
        self._start_at = self._clock() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)
        self._condition, self._problem = condition, problem

    def _nothing(self) -> GpuReport:
        return GpuReport(at_us=_now_us(), uuids=[], problem=self._problem)

    def _compare(self, report: GpuReport) -> None:
        present = set(report.uuids)
        for uuid in self._present.keys() - present - self._lost:
            reason = report.lost.get(uuid, _LOST)
            self._lost.add(uuid)
            self._say("gpu_lost", Severity.CRITICAL, f"GPU {uuid} is lost: {reason}", uuid)
        for uuid in self._lost & present:
            self._lost.discard(uuid)
            self._say("gpu_lost", Severity.INFO, f"GPU {uuid} is back.", uuid)
        self._present |= dict.fromkeys(report.uuids)

    def _say(self, kind: str, severity: Severity, message: str, gpu_uuid: str = "") -> None:
        log.warning("%s", message)
        now = _now_us()
        key = f"{kind}:{gpu_uuid}:{message}"
        self._events.append(Event(now, kind, severity, message, key, None, gpu_uuid, "agent"))

    # -- the child

    def _start(self) -> bool:
        if self._clock() < self._start_at:
            return False
        if len(self._abandoned) >= ABANDONED_MAX:
            return False
        try:
            self._child = _Child(self._command, self._clock())
        except OSError as error:
            self._died(error)
            return False
        return True

    def _reap(self) -> None:
        self._abandoned = [process for process in self._abandoned if process.poll() is None]


class _Child:
    """One collector process and the questions to it."""

    def __init__(self, command: Sequence[str], now_s: float) -> None:
        """Raises OSError."""
        self.started_s = now_s
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            _widen(ours, theirs)
            try:
                self.process = subprocess.Popen(  # noqa: S603, the command is ours
                    command, stdin=theirs.fileno(), start_new_session=True
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours
        self._number = 0
        self.answered = False

    async def ask(self, want: Want, deadline_s: float) -> GpuReport:
        """Raises TimeoutError, OSError or EOFError (the child is gone), msgspec.DecodeError."""
        self._number += 1
        self._socket.send(msgspec.msgpack.encode((self._number, want)))
        async with asyncio.timeout(deadline_s):
            while True:
                packet = await asyncio.get_running_loop().sock_recv(self._socket, _PACKET_BYTES)
                if not packet:
                    raise EOFError("its socket closed")
                number, report = _answers.decode(packet)
                if number == self._number:
                    self.answered = True
                    return report

    def close(self) -> None:
        """Close our end: the child leaves by itself when it sees that."""
        self._socket.close()


_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)


def _widen(*ends: socket.socket) -> None:
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PACKET_BYTES)


def serve(source: Blocking, end: socket.socket) -> None:
    """Answer questions until the other end closes."""
    encoder = msgspec.msgpack.Encoder()
    while packet := end.recv(_PACKET_BYTES):
        number, want = _questions.decode(packet)
        report = source.read(want)
        events = report.events + source.drain_events()
        end.send(encoder.encode((number, msgspec.structs.replace(report, events=events))))


def run_child(source: Callable[[], Blocking]) -> None:
    """Be the child: the socket is standard input, and standard output is left to whatever a driver prints."""
    _die_with_parent()
    # Ctrl-C goes to the whole terminal; only the parent decides when we leave.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = socket.socket(fileno=os.dup(0))
    opened = source()
    # What is loaded now stays: keep the collector from walking over it again and again.
    gc.collect()
    gc.freeze()
    try:
        with contextlib.suppress(ConnectionError):
            serve(opened, end)
    finally:
        opened.close()


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


def _now_us() -> int:
    return time.time_ns() // 1000


if __name__ == "__main__":
    from agents.adapters.nvml import Nvml

    run_child(Nvml)
