"""The spool's small fixed files, rewritten in place so that a full disk cannot stop them.

Each holds its value twice. A torn write leaves the other copy; a flipped bit leaves the other copy.
"""

import struct
import zlib
from contextlib import suppress
from pathlib import Path

import msgspec

from agents.adapters.disk import Disk, File
from dcops.wire.frames import Gap

_FRAME = struct.Struct("<4sQII")
_STATE_MAGIC = b"dcS1"
_STATE_BYTES = 64 << 10
_TAIL = struct.Struct("<4s32sQI")
_TAIL_MAGIC = b"dcT1"
_TAIL_STRIDE = 512


class Sequence(msgspec.Struct, array_like=True):
    """One run of numbers: a spool id, the next number, and which numbers are settled (acknowledged, or recorded as lost)."""

    spool_id: str
    next_seq: int
    settled: list[tuple[int, int]]


class Notice(msgspec.Struct, array_like=True):
    """Losses that the events spool shall carry in its record `seq`: written before that record, kept until it is acknowledged."""

    spool_id: str
    seq: int
    gaps: list[Gap]


class State(msgspec.Struct, array_like=True):
    """What must not be forgotten when a segment is deleted. The last sequence of a lane is the one being written."""

    metrics: list[Sequence] = []
    events: list[Sequence] = []
    notices: list[Notice] = []


class StateFile:
    """The state, in two files with the same content."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._paths = (directory / "state.a", directory / "state.b")
        self._files: dict[Path, File] = {}
        self._version = 0

    def load(self) -> State | None:
        """The newest undamaged copy, or None if there is none."""
        found: list[tuple[int, State]] = []
        for path in self._paths:
            with suppress(OSError, ValueError, struct.error, msgspec.MsgspecError):
                found.append(_parse_state(self._disk.read(path)))
        if not found:
            return None
        self._version, state = max(found, key=lambda item: item[0])
        return state

    def save(self, state: State) -> None:
        """Write both copies, the first durable before the second is touched. Raises OSError if the first was not written."""
        body = msgspec.msgpack.encode(state)
        self._version += 1
        framed = _FRAME.pack(_STATE_MAGIC, self._version, len(body), zlib.crc32(body)) + body
        first, second = self._paths
        self._write(first, framed)
        with suppress(OSError):
            self._write(second, framed)

    def _write(self, path: Path, framed: bytes) -> None:
        file = self._files.get(path) or self._opened(path)
        file.write_at(0, framed)
        file.sync()

    def _opened(self, path: Path) -> File:
        file = self._disk.open(path)
        try:
            self._allocate(file, path)
            self._disk.sync_directory(self._directory)
        except OSError:
            file.close()
            raise
        self._files[path] = file
        return file

    def _allocate(self, file: File, path: Path) -> None:
        """Own the space. Where the disk is full, a file system may refuse a file even what it already has."""
        try:
            file.allocate(_STATE_BYTES)
        except OSError:
            if self._disk.size(path) < _STATE_BYTES:
                raise

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()


def _parse_state(data: bytes) -> tuple[int, State]:
    magic, version, length, checksum = _FRAME.unpack_from(data)
    body = data[_FRAME.size : _FRAME.size + length]
    if magic != _STATE_MAGIC or len(body) != length or zlib.crc32(body) != checksum:
        raise ValueError("not an undamaged state file")
    return version, msgspec.msgpack.decode(body, type=State)


class Tail:
    """The next number of a lane, durable at each append: numbers are never reused, and a cut-off end is counted exactly."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._file: File | None = None

    def load(self, spool_id: str) -> tuple[int, bool]:
        """The highest next number noted for this spool id (0 if none), and whether it is beyond doubt."""
        try:
            data = self._disk.read(self._path)
        except OSError:
            return 0, False
        slots = [_parse_tail(data, offset) for offset in (0, _TAIL_STRIDE)]
        numbers = [slot[1] for slot in slots if slot and slot[0] == spool_id]
        return max(numbers, default=0), len(numbers) == len(slots)

    def begin(self, spool_id: str) -> None:
        """Start over at 0 for a new spool id."""
        self._write(0, spool_id, 0)
        self._write(_TAIL_STRIDE, spool_id, 0)
        self._disk.sync_directory(self._path.parent)

    def advance(self, spool_id: str, next_seq: int) -> None:
        """Make `next_seq` durable; the copy of the number before it stays."""
        self._write(_TAIL_STRIDE if next_seq & 1 else 0, spool_id, next_seq)

    def _write(self, offset: int, spool_id: str, next_seq: int) -> None:
        if self._file is None:
            self._file = self._disk.open(self._path)
        slot = _TAIL.pack(_TAIL_MAGIC, spool_id.encode(), next_seq, 0)[:-4]
        self._file.write_at(offset, slot + zlib.crc32(slot).to_bytes(4, "little"))
        self._file.sync()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _parse_tail(data: bytes, offset: int) -> tuple[str, int] | None:
    if len(data) < offset + _TAIL.size:
        return None
    magic, spool_id, next_seq, checksum = _TAIL.unpack_from(data, offset)
    slot = data[offset : offset + _TAIL.size - 4]
    if magic != _TAIL_MAGIC or zlib.crc32(slot) != checksum:
        return None
    return spool_id.decode("ascii", "replace"), next_seq
