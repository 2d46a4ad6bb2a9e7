"""The few file operations that the spool does, behind an interface that a test can crash after each of."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol


class File(Protocol):
    """An open file. Every method may raise OSError."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`. After an error, any part of it may be there."""

    def allocate(self, size: int) -> None:
        """Give the file `size` bytes of its own, zero where unwritten, so that writes inside need no new space."""

    def sync(self) -> None:
        """Return when contents and length would survive a power cut."""

    def close(self) -> None:
        """Let go of the file."""


class Disk(Protocol):
    """Files by path. Every method may raise OSError."""

    def make_directory(self, path: Path) -> None:
        """Make a directory, mode 0700, and its parents; fine if it is there."""

    def names(self, path: Path) -> list[str]:
        """The names in a directory, in any order."""

    def read(self, path: Path) -> bytes:
        """All bytes of a file."""

    def size(self, path: Path) -> int:
        """Length of a file in bytes."""

    def open(self, path: Path) -> File:
        """Open for writing, mode 0600; create it if absent."""

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` by `source`, atomically."""

    def remove(self, path: Path) -> None:
        """Delete a file."""

    def sync_directory(self, path: Path) -> None:
        """Return when creations, renames and removals in the directory would survive a power cut."""


class RealFile:
    """A file by its descriptor."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            offset += written
            view = view[written:]

    def allocate(self, size: int) -> None:
        """Reserve `size` bytes of disk for the file."""
        os.posix_fallocate(self._descriptor, 0, size)

    def sync(self) -> None:
        """fdatasync, which also covers the length."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the descriptor."""
        with suppress(OSError):
            os.close(self._descriptor)


class RealDisk:
    """The file system."""

    def make_directory(self, path: Path) -> None:
        """Make the directory and its parents."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self, path: Path) -> list[str]:
        """The names in a directory."""
        return os.listdir(path)

    def read(self, path: Path) -> bytes:
        """All bytes of a file."""
        return path.read_bytes()

    def size(self, path: Path) -> int:
        """Length of a file in bytes."""
        return path.stat().st_size

    def open(self, path: Path) -> RealFile:
        """Open for writing."""
        return RealFile(path)

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` by `source`."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Delete a file."""
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        """fsync the directory."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
