"""The durable numbers by which spooled rows name their GPUs: one small file a list, never changed once written."""

import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agents.adapters.keys import write_private
from dcops.wire.frames import GpuList


class GpuListStore:
    """All lists that this node ever used. There are as many as there were changes of its GPUs."""

    def __init__(self, directory: Path) -> None:
        """Read what is there; a damaged file is left out. Raises OSError if the directory cannot be used."""
        self._directory = directory
        self._by_uuids: dict[tuple[str, ...], GpuList] = {}
        self._on_disk: set[int] = set()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime):
            with suppress(OSError, msgspec.MsgspecError, ValueError):
                found = msgspec.json.decode(path.read_bytes(), type=GpuList)
                if number_of(found.uuids) == found.list_id:
                    self._by_uuids[tuple(found.uuids)] = found
                    self._on_disk.add(found.list_id)

    def number(self, uuids: Sequence[str]) -> int:
        """The number of this list of GPUs, in this order. A new list is made durable, if the disk takes it."""
        key = tuple(uuids)
        known = self._by_uuids.get(key)
        if known is None:
            known = self._by_uuids[key] = GpuList(number_of(key), list(key))
        if known.list_id not in self._on_disk:
            with suppress(OSError):  # on a full disk: tried again at the next use
                path = self._directory / f"{known.list_id:08x}.json"
                write_private(path, msgspec.json.encode(known))
                self._on_disk.add(known.list_id)
        return known.list_id

    def all(self) -> list[GpuList]:
        """Every list, the oldest first."""
        return list(self._by_uuids.values())


def number_of(uuids: Sequence[str]) -> int:
    """A list's number is made of its content, so that a lost file cannot give an old number to other GPUs."""
    return zlib.crc32("\n".join(uuids).encode())
