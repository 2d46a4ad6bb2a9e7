"""Rows in bulk, as numpy arrays: check them against the registry and lay them out for a binary COPY. Pure.

A table's rows are one structured array in the table's own wire layout (dcops.wire.rows). All rows of a group with the same
presence bits share one fixed COPY layout, so thousands are written with one strided assignment per column.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dcops.domain.metrics import TABLE_BY_NAME, Metric, SampleTable

Structured = npt.NDArray[np.void]
I4 = np.int32
I8 = np.int64
U8 = np.uint64

POSTGRES_EPOCH_US = 946_684_800_000_000
_COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_TRAILER = b"\xff\xff"
_LITTLE = {"int2": "<i2", "int4": "<i4", "int8": "<i8", "float4": "<f4"}
_BIG = {"int2": ">i2", "int4": ">i4", "int8": ">i8", "float4": ">f4"}
_WIDTH = {"int2": 2, "int4": 4, "int8": 8, "float4": 4}
MAX_COLUMNS = 64


@lru_cache(maxsize=4096)
def row_dtype(columns: tuple[tuple[str, str], ...]) -> np.dtype[np.void]:
    """The packed form of rows with these (name, column type) pairs, see dcops.wire.rows."""
    return np.dtype(
        [("subject", "u1"), ("present", "<u8"), *((name, _LITTLE[kind]) for name, kind in columns)]
    )


def table_dtype(table: SampleTable) -> np.dtype[np.void]:
    """The packed form of a table's rows as this server lays them out."""
    return row_dtype(tuple((m.name, m.column) for m in table.metrics))


@dataclass(frozen=True, slots=True)
class Layout:
    """How one node packs the rows of one table: the server's own way unless its version differs."""

    table: SampleTable
    dtype: np.dtype[np.void]
    own: bool
    unknown: tuple[str, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes a row."""
        return self.dtype.itemsize


def read_layout(table_name: str, columns: list[tuple[str, str]]) -> Layout | None:
    """Understand what a node declared, or None for a table this server does not know. Raises ValueError for nonsense."""
    if len(columns) > MAX_COLUMNS or len({name for name, _ in columns}) != len(columns):
        raise ValueError(f"The layout of {table_name[:64]!r} has too many or repeated columns.")
    for name, kind in columns:
        if (
            kind not in _LITTLE
            or not name.isidentifier()
            or len(name) > 63
            or name in ("subject", "present")
        ):
            raise ValueError(
                f"The layout of {table_name[:64]!r} has a column this server cannot read."
            )
    table = TABLE_BY_NAME.get(table_name)
    if table is None:
        return None
    declared = tuple((str(name), str(kind)) for name, kind in columns)
    own = declared == tuple((m.name, m.column) for m in table.metrics)
    return Layout(
        table,
        row_dtype(declared),
        own,
        tuple(name for name, _ in declared if name not in table.names),
    )


def adapt(rows: Structured, layout: Layout) -> tuple[Structured, int]:
    """Bring rows of another version into the table's own layout; return them and how many readings this dropped.

    Columns this server does not know are dropped, columns the node does not have are absent.
    """
    names = layout.dtype.names or ()
    out = np.zeros(len(rows), table_dtype(layout.table))
    out["subject"] = rows["subject"]
    dropped = 0
    theirs = rows["present"]
    for position, metric in enumerate(layout.table.metrics):
        if metric.name not in names:
            continue
        bit = U8(names.index(metric.name) - 2)
        has = (theirs >> bit) & U8(1)
        values = rows[metric.name]
        fits = _within(values, metric)
        dropped += int(np.count_nonzero((has == 1) & ~fits))
        out[metric.name] = np.where(fits, values, 0)
        out["present"] |= (has & fits.astype(U8)) << U8(position)
    return out, dropped


def _within(values: npt.NDArray[Any], metric: Metric) -> npt.NDArray[np.bool_]:
    # NaN is within no bounds.
    within: npt.NDArray[np.bool_] = (values >= metric.minimum) & (values <= metric.maximum)
    return within


@dataclass(slots=True)
class Rows:
    """Checked rows of one table, ready to be written: one element a row in each array."""

    table: SampleTable
    subject_ids: npt.NDArray[I4]
    at_us: npt.NDArray[I8]
    present: npt.NDArray[U8]
    data: Structured
    batch: npt.NDArray[I4]  # which batch of the group a row came with

    def __len__(self) -> int:
        return len(self.subject_ids)

    def take(self, mask: npt.NDArray[np.bool_]) -> "Rows":
        """The rows where mask is true."""
        return Rows(
            self.table,
            self.subject_ids[mask],
            self.at_us[mask],
            self.present[mask],
            self.data[mask],
            self.batch[mask],
        )


def check_values(
    table: SampleTable, data: Structured, batch: npt.NDArray[I4]
) -> tuple[npt.NDArray[U8], npt.NDArray[I4]]:
    """Return the presence bits without the readings no sane device gives, and the batch of each reading so rejected."""
    present = data["present"] & U8((1 << len(table.metrics)) - 1)
    rejected: list[npt.NDArray[I4]] = []
    for position, metric in enumerate(table.metrics):
        column = data[metric.name]
        # One pass each way decides for the whole column; NaN fails both.
        if column.min() >= metric.minimum and column.max() <= metric.maximum:
            continue
        bad = ~_within(column, metric) & ((present >> U8(position)) & U8(1)).astype(bool)
        if bad.any():
            present[bad] &= ~(U8(1) << U8(position))
            rejected.append(batch[bad])
    return present, np.concatenate(rejected) if rejected else np.empty(0, I4)


@lru_cache(maxsize=512)
def _copy_layout(
    table_name: str, mask: int
) -> tuple[np.dtype[np.void], npt.NDArray[np.uint8], tuple[str, ...]]:
    """The COPY form of rows with this presence mask, a row with all lengths filled in, and the metrics it holds."""
    table = TABLE_BY_NAME[table_name]
    fields: list[tuple[str, str]] = [
        ("fields", ">i2"),
        ("#s", ">i4"),
        ("@s", ">i4"),
        ("#t", ">i4"),
        ("@t", ">i8"),
    ]
    lengths: dict[str, int] = {"fields": 2 + len(table.metrics), "#s": 4, "#t": 8}
    held: list[str] = []
    for position, metric in enumerate(table.metrics):
        there = bool(mask >> position & 1)
        fields.append((f"#{metric.name}", ">i4"))
        lengths[f"#{metric.name}"] = _WIDTH[metric.column] if there else -1
        if there:
            fields.append((metric.name, _BIG[metric.column]))
            held.append(metric.name)
    dtype = np.dtype(fields)
    template = np.zeros(1, dtype)
    for name, length in lengths.items():
        template[name] = length
    return dtype, template.view(np.uint8), tuple(held)


def copy_columns(table: SampleTable) -> str:
    """The column list of a COPY that takes what `copy_blocks` yields."""
    return ", ".join(("subject_id", "at", *table.names))


def copy_blocks(rows: Rows) -> list[bytes]:
    """Rows as the blocks of one COPY ... (FORMAT BINARY)."""
    blocks = [_COPY_HEADER]
    at = rows.at_us - POSTGRES_EPOCH_US
    for mask in np.unique(rows.present).tolist():
        same = rows.present == U8(mask)
        every = bool(same.all())
        blocks.append(
            _copy_block(
                rows.table.name,
                mask,
                rows.subject_ids if every else rows.subject_ids[same],
                at if every else at[same],
                rows.data if every else rows.data[same],
            )
        )
    blocks.append(_COPY_TRAILER)
    return blocks


def _copy_block(
    table_name: str, mask: int, subject_ids: npt.NDArray[I4], at: npt.NDArray[I8], data: Structured
) -> bytes:
    dtype, template, held = _copy_layout(table_name, mask)
    out = np.empty(len(data), dtype)
    out.view(np.uint8).reshape(len(data), dtype.itemsize)[:] = template
    out["@s"] = subject_ids
    out["@t"] = at
    for name in held:
        out[name] = data[name]
    return out.tobytes()
