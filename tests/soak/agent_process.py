"""A real agent whose GPUs are scripted, and which writes down everything it appends to its spool, for the oracle.

    python -m tests.soak.agent_process run STATE_DIR JOURNAL NAME    the agent: agents.run as it is, with a scripted collector
    python -m tests.soak.agent_process drain STATE_DIR JOURNAL NAME  the same until everything is acknowledged
    python -m tests.soak.agent_process gpus NAME                     the collector's child

The journal has two lines an append: what is going to be written, and that it was. The page cache keeps them when the agent is
killed; so an append that began and is not known to have ended may have been kept or not.
"""

import asyncio
import errno
import os
import signal
import struct
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from agents.adapters.disk import RealDisk, RealFile
from agents.adapters.lane import Lane
from agents.adapters.spool import Spool
from agents.collector import run_child
from agents.config import Config
from agents.run import run_agent
from dcops.wire.frames import GpuList
from dcops.wire.frames import Spool as SpoolKind
from tests.soak.oracle import GpuLists, Produced

GPUS = 4
HEAD = struct.Struct(
    "<BB32sQII"
)  # what, 0 metrics or 1 events, spool id, seq, bytes of payload, CRC-32 of payload
BEGAN, KEPT, LOST = 1, 2, 3


def main() -> None:
    """Run what the command line names."""
    if sys.argv[1] == "gpus":
        run_child(lambda: scripted(sys.argv[2]))
    else:
        run(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], drain=sys.argv[1] == "drain")


def scripted(name: str):
    """GPUs of this name's own whose readings move all the time."""
    from agents.adapters.nvml import Nvml
    from tests.fakes.nvml import ScriptedNvml

    api = ScriptedNvml(gpus=GPUS)
    for gpu in api.gpus:
        gpu.uuid = f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{name}/{gpu.index}')}"
        gpu.answers["nvmlDeviceGetTotalEnergyConsumption"] = lambda index=gpu.index: (
            time.monotonic_ns() // 1000 + index
        )
        gpu.answers["nvmlDeviceGetPowerUsage"] = lambda index=gpu.index: (
            400_000 + time.monotonic_ns() // 1_000_000 % 200_000 + index
        )
    return Nvml(api)


def run(state_dir: Path, journal: Path, name: str, *, drain: bool = False) -> None:
    """Run the agent with every append written down; to drain is to take one last sample and leave when all is acknowledged."""
    journal.mkdir(exist_ok=True)
    # A file for each start: the last entry of a killed agent may be cut off.
    write_down_appends(
        os.open(journal / f"{time.time_ns()}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    )
    if "SOAK_SPOOL_KIB" in os.environ:
        shrink_spool(int(os.environ["SOAK_SPOOL_KIB"]))
    config = Config(state_dir=state_dir, kernel_log=False, log_level="warning")
    interval_s = 3600.0 if drain else float(os.environ.get("SOAK_AGENT_INTERVAL_S", "0.5"))
    config = replace(
        config,
        gpu_sample_s=interval_s,
        node_sample_s=interval_s,
        gpu_health_s=max(interval_s, 5.0),
    )
    if drain:
        threading.Thread(target=leave_when_empty, daemon=True).start()
    collector = (sys.executable, "-m", "tests.soak.agent_process", "gpus", name)
    asyncio.run(run_agent(config, collector))


LANES: list[Lane] = []


def leave_when_empty() -> None:
    """End this agent once it has taken its sample and its spool has been empty for a second."""
    empty_since = time.monotonic()
    while time.monotonic() - empty_since < 1.0 or not LANES:
        if any(lane.waiting for lane in LANES):
            empty_since = time.monotonic()
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


class CrowdedDisk(RealDisk):
    """A disk that is full while the file named by SOAK_DISK_FULL exists: only space that a file already has can be written."""

    def __init__(self) -> None:
        self._sign = Path(os.environ.get("SOAK_DISK_FULL", "/nonexistent"))

    def open(self, path: Path) -> "CrowdedFile":
        """Open for writing; a new name finds room in its directory."""
        return CrowdedFile(path, self._sign)


class CrowdedFile(RealFile):
    """A file on it."""

    def __init__(self, path: Path, sign: Path) -> None:
        super().__init__(path)
        self._sign = sign

    def write_at(self, offset: int, data: bytes) -> None:
        """Write, if there is room."""
        self._claim(offset + len(data))
        super().write_at(offset, data)

    def allocate(self, size: int) -> None:
        """Allocate, if there is room."""
        self._claim(size)
        super().allocate(size)

    def _claim(self, end: int) -> None:
        if self._sign.exists() and end > os.fstat(self._descriptor).st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def shrink_spool(limit_kib: int) -> None:
    """Give every spool this limit and the crowded disk."""
    make = Spool.__init__

    def smaller(spool: Spool, directory: Path, **given: Any) -> None:
        given |= {
            "metrics_limit_bytes": limit_kib << 10,
            "metrics_segment_bytes": max(limit_kib // 16, 4) << 10,
        }
        make(spool, directory, **(given | {"disk": CrowdedDisk()}))

    Spool.__init__ = smaller  # type: ignore[method-assign]


def write_down_appends(descriptor: int) -> None:
    """Wrap Lane.append: note the record before it is written, and after it is durable."""
    append = Lane.append

    def noted(lane: Lane, payload: bytes) -> int | None:
        if lane not in LANES:
            LANES.append(lane)
        spool_id, seq = lane.spool_id.encode(), lane.next_seq
        kind = 0 if lane._directory.name == "metrics" else 1
        head = (kind, spool_id, seq, len(payload), zlib.crc32(payload))
        os.write(descriptor, HEAD.pack(BEGAN, *head) + payload)
        given = append(lane, payload)
        os.write(descriptor, HEAD.pack(LOST if given is None else KEPT, *head))
        return given

    Lane.append = noted  # type: ignore[method-assign]


def read_agent(state_dir: Path, journal: Path) -> tuple[list[Produced], GpuLists]:
    """What this agent says it produced, and the GPU lists its rows refer to."""
    node = msgspec.json.decode((state_dir / "identity.json").read_bytes())["node_id"]
    found: dict[tuple[int, bytes, int, int], Produced] = {}
    entries = (
        entry for path in sorted(journal.iterdir()) for entry in _entries(path.read_bytes())
    )
    for what, kind, spool_id, seq, crc, payload in entries:
        key = (kind, spool_id, seq, crc)
        if what == BEGAN:
            spool = SpoolKind.METRICS if kind == 0 else SpoolKind.EVENTS
            found[key] = Produced(node, spool_id.decode(), spool, seq, payload, certain=False)
        else:
            # A loss is as certain as a record: it must be told of.
            found[key] = found[key]._replace(certain=True)
    lists = {}
    for path in (state_dir / "gpu_lists").glob("*.json"):
        known = msgspec.json.decode(path.read_bytes(), type=GpuList)
        lists[node, known.list_id] = known.uuids
    return list(found.values()), lists


def _entries(data: bytes) -> Iterator[tuple[int, int, bytes, int, int, bytes]]:
    """(what, kind, spool id, seq, CRC, payload) of each whole entry."""
    offset = 0
    while offset + HEAD.size <= len(data):
        what, kind, spool_id, seq, size, crc = HEAD.unpack_from(data, offset)
        offset += HEAD.size
        payload = b""
        if what == BEGAN:
            payload = data[offset : offset + size]
            offset += size
            if offset > len(data):
                return
        yield what, kind, spool_id, seq, crc, payload


if __name__ == "__main__":
    main()
