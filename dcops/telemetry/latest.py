"""The newest row of every subject of a table, as columns. What the live pages read, 8,000 GPUs at a time."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dcops.domain.metrics import SampleTable
from dcops.telemetry.rows import I4, I8, Structured, table_dtype

PackedRows = tuple[bytes, bytes, bytes]


class Latest:
    """One table's newest rows. Slots are stable: a subject keeps its position for the life of the object."""

    def __init__(self, table: SampleTable) -> None:
        self.table = table
        self._dtype = table_dtype(table)
        self._bit = {name: np.uint64(position) for position, name in enumerate(table.names)}
        self._count = 0
        self._slots = np.full(64, -1, I4)
        self._ids = np.empty(64, I4)
        self._at = np.empty(64, I8)
        self._rows: Structured = np.zeros(64, self._dtype)

    def __len__(self) -> int:
        return self._count

    @property
    def subject_ids(self) -> npt.NDArray[I4]:
        """int32[n], by slot."""
        return self._ids[: self._count]

    @property
    def at_us(self) -> npt.NDArray[I8]:
        """int64[n]: time of each row, µs since 1970."""
        return self._at[: self._count]

    def values(self, metric: str) -> npt.NDArray[np.float64]:
        """float64[n]; NaN where the newest row has no reading. Raises KeyError for a metric of another table."""
        rows = self._rows[: self._count]
        there = (rows["present"] >> self._bit[metric]) & np.uint64(1)
        return np.where(there == 1, rows[metric].astype(np.float64), np.nan)

    def row(self, subject_id: int) -> dict[str, float | int | None] | None:
        """The newest readings of one subject, None where absent; None if nothing is known of it. `at_us` is the time."""
        slot = self.slot(subject_id)
        if slot is None:
            return None
        row = self._rows[slot]
        present = int(row["present"])
        readings: dict[str, float | int | None] = {
            name: row[name].item() if present >> position & 1 else None
            for position, name in enumerate(self.table.names)
        }
        readings["at_us"] = int(self._at[slot])
        return readings

    def slot(self, subject_id: int) -> int | None:
        """The position of a subject in the arrays, or None."""
        if not 0 <= subject_id < len(self._slots) or self._slots[subject_id] < 0:
            return None
        return int(self._slots[subject_id])

    def update(
        self, ids: npt.NDArray[I4], at_us: npt.NDArray[I8], rows: Structured
    ) -> npt.NDArray[I4]:
        """Take rows in any order, keep each subject's newest, and return the slots that changed."""
        if not len(ids):
            return np.empty(0, I4)
        slots = self._slots_of(ids)
        newer = at_us >= self._at[slots]
        order = np.argsort(at_us[newer], kind="stable")
        slots, at_us, rows = slots[newer][order], at_us[newer][order], rows[newer][order]
        # Of equal slots numpy keeps the last assignment, which is the newest.
        self._at[slots] = at_us
        self._rows[slots] = rows
        return np.unique(slots)

    def packed(self, slots: npt.NDArray[I4]) -> PackedRows:
        """These rows as bytes, for live.SamplesStored."""
        return self._ids[slots].tobytes(), self._at[slots].tobytes(), self._rows[slots].tobytes()

    def apply(self, packed: PackedRows) -> npt.NDArray[I4]:
        """Take what `packed` made in another process; return the slots that changed. Raises ValueError if it is not that."""
        ids, at_us = np.frombuffer(packed[0], I4), np.frombuffer(packed[1], I8)
        rows = np.frombuffer(packed[2], self._dtype)
        if not len(ids) == len(at_us) == len(rows):
            raise ValueError("rows, times and subjects differ in number")
        return self.update(ids, at_us, rows)

    def _slots_of(self, ids: npt.NDArray[I4]) -> npt.NDArray[Any]:
        highest = int(ids.max())
        if highest >= len(self._slots):
            grown = np.full(max(highest + 1, 2 * len(self._slots)), -1, I4)
            grown[: len(self._slots)] = self._slots
            self._slots = grown
        new = np.unique(ids[self._slots[ids] < 0])
        if len(new):
            self._add(new.astype(I4))
        return self._slots[ids]

    def _add(self, new: npt.NDArray[I4]) -> None:
        count = self._count + len(new)
        while count > len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
            self._at = np.concatenate([self._at, np.empty_like(self._at)])
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._ids[self._count : count] = new
        self._at[self._count : count] = np.iinfo(I8).min
        self._slots[new] = np.arange(self._count, count, dtype=I4)
        self._count = count
