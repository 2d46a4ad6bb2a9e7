"""Chunks give back what went in, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dcops.telemetry import chunk
from dcops.telemetry.chunk import Column, DamagedChunk

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
SENSOR = st.integers(-1000, 900_000).map(lambda n: float(np.float32(n / 1000)))


@st.composite
def columns(draw):
    count = draw(st.integers(1, 300))
    made = []
    for _ in range(draw(st.integers(1, 5))):
        elements, dtype = draw(
            st.sampled_from(
                [
                    (INT64, np.int64),
                    (st.integers(0, 100), np.int64),
                    (FLOAT32, np.float32),
                    (SENSOR, np.float32),
                ]
            )
        )
        values = draw(hnp.arrays(dtype, count, elements=elements))
        present = draw(
            hnp.arrays(bool, count)
            | st.just(np.ones(count, bool))
            | st.just(np.zeros(count, bool))
        )
        made.append(Column(values, present))
    return made


@given(columns())
@settings(deadline=None, max_examples=150)
def test_every_value_comes_back(made):
    header, body = chunk.encode(made)
    slices = chunk.slices(header)
    assert sum(s.length for s in slices) == len(body)
    for column, place in zip(made, slices, strict=True):
        floats = column.values.dtype == np.float32
        data = body[place.offset : place.offset + place.length]
        back = chunk.decode(place.encoding, data, len(column.values), floats=floats)
        assert (back.present == column.present).all()
        assert back.values[back.present].tobytes() == column.values[column.present].tobytes()


def test_a_sensor_in_tenths_is_kept_as_integers():
    values = (np.arange(3600) % 50 / 10 + 300).astype(np.float32)
    header, body = chunk.encode([Column(values, np.ones(3600, bool))])
    assert chunk.slices(header)[0].encoding == chunk.INTEGERS
    assert len(body) < 400


@given(st.binary(max_size=60), st.integers(0, 255), st.integers(1, 100))
@settings(deadline=None)
def test_damaged_bytes_are_an_error_and_never_a_crash(data, encoding, count):
    for floats in (False, True):
        try:
            column = chunk.decode(encoding, data, count, floats=floats)
        except DamagedChunk:
            continue
        assert len(column.values) == count


def test_a_cut_header_is_damaged():
    with pytest.raises(DamagedChunk):
        chunk.slices(b"\x00\x00")
