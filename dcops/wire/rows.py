"""Samples as packed little-endian rows, so that a server can take thousands at once without touching each.

A metrics record is a list of sections, one per table sampled in that tick:

    section  u8 table code · u16 rows · i64 time (µs since 1970) · u32 GPU list · then the rows
    row      u8 subject · u64 presence bits · one field per metric of the table, in order

`subject` is the position in the GPU list, or 0 for the node. Bit i of the presence bits says that metric i was read; an
absent field is zero and means nothing.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dcops.domain.metrics import TABLES, ColumnType, SampleTable

SECTION = struct.Struct("<BHqI")
COLUMN_CODE: dict[ColumnType, str] = {"int2": "h", "int4": "i", "int8": "q", "float4": "f"}
_INTEGER = frozenset({"int2", "int4", "int8"})

Reading = int | float | None


class Section(NamedTuple):
    """One table's rows in a record; `rows` is a view into the record."""

    table_code: int
    row_count: int
    at_us: int
    gpu_list: int
    rows: memoryview


def row_struct(columns: Sequence[ColumnType]) -> struct.Struct:
    """The packed form of one row with these columns."""
    return struct.Struct("<BQ" + "".join(COLUMN_CODE[column] for column in columns))


ROW: dict[str, struct.Struct] = {
    table.name: row_struct([m.column for m in table.metrics]) for table in TABLES
}
_IS_INTEGER = {table.name: tuple(m.column in _INTEGER for m in table.metrics) for table in TABLES}


def layout(table: SampleTable) -> list[tuple[str, str]]:
    """What a node declares about its rows of this table in Proof.layouts."""
    return [(m.name, m.column) for m in table.metrics]


def pack_row(table: SampleTable, subject: int, readings: Sequence[Reading]) -> bytes:
    """Pack one row. `readings` follow table.metrics; None is absent. Raises struct.error if one does not fit its column."""
    present = 0
    fields: list[int | float] = []
    for position, (reading, integer) in enumerate(
        zip(readings, _IS_INTEGER[table.name], strict=True)
    ):
        if reading is None:
            fields.append(0)
        else:
            present |= 1 << position
            fields.append(int(reading) if integer else reading)
    return ROW[table.name].pack(subject, present, *fields)


def pack_section(table: SampleTable, at_us: int, gpu_list: int, rows: Sequence[bytes]) -> bytes:
    """Join packed rows under one header."""
    return SECTION.pack(table.code, len(rows), at_us, gpu_list) + b"".join(rows)


def split_sections(payload: bytes, row_bytes: dict[int, int]) -> Iterator[Section]:
    """Yield the sections of a metrics record; `row_bytes` maps table code -> bytes a row.

    Raises ValueError for an unknown table or a length that does not add up.
    """
    view = memoryview(payload)
    offset = 0
    while offset < len(view):
        if len(view) - offset < SECTION.size:
            raise ValueError("the record ends inside a section header")
        code, count, at_us, gpu_list = SECTION.unpack_from(view, offset)
        offset += SECTION.size
        size = row_bytes.get(code)
        if size is None:
            raise ValueError(f"unknown table code {code}")
        end = offset + count * size
        if end > len(view):
            raise ValueError(f"the record ends inside the rows of table {code}")
        yield Section(code, count, at_us, gpu_list, view[offset:end])
        offset = end
