"""How one record lies in a segment file, and how to find the undamaged ones in a damaged file.

    record   4 s magic · u64 seq · i64 written at (µs since 1970) · u32 length · u32 CRC-32 of the payload
             · u32 CRC-32 of the header before it, seeded with the spool's id · payload

The seed keeps records of another spool (a copied file, a reused disk block) from being taken for this one's.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = b"\xd5\x0crc"
_HEADER = struct.Struct("<4sQqIII")
_CHECKED = _HEADER.size - 4
HEADER_BYTES = _HEADER.size


class Stored(NamedTuple):
    """Where a record's payload lies in its segment."""

    seq: int
    at_us: int
    offset: int
    length: int
    crc32: int


def seed_of(spool_id: str) -> int:
    """What the header checksums of this spool start from."""
    return zlib.crc32(spool_id.encode())


def pack(seed: int, seq: int, at_us: int, payload: bytes) -> bytes:
    """One record as it is written."""
    checksum = zlib.crc32(payload)
    header = _HEADER.pack(MAGIC, seq, at_us, len(payload), checksum, 0)[:_CHECKED]
    return header + zlib.crc32(header, seed).to_bytes(4, "little") + payload


def scan(data: bytes, seed: int) -> Iterator[Stored]:
    """Yield every undamaged record, skipping over anything else: torn ends, flipped bits, zeros."""
    view = memoryview(data)
    position = data.find(MAGIC)
    while 0 <= position <= len(data) - HEADER_BYTES:
        record = _record_at(view, position, seed)
        if record is None:
            position = data.find(MAGIC, position + 1)
            continue
        yield record
        position = record.offset + record.length
        if not data.startswith(MAGIC, position):
            position = data.find(MAGIC, position)


def _record_at(view: memoryview, position: int, seed: int) -> Stored | None:
    _, seq, at_us, length, checksum, header_checksum = _HEADER.unpack_from(view, position)
    if zlib.crc32(view[position : position + _CHECKED], seed) != header_checksum:
        return None
    offset = position + HEADER_BYTES
    if offset + length > len(view) or zlib.crc32(view[offset : offset + length]) != checksum:
        return None
    return Stored(seq, at_us, offset, length, checksum)
