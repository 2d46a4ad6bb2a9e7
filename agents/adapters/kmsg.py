"""The kernel log, /dev/kmsg: XIDs of GPUs and NVSwitches, GPUs off the bus, links of network cards, memory errors.

Sees what the driver's event set misses, also from before the agent started. Where it stopped is kept in a file, so that
a restart neither repeats nor skips.
"""

import contextlib
import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from agents.events import short_bus_id, xid_event
from dcops.wire.frames import Event, Finding, Severity

log = logging.getLogger(__name__)

DEVICE = Path("/dev/kmsg")
_RECORD_BYTES = 8192
# One drain takes at most this many lines, so that a flood cannot hold up the agent.
_DRAIN_MAX = 5000

_BUS = r"(?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})"
_XID = re.compile(rf"NVRM: Xid \({_BUS}(?:\.\d)?[^)]*\): (\d+)(?:, )?(.*)")
_SXID = re.compile(rf"SXid \({_BUS}(?:\.\d)?[^)]*\): (\d+)(?:, )?(.*)")


class _Pattern(NamedTuple):
    kind: str
    severity: Severity
    pattern: re.Pattern[str]


_PATTERNS = (
    _Pattern(
        "gpu_lost", Severity.CRITICAL, re.compile(r"NVRM: .*fallen off the bus.*", re.DOTALL)
    ),
    _Pattern("driver", Severity.CRITICAL, re.compile(r"NVRM: API mismatch.*")),
    _Pattern(
        "driver",
        Severity.CRITICAL,
        re.compile(r"NVRM: .*(?:RmInitAdapter failed|probe routine failed).*"),
    ),
    _Pattern("driver", Severity.INFO, re.compile(r"NVRM: loading NVIDIA .*Kernel Module.*")),
    _Pattern(
        "network",
        Severity.WARNING,
        re.compile(
            r"mlx5_core .*(?:Link down|Port module event\[error\]|health .*|Cable error.*|[Ff]atal.*)"
        ),
    ),
    _Pattern("network", Severity.INFO, re.compile(r"mlx5_core .*Link up.*")),
    _Pattern(
        "pcie",
        Severity.CRITICAL,
        re.compile(r"(?:pcieport|AER:|\{\d+\}\[Hardware Error\]).*(?:Uncorrect\w+|[Ff]atal).*"),
    ),
    _Pattern(
        "memory",
        Severity.CRITICAL,
        re.compile(r"(?:EDAC .*UE .*|mce: \[Hardware Error\].*Uncorrected.*)"),
    ),
    _Pattern("kernel", Severity.CRITICAL, re.compile(r"Out of memory: Killed process.*")),
    _Pattern(
        "kernel",
        Severity.WARNING,
        re.compile(r"INFO: task .* blocked for more than \d+ seconds.*"),
    ),
    _Pattern(
        "disk",
        Severity.CRITICAL,
        re.compile(
            r"(?:Buffer I/O error on dev|blk_update_request: .*I/O error|I/O error, dev|nvme\d*: .*(?:Abort status|controller is down)).*"
        ),
    ),
)


def boot_id() -> str:
    """The kernel's name for this boot: sequence numbers begin anew with each."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Line(NamedTuple):
    """One record of the kernel log."""

    sequence: int
    since_boot_us: int
    text: str


def parse(record: bytes) -> Line | None:
    """Read `priority,sequence,µs since boot,flags;text` and what continues it; None if it is not such a record."""
    head, _, body = record.partition(b";")
    fields = head.split(b",")
    try:
        sequence, since_boot_us = int(fields[1]), int(fields[2])
    except (IndexError, ValueError):
        return None
    # Lines that start with a blank are the record's dictionary, not its text.
    text = body.partition(b"\n ")[0].decode(errors="replace").strip()
    return Line(sequence, since_boot_us, text)


def event_of(text: str, at_us: int) -> Event | None:
    """Return what a line of the kernel log means, None if it is nothing to us. Pure."""
    match = _XID.search(text)
    if match is not None:
        return xid_event(
            at_us, match[1], int(match[2]), gpu_uuid="", source="kmsg", detail=match[3].strip()
        )
    match = _SXID.search(text)
    if match is not None:
        code = int(match[2])
        key = f"sxid:{short_bus_id(match[1])}:{code}"
        severity = (
            Severity.CRITICAL
            if "Fatal" in match[3] and "Non-fatal" not in match[3]
            else Severity.WARNING
        )
        message = f"NVSwitch SXid {code} ({match[3].strip()})"
        return Event(at_us, "sxid", severity, message, key, code, "", "kmsg")
    for kind, severity, pattern in _PATTERNS:
        found = pattern.search(text)
        if found is not None:
            return Event(at_us, kind, severity, text, f"{kind}:{text}", None, "", "kmsg")
    return None


class KernelLog:
    """An EventSource over /dev/kmsg."""

    def __init__(
        self,
        cursor: Path,
        boot_id: str,
        device: Path = DEVICE,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        since_boot_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        """`cursor` is the file that remembers the last line read. Raises OSError if the log cannot be read."""
        self._descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._cursor = cursor
        self._boot_id = boot_id
        self._now_us = now_us
        self._since_boot_us = since_boot_us
        self._seen = self._load()

    def drain_events(self) -> list[Event]:
        """Return what has happened since the last call; lines that were overwritten unread are one event."""
        booted_at_us = self._now_us() - self._since_boot_us()
        events: list[Event] = []
        for line in self._lines():
            if line is None:
                events.append(self._overrun())
            elif line.sequence > self._seen:
                self._seen = line.sequence
                event = event_of(line.text, booted_at_us + line.since_boot_us)
                if event is not None:
                    events.append(event)
        if events:
            self.remember()
        return events

    def remember(self) -> None:
        """Keep where we are for the next start. Losing this only repeats events, under their old keys."""
        draft = self._cursor.with_suffix(".new")
        with contextlib.suppress(OSError):
            draft.write_text(f"{self._boot_id} {self._seen}\n")
            draft.replace(self._cursor)

    def close(self) -> None:
        """Keep the place and let go of the device."""
        self.remember()
        os.close(self._descriptor)

    def _load(self) -> int:
        try:
            boot_id, _, sequence = self._cursor.read_text().strip().partition(" ")
            return int(sequence) if boot_id == self._boot_id else -1
        except (OSError, ValueError):
            return -1

    def _lines(self) -> Iterator[Line | None]:
        """Yield what can be read now; None where lines were lost."""
        for _ in range(_DRAIN_MAX):
            try:
                record = os.read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.EPIPE:
                    log.warning("The kernel log cannot be read: %s", error)
                    return
                yield None
                continue
            if not record:
                return
            line = parse(record)
            if line is not None:
                yield line

    def _overrun(self) -> Event:
        message = "The kernel log overflowed: some lines were lost before they could be read."
        return Event(
            self._now_us(), "kernel", Severity.WARNING, message, "kmsg:overrun", None, "", "kmsg"
        )


def finding(device: Path = DEVICE) -> Finding:
    """Say whether the kernel log can be read here, and what to do if not."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return Finding(
            "kernel log",
            "denied",
            f"{device} may not be read: run the agent as root, give it CAP_SYSLOG, or set kernel.dmesg_restrict=0.",
        )
    except OSError as error:
        return Finding("kernel log", "missing", f"{device} cannot be opened: {error.strerror}.")
    return Finding("kernel log", "ok", "XIDs and link errors are read from it.")
