"""Frames, rows and tokens: what is written is what is read, and damage is refused."""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcops.domain.metrics import GPU_SAMPLE, NODE_SAMPLE, TABLES, Metric, SampleTable
from dcops.wire import frames, identity, rows

ROW_BYTES = {table.code: rows.ROW[table.name].size for table in TABLES}


def reading(metric: Metric) -> st.SearchStrategy[rows.Reading]:
    if metric.column == "float4":
        return st.none() | st.floats(metric.minimum, metric.maximum, width=32)
    return st.none() | st.integers(int(metric.minimum), int(metric.maximum))


def row_of(table: SampleTable) -> st.SearchStrategy[tuple[rows.Reading, ...]]:
    return st.tuples(*[reading(metric) for metric in table.metrics])


def unpack(table: SampleTable, packed: bytes) -> tuple[int, list[rows.Reading]]:
    subject, present, *fields = rows.ROW[table.name].unpack(packed)
    return subject, [field if present >> bit & 1 else None for bit, field in enumerate(fields)]


@given(
    st.sampled_from(TABLES).flatmap(lambda table: st.tuples(st.just(table), row_of(table))),
    st.integers(0, 255),
)
def test_a_row_comes_back_as_it_was_and_missing_stays_missing(
    table_and_row: tuple[SampleTable, tuple[rows.Reading, ...]], subject: int
) -> None:
    table, readings = table_and_row
    assert unpack(table, rows.pack_row(table, subject, readings)) == (subject, list(readings))


def test_zero_and_missing_are_different() -> None:
    zero = rows.pack_row(NODE_SAMPLE, 0, [0] * len(NODE_SAMPLE.metrics))
    missing = rows.pack_row(NODE_SAMPLE, 0, [None] * len(NODE_SAMPLE.metrics))
    assert zero != missing


def test_a_reading_that_does_not_fit_is_an_error() -> None:
    readings: list[rows.Reading] = [None] * len(GPU_SAMPLE.metrics)
    readings[0] = 1 << 20
    with pytest.raises(struct.error):
        rows.pack_row(GPU_SAMPLE, 0, readings)


def test_sections_split_where_they_were_joined() -> None:
    gpu = rows.pack_row(GPU_SAMPLE, 3, [None] * len(GPU_SAMPLE.metrics))
    node = rows.pack_row(NODE_SAMPLE, 0, [1] * len(NODE_SAMPLE.metrics))
    payload = rows.pack_section(GPU_SAMPLE, 17, 5, [gpu, gpu]) + rows.pack_section(
        NODE_SAMPLE, 18, 0, [node]
    )
    first, second = rows.split_sections(payload, ROW_BYTES)
    assert (first.table_code, first.row_count, first.at_us, first.gpu_list, bytes(first.rows)) == (
        1,
        2,
        17,
        5,
        gpu + gpu,
    )
    assert (second.table_code, second.row_count, second.at_us, bytes(second.rows)) == (
        3,
        1,
        18,
        node,
    )


@given(st.binary(max_size=400))
def test_any_bytes_are_split_or_refused(payload: bytes) -> None:
    try:
        sections = list(rows.split_sections(payload, ROW_BYTES))
    except ValueError:
        return
    assert sum(rows.SECTION.size + len(section.rows) for section in sections) == len(payload)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    for decode in (frames.decode_from_node, frames.decode_from_server, frames.decode_happenings):
        try:
            decode(data)
        except msgspec.MsgspecError:
            continue


def test_frames_come_back() -> None:
    batch = frames.Batch(frames.Spool.METRICS, "s", [frames.Record(1, 2, b"x")])
    ack = frames.Ack("s", [(1, 4), (9, 9)], 8)
    assert frames.decode_from_node(frames.encode(batch)) == batch
    assert frames.decode_from_server(frames.encode(ack)) == ack


def test_a_node_cannot_speak_as_the_server() -> None:
    with pytest.raises(msgspec.ValidationError):
        frames.decode_from_node(frames.encode(frames.Ack("s", [])))


def test_a_token_comes_back() -> None:
    token = identity.JoinToken(identity.pin_of(b"k" * 32), "id", "secret")
    assert identity.parse_token(f"  {token}\n") == token


@pytest.mark.parametrize(
    "text",
    ["", "dcops1", "dcops1.a.b.c", "dcops2." + "a" * 64 + ".b.c", "dcops1." + "a" * 64 + ".b."],
)
def test_a_damaged_token_says_what_to_do(text: str) -> None:
    with pytest.raises(ValueError, match="dcops node token"):
        identity.parse_token(text)


@given(
    st.lists(st.binary(max_size=8), min_size=2, max_size=2),
    st.lists(st.binary(max_size=8), min_size=2, max_size=2),
)
def test_different_parts_never_sign_alike(first: list[bytes], second: list[bytes]) -> None:
    one = identity.server_transcript(first[0], first[1], "s", "n")
    other = identity.server_transcript(second[0], second[1], "s", "n")
    assert (one == other) == (first == second)


def test_each_side_signs_something_else() -> None:
    assert identity.server_transcript(b"a", b"b", "s", "n") != identity.node_transcript(
        b"a", b"b", "s", "n", "boot"
    )
