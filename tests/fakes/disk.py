"""A disk in memory that knows what is durable, can be full, and can lose power after any operation."""

import errno
import random
from collections.abc import Callable
from pathlib import Path


class PowerCut(BaseException):
    """The machine stopped. Not an Exception, so that no code under test can catch it."""


class Inode:
    """A file's contents now, and the writes that a power cut may still undo."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = b""
        self.unsynced: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes) -> None:
        _apply(self.data, offset, data)
        self.unsynced.append((offset, data))

    def sync(self) -> None:
        self.durable = bytes(self.data)
        self.unsynced.clear()


def _apply(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


class FakeFile:
    """An open file of a FakeDisk."""

    def __init__(self, disk: "FakeDisk", inode: Inode) -> None:
        self._disk = disk
        self._inode = inode

    def write_at(self, offset: int, data: bytes) -> None:
        self._disk.operation("write", lambda: self._inode.write(offset, data[: len(data) // 2]))
        end = max(len(self._inode.data), offset + len(data))
        growth = end - len(self._inode.data)
        if growth > 0 and growth > self._disk.room():
            self._inode.write(offset, data[: len(self._inode.data) - offset + 7])
            raise OSError(errno.ENOSPC, "no space left")
        self._inode.write(offset, data)

    def allocate(self, size: int) -> None:
        self._disk.operation("allocate")
        if size > self._disk.room():  # the strictest file system: it counts what the file has, too
            raise OSError(errno.ENOSPC, "no space left")
        missing = size - len(self._inode.data)
        if missing > 0:
            self._inode.write(len(self._inode.data), bytes(missing))

    def sync(self) -> None:
        self._disk.operation("sync")
        self._inode.sync()

    def close(self) -> None:
        pass


class FakeDisk:
    """Files by path. `cut_at` stops the machine at that operation; `capacity` limits the bytes of all files."""

    def __init__(self, capacity: int = 1 << 40) -> None:
        self.files: dict[Path, Inode] = {}
        self.durable_names: dict[Path, Inode] = {}
        self.directories: set[Path] = set()
        self.capacity = capacity
        self.operations = 0
        self.cut_at: int | None = None
        self.log: list[str] = []
        self.fail: Callable[[str], OSError | None] | None = None

    def operation(self, name: str, torn: Callable[[], None] | None = None) -> None:
        """Count one system call; stop the machine if it is the one, half done if it can be."""
        self.operations += 1
        if self.cut_at is not None and self.operations >= self.cut_at:
            if torn is not None and self.operations % 2:
                torn()
            raise PowerCut
        if self.fail is not None and (error := self.fail(name)) is not None:
            raise error

    def room(self) -> int:
        return self.capacity - sum(len(inode.data) for inode in self.files.values())

    def make_directory(self, path: Path) -> None:
        self.directories.add(path)

    def names(self, path: Path) -> list[str]:
        return [file.name for file in self.files if file.parent == path]

    def _inode(self, path: Path) -> Inode:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self.files[path]

    def read(self, path: Path) -> bytes:
        return bytes(self._inode(path).data)

    def size(self, path: Path) -> int:
        return len(self._inode(path).data)

    def open(self, path: Path) -> FakeFile:
        self.operation("open")
        if path.parent not in self.directories:
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(path))
        return FakeFile(self, self.files.setdefault(path, Inode()))

    def rename(self, source: Path, target: Path) -> None:
        self.operation("rename")
        self.files[target] = self._inode(source)
        del self.files[source]

    def remove(self, path: Path) -> None:
        self.operation("remove")
        self._inode(path)
        del self.files[path]

    def sync_directory(self, path: Path) -> None:
        self.operation("sync_directory")
        kept = {p: inode for p, inode in self.durable_names.items() if p.parent != path}
        self.durable_names = kept | {p: i for p, i in self.files.items() if p.parent == path}

    def after_power_cut(self, mode: str, rng: random.Random) -> "FakeDisk":
        """What the next boot finds. mode: "killed" (only the process died), "lost" (all unsynced), "some" (any part of it)."""
        disk = FakeDisk(self.capacity)
        disk.directories = set(self.directories)
        for path, inode in self._names_after(mode, rng).items():
            disk.files[path] = copy = Inode()
            copy.data = _contents_after(inode, mode, rng)
            copy.sync()
        disk.durable_names = dict(disk.files)
        return disk

    def _names_after(self, mode: str, rng: random.Random) -> dict[Path, Inode]:
        if mode == "killed":
            return self.files
        if mode == "lost":
            return self.durable_names
        either = sorted({*self.files, *self.durable_names})
        chosen = {p: rng.choice((self.files, self.durable_names)).get(p) for p in either}
        return {path: inode for path, inode in chosen.items() if inode is not None}


def _contents_after(inode: Inode, mode: str, rng: random.Random) -> bytearray:
    if mode == "killed":
        return bytearray(inode.data)
    data = bytearray(inode.durable)
    if mode == "some":
        for offset, written in inode.unsynced:
            _apply(data, offset, written[: rng.randint(0, len(written))])
    return data
