"""An hour of one subject as a chunk: a small header, and a body in which every column has a slice of its own. Pure.

Lossless: decoding gives back each value bit by bit, and which were missing. A column's slice is whichever of a few encodings
is smallest:

    ABSENT    nothing was read
    CONSTANT  one value
    INTEGERS  differences of some order, zigzag, the bytes of equal rank together, zstd; a float is an integer here if it is
              one in steps of 1, 0.1, 0.01 or 0.001, as sensors report
    FLOATS    32-bit patterns, plain or xor the one before, the bytes of equal rank together, zstd

    header    for each column, time first: u8 encoding, u32 bytes of its slice; slices lie in the body in this order
    slice     if SOME_MISSING: u16 bytes of a compressed presence bitmap, the bitmap; then the encoding's own bytes
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

ABSENT, CONSTANT, INTEGERS, FLOATS = range(4)
SOME_MISSING = 0x80
SCALES = (1, 10, 100, 1000)
MAX_ROWS = 1 << 20

_ENTRY = struct.Struct("<BI")
_INTEGERS = struct.Struct(
    "<BBBq"
)  # order, bytes of a difference, scale index, then `order` first values
_U16 = struct.Struct("<H")
_LEVEL = 3
# Scaled values beyond this are not exact in float64 arithmetic of tenths.
_SCALED_LIMIT = float(1 << 40)

Bools = npt.NDArray[np.bool_]


class DamagedChunk(Exception):
    """The bytes are no chunk of this form."""


@dataclass(frozen=True, slots=True)
class Column:
    """Values of one column, one a row, and which of them were read; the others mean nothing."""

    values: npt.NDArray[Any]
    present: Bools


@dataclass(frozen=True, slots=True)
class Slice:
    """Where one column lies in the body."""

    encoding: int
    offset: int
    length: int


def encode(columns: Sequence[Column]) -> tuple[bytes, bytes]:
    """Return (header, body). Columns are int64 (integers of any width) or float32."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=False)
    header, body = [], []
    for column in columns:
        encoding, data = _encode_column(column, compressor)
        header.append(_ENTRY.pack(encoding, len(data)))
        body.append(data)
    return b"".join(header), b"".join(body)


def slices(header: bytes) -> list[Slice]:
    """Read a header. Raises DamagedChunk."""
    if len(header) % _ENTRY.size:
        raise DamagedChunk("the header ends inside an entry")
    found, offset = [], 0
    for encoding, length in _ENTRY.iter_unpack(header):
        found.append(Slice(encoding, offset, length))
        offset += length
    return found


def decode(encoding: int, data: bytes, count: int, *, floats: bool) -> Column:
    """Read one column's slice of a chunk with `count` rows. Raises DamagedChunk."""
    dtype = np.float32 if floats else np.int64
    if encoding == ABSENT:
        return Column(np.zeros(count, dtype), np.zeros(count, bool))
    try:
        present, data = _read_presence(encoding, data, count)
        values = _decode_values(
            encoding & ~SOME_MISSING, data, int(np.count_nonzero(present)), dtype
        )
    except (struct.error, ValueError, zstandard.ZstdError) as error:
        raise DamagedChunk(str(error)) from error
    if not encoding & SOME_MISSING:
        return Column(values, present)
    spread = np.zeros(count, dtype)
    spread[present] = values
    return Column(spread, present)


# -- encoding


def _encode_column(column: Column, compressor: zstandard.ZstdCompressor) -> tuple[int, bytes]:
    present = column.present
    if not present.any():
        return ABSENT, b""
    complete = bool(present.all())
    values = column.values if complete else column.values[present]
    encoding, data = _encode_values(values, compressor)
    if complete:
        return encoding, data
    bitmap = compressor.compress(np.packbits(present).tobytes())
    return encoding | SOME_MISSING, _U16.pack(len(bitmap)) + bitmap + data


def _encode_values(
    values: npt.NDArray[Any], compressor: zstandard.ZstdCompressor
) -> tuple[int, bytes]:
    raw = values.view(np.uint32 if values.dtype == np.float32 else np.uint64)
    if (raw == raw[0]).all():
        return CONSTANT, values[:1].tobytes()
    if values.dtype != np.float32:
        return INTEGERS, _encode_integers(values, 0, compressor)
    scaled = _as_scaled(values)
    if scaled is not None:
        return INTEGERS, _encode_integers(scaled[0], scaled[1], compressor)
    changed = raw.copy()
    changed[1:] = np.bitwise_xor(raw[1:], raw[:-1])
    plain, xored = (compressor.compress(_shuffle(bits)) for bits in (raw, changed))
    return FLOATS, b"\x00" + plain if len(plain) <= len(xored) else b"\x01" + xored


def _as_scaled(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], int] | None:
    """Return the values as whole numbers of some step and the step's index, if that is exact."""
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all() or np.abs(wide).max() * SCALES[-1] > _SCALED_LIMIT:
        return None
    for index, scale in enumerate(SCALES):
        # As integers already: -0.0 is none, and must be found not to come back.
        whole = np.rint(wide * scale).astype(np.int64)
        if (_unscaled(whole, index).view(np.uint32) == values.view(np.uint32)).all():
            return whole, index
    return None


def _unscaled(whole: npt.NDArray[Any], index: int) -> npt.NDArray[np.float32]:
    return (whole / SCALES[index]).astype(np.float32)


def _encode_integers(
    values: npt.NDArray[np.int64], scale: int, compressor: zstandard.ZstdCompressor
) -> bytes:
    best = b""
    rest = values
    firsts: list[int] = []
    for order in range(min(3, len(values))):
        offset = 0
        coded = rest
        if order == 0:
            offset = int(rest.min())
            coded = rest - np.int64(offset)
        unsigned = (coded.view(np.uint64) << np.uint64(1)) ^ (coded >> np.int64(63)).view(
            np.uint64
        )
        narrow = _narrow(unsigned if order else coded.view(np.uint64))
        data = compressor.compress(_shuffle(narrow))
        whole = (
            _INTEGERS.pack(order, narrow.dtype.itemsize, scale, offset)
            + np.array(firsts, np.int64).tobytes()
            + data
        )
        if not best or len(whole) < len(best):
            best = whole
        firsts.append(rest[0])
        rest = np.diff(rest)
    return best


def _narrow(values: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
    highest = int(values.max()) if len(values) else 0
    for dtype in (np.uint8, np.uint16, np.uint32):
        if highest <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values


def _shuffle(values: npt.NDArray[Any]) -> bytes:
    width = values.dtype.itemsize
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1, width).T.tobytes()


# -- decoding


def _read_presence(encoding: int, data: bytes, count: int) -> tuple[Bools, bytes]:
    if not encoding & SOME_MISSING:
        return np.ones(count, bool), data
    (size,) = _U16.unpack_from(data)
    bitmap = _inflate(data[2 : 2 + size], (count + 7) // 8)
    return np.unpackbits(np.frombuffer(bitmap, np.uint8), count=count).astype(bool), data[
        2 + size :
    ]


def _decode_values(encoding: int, data: bytes, count: int, dtype: Any) -> npt.NDArray[Any]:
    if encoding == CONSTANT:
        return np.full(count, np.frombuffer(data, dtype, 1)[0])
    if encoding == INTEGERS:
        order, width, scale, offset = _INTEGERS.unpack_from(data)
        whole = _decode_integers(data[_INTEGERS.size :], count, order, width, offset)
        return _unscaled(whole, scale) if dtype is np.float32 else whole
    if encoding == FLOATS:
        bits = _unshuffle(_inflate(data[1:], 4 * count), 4, count).view(np.uint32)
        if data[0]:
            bits = np.bitwise_xor.accumulate(bits)
        return bits.view(np.float32)
    raise ValueError(f"unknown encoding {encoding}")


def _decode_integers(
    data: bytes, count: int, order: int, width: int, offset: int
) -> npt.NDArray[np.int64]:
    if order > 2 or width not in (1, 2, 4, 8):
        raise ValueError("unknown integers")
    firsts = np.frombuffer(data, np.int64, order)
    coded = _unshuffle(_inflate(data[8 * order :], width * (count - order)), width, count - order)
    unsigned = coded.astype(np.uint64)
    if order == 0:
        return unsigned.view(np.int64) + np.int64(offset)
    values = (unsigned >> np.uint64(1)).view(np.int64) ^ -(
        (unsigned & np.uint64(1)).view(np.int64)
    )
    for first in firsts[::-1]:
        values = np.cumsum(np.concatenate([np.array([first], np.int64), values]))
    return values


def _inflate(data: bytes, size: int) -> bytes:
    if size == 0:
        return b""
    if size > 8 * MAX_ROWS:
        raise ValueError("too many rows")
    inflated = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    if len(inflated) != size:
        raise ValueError("a slice has another length than its header says")
    return inflated


def _unshuffle(data: bytes, width: int, count: int) -> npt.NDArray[Any]:
    ranked = np.frombuffer(data, np.uint8).reshape(width, count)
    return np.ascontiguousarray(ranked.T).view(f"<u{width}").reshape(count)
