"""Rows read back in bulk: a binary COPY TO whose every row has the same form, so that numpy reads it whole. Pure.

PostgreSQL writes NULL as no bytes; a value that no metric may have stands for it, so rows stay of one length.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dcops.domain.metrics import Metric
from dcops.telemetry.chunk import Column
from dcops.telemetry.rows import I4, I8, POSTGRES_EPOCH_US

_HEADER_BYTES, _TRAILER_BYTES = 19, 2
_BIG = {"int2": ">i2", "int4": ">i4", "int8": ">i8", "float4": ">f4", "float8": ">f8"}
_NULL = {
    "int2": "(-32768)::int2",
    "int4": "(-2147483648)::int4",
    "int8": "(-9223372036854775808)::int8",
    "float4": "'NaN'::float4",
    "float8": "'NaN'::float8",
}
_NULL_INT = {"int2": -(2**15), "int4": -(2**31), "int8": -(2**63)}

Kind = tuple[str, str]  # (column, its type)


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows of one table as columns."""

    subject_ids: npt.NDArray[I4]
    at_us: npt.NDArray[I8]
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.at_us)


def kinds(metrics: Iterable[Metric]) -> tuple[Kind, ...]:
    """(column, type) of these metrics in a sample table."""
    return tuple((metric.name, metric.column) for metric in metrics)


def null_of(kind: str) -> str:
    """The SQL of the value that stands for NULL."""
    return _NULL[kind]


def select_list(columns: Sequence[Kind], time: str = "at") -> str:
    """The SELECT list that `parse` reads."""
    return ", ".join(
        ["subject_id", time, *(f"coalesce({name}, {_NULL[kind]})" for name, kind in columns)]
    )


def parse(blocks: Iterable[bytes | bytearray | memoryview], columns: Sequence[Kind]) -> Stored:
    """Read the blocks of a COPY (SELECT select_list ...) TO STDOUT (FORMAT BINARY)."""
    data = b"".join(blocks)
    dtype = _row_dtype(tuple(columns))
    count = (len(data) - _HEADER_BYTES - _TRAILER_BYTES) // dtype.itemsize
    rows = np.frombuffer(data, dtype, count, _HEADER_BYTES)
    return Stored(
        rows["@s"].astype(I4),
        rows["@t"].astype(I8) + POSTGRES_EPOCH_US,
        {name: _column(rows[name], kind) for name, kind in columns},
    )


def _column(values: npt.NDArray[Any], kind: str) -> Column:
    if kind == "float8":
        wide = values.astype(np.float64)
        return Column(wide, ~np.isnan(wide))
    if kind == "float4":
        floats = values.astype(np.float32)
        return Column(floats, ~np.isnan(floats))
    whole = values.astype(np.int64)
    return Column(whole, whole != _NULL_INT[kind])


@lru_cache(maxsize=256)
def _row_dtype(columns: tuple[Kind, ...]) -> np.dtype[np.void]:
    fields: list[tuple[str, str]] = [
        ("#", ">i2"),
        ("#s", ">i4"),
        ("@s", ">i4"),
        ("#t", ">i4"),
        ("@t", ">i8"),
    ]
    for name, kind in columns:
        fields += [(f"#{name}", ">i4"), (name, _BIG[kind])]
    return np.dtype(fields)
