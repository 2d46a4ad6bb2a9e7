"""Bytes a value after packing, against VictoriaMetrics on the same values; and how fast series come back."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.bench.harness import NOT_INSTALLED, Result, benchmark
from tests.bench.server import ScratchServer

ROOT = Path(__file__).resolve().parents[2]


def _inside(verb):
    """Run tests.bench.storage_work in a process set up for a fresh server's database."""
    with ScratchServer() as server:
        command = [sys.executable, "-m", "tests.bench.storage_work", verb]
        done = subprocess.run(
            command, env=os.environ | server.env, cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        return json.loads(done.stdout.splitlines()[-1])


@benchmark(
    "bytes-per-value",
    row="bytes per value after compaction, table and index included",
    unit="B",
    goal="0.8x VictoriaMetrics",
)
def bytes_per_value():
    """An hour of simulated GPUs, packed; VictoriaMetrics holds the same values with its parts merged."""
    found = _inside("bytes")
    peer = found["victoria"]
    holds = found["ours"] <= 0.8 * peer if peer is not None else None
    ratio = f"{found['ours'] / peer:.2f}x; " if peer else ""
    note = f"{ratio}{found['values']:,} values; chunks alone {found['chunks']:.3f} B; packed at {found['speed'] / 1e6:.1f} M values a CPU-second"
    return Result(
        round(found["ours"], 3),
        holds=holds,
        peers={"victoria-metrics": round(peer, 3) if peer is not None else NOT_INSTALLED},
        note=note,
    )


@benchmark(
    "series-24h",
    row="one GPU, 24 h at 1 Hz, series at 1,000 points",
    unit="ms",
    goal=200.0,
    better="lower",
)
def series_day():
    """Median of the query and its JSON, 8 GPUs stored, all but the newest hours packed."""
    found = _inside("series")
    return Result(found["day"], note=found["note"])


@benchmark(
    "series-30d",
    row="one GPU, 30 days from rollups, 1,000 points",
    unit="ms",
    goal=100.0,
    better="lower",
)
def series_month():
    """Median of the query and its JSON, 30 days of hours of 500 GPUs stored."""
    found = _inside("month")
    return Result(found["month"], note=found["note"])
