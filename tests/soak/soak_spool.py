"""The spool at full counts: every byte, every operation, a week without a server. The oracle is tests/fakes/ledger.py."""

import logging
import random
import zlib

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from agents.adapters.records import HEADER_BYTES, pack, scan, seed_of
from agents.adapters.spool import Spool
from tests.bench.harness import Result, soak
from tests.fakes.disk import FakeDisk
from tests.fakes.ledger import Ledger
from tests.fakes.spool_damage import (
    HOME,
    crash_everywhere,
    filled,
    flip_bits,
    mangle_segments,
    segments,
    truncate_everywhere,
)
from tests.fakes.spool_machine import SpoolMachine

WEEK_TICKS = 7 * 86_400 // 5
RECORD_BYTES = 1500


@soak(
    "spool-truncated-at-every-byte",
    row="a 1 MiB spool cut off at every byte offset: every whole record found, the rest a gap (T6)",
    unit="offsets",
    goal=1 << 20,
)
def truncated() -> Result:
    """Every offset of 1 MiB by the scanner; every offset of a small spool, and every record's edges of a large one, in full."""
    logging.disable(logging.ERROR)
    seed, data, ends = seed_of("soak"), bytearray(), []
    while len(data) < 1 << 20:
        data += pack(seed, len(ends), 0, random.Random(len(ends)).randbytes(RECORD_BYTES))
        ends.append(len(data))
    whole = bytes(data[: 1 << 20])
    size, offsets = HEADER_BYTES + RECORD_BYTES, 0
    # Only the tail can differ from one offset to the next: what lies before it was scanned at the offset before.
    for offset in range(len(whole) + 1):
        begin = max(0, offset // size - 1) * size
        found = [stored.seq for stored in scan(whole[begin:offset], seed)]
        assert found == list(range(begin // size, offset // size)), offset
        offsets += 1
    disk = FakeDisk()
    ledger = filled(disk, 60)
    for path in segments(disk):
        offsets += truncate_everywhere(ledger, disk, path, range(len(disk.files[path].data) + 1))
    large = {"metrics_segment_bytes": 1 << 20, "events_segment_bytes": 1 << 16}
    disk = FakeDisk()
    ledger = filled(disk, 400, size=RECORD_BYTES, **large)
    for path in segments(disk):
        length = len(disk.files[path].data)
        edges = {edge + off for edge in range(0, length, size) for off in (-1, 0, 1, 31, 32, 33)}
        wanted = sorted(edge for edge in edges if 0 <= edge <= length)
        offsets += truncate_everywhere(ledger, disk, path, wanted, **large)
    return Result(float(offsets), holds=True)


@soak(
    "spool-bit-flips",
    row="100,000 random bit flips and 10,000 rounds of mangled segments: starts always, gaps exact (T6)",
    unit="flips",
    goal=100_000,
)
def flipped() -> Result:
    """One flip, at most one record; several mangled segments, exactly what was in them."""
    logging.disable(logging.ERROR)
    disk = FakeDisk()
    ledger = filled(disk, 40)
    flip_bits(ledger, disk, flips=100_000, seed=2)
    disk = FakeDisk()
    mangle_segments(filled(disk, 60), disk, rounds=10_000, seed=2)
    return Result(100_000.0, holds=True)


@soak(
    "spool-power-cuts",
    row="power cut after every operation of the spool: at most the tick being written is lost (T2)",
    unit="cuts",
    goal=10_000,
)
def power_cuts() -> Result:
    """Three kinds of cut over many scenarios, exhaustively."""
    logging.disable(logging.ERROR)
    cuts, seed = 0, 0
    while cuts < 10_000:
        seed += 1
        for mode in ("killed", "lost", "some"):
            cuts += crash_everywhere(seed, 60, mode)
    return Result(float(cuts), holds=True, note=f"{seed} scenarios")


@soak(
    "spool-histories",
    row="random histories of appends, acks, cuts, damage and full disks: stored + gaps = produced (I12)",
    unit="histories",
    goal=5000,
)
def histories() -> Result:
    """Hypothesis, without its database."""
    logging.disable(logging.ERROR)
    run_state_machine_as_test(
        SpoolMachine,
        settings=settings(
            max_examples=5000,
            stateful_step_count=40,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Result(5000.0, holds=True)


@soak(
    "spool-week-without-server",
    row="seven days without a server at 8 GPUs x 5 s: nothing lost within the bound, exact gaps beyond it (T3)",
    unit="ticks produced",
    goal=2 * WEEK_TICKS,
)
def week() -> Result:
    """In virtual time on a disk in memory: once within the bound, once with a bound that a week exceeds."""
    logging.disable(logging.ERROR)
    within, gaps_within = _week(256 << 20)
    beyond, gaps_beyond = _week(64 << 20)
    note = f"gaps within 256 MiB: {gaps_within}; within 64 MiB: {gaps_beyond} of {beyond}"
    return Result(float(within + beyond), holds=gaps_within == 0 and gaps_beyond > 0, note=note)


def _week(limit_bytes: int) -> tuple[int, int]:
    """Produce a week of ticks, then drain; return (ticks, ticks in gaps). Payloads are checked by number and CRC."""
    now = [0]
    spool = Spool(
        HOME, disk=FakeDisk(), metrics_limit_bytes=limit_bytes, now_us=lambda: now[0] * 5_000_000
    )
    for tick in range(WEEK_TICKS):
        now[0] = tick
        spool.metrics.append(_tick(tick))
        assert spool.metrics.size_bytes <= limit_bytes
    ledger, stored = Ledger(), set()
    spool_id = spool.metrics.spool_id
    while found := spool.metrics.newest({}, 2048, 256 << 10):
        for record in found[1]:
            assert record.crc32 == zlib.crc32(_tick(record.seq))
            stored.add(record.seq)
        spool.acknowledge(found[0], [(found[1][0].seq, found[1][-1].seq)])
    ledger.drain(spool)
    gapped = ledger.gapped[spool_id]
    lost = gapped.count()
    assert len(stored) + lost == WEEK_TICKS
    assert not any(seq in gapped for seq in stored)
    return WEEK_TICKS, lost


def _tick(number: int) -> bytes:
    return number.to_bytes(8, "little") * 110  # 8 GPUs x 12 metrics as packed rows
