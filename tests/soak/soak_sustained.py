"""One server process and a thousand nodes: does it keep up, and does everything arrive exactly once?"""

import os
import time

import psycopg

from agents.sim.hall import Latencies
from dcops.domain.metrics import TABLES
from tests.bench.harness import Result, soak
from tests.bench.server import ScratchServer
from tests.soak.hallprocess import HallProcess, directory, seconds

NODES = int(os.environ.get("SOAK_NODES", "1000"))
GPUS = 8


@soak(
    "sustained-1000-nodes",
    row="one process, 1,000 simulated nodes x 8 GPUs at 1 Hz on two cores: sustained 10 min, nothing lost",
    unit="s, sample to acknowledgement, p99",
    goal=2.0,
    better="lower",
)
def sustained() -> Result:
    """Settle, then measure for SOAK_SECONDS (600). Nothing lost: row counts and the sum of all energy counters are equal."""
    duration_s = seconds("SOAK_SECONDS", 600.0)
    with (
        ScratchServer(worker=True, directory=directory()) as server,
        HallProcess(server, NODES, gpus=GPUS) as hall,
    ):
        hall.wait_until_settled()
        before, cpu_before, hall_before, began = (
            hall.counts(),
            server.cpu_s(),
            hall.cpu_s(),
            time.monotonic(),
        )
        time.sleep(duration_s)
        cpu_after, hall_after, took_s = server.cpu_s(), hall.cpu_s(), time.monotonic() - began
        after = hall.counts()
        rss_mib = server.rss_bytes() / (1 << 20)
        final = hall.finish()
        with server.connect() as connection:
            wrong = _differences(connection, final)
        latencies = Latencies(after["latencies"]).since(Latencies(before["latencies"]))
        p50, p95, p99 = (latencies.percentile_s(p) for p in (50, 95, 99))
        shares = {
            name: (cpu_after[name] - cpu_before.get(name, 0.0)) / took_s for name in cpu_after
        }
        shares["hall"] = (hall_after - hall_before) / took_s
        rate = (after["acked"] - before["acked"]) / (after["monotonic_s"] - before["monotonic_s"])
    note = (
        f"{took_s:.0f} s, {rate:.0f} records/s acknowledged; p50 {p50:.3f} s, p95 {p95:.3f} s; cores: "
        + ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
        + f"; web {rss_mib:.0f} MiB; {'; '.join(wrong) or 'nothing lost, nothing twice'}"
    )
    kept_up = rate > 0.99 * NODES and p99 is not None and p99 <= 2.0
    whole = duration_s >= 600.0 and NODES >= 1000
    good = kept_up and not wrong
    return Result(
        p99,
        holds=good,
        whole=whole,
        note=("" if whole else f"shortened: {NODES} nodes; ") + note,
    )


def _differences(connection: psycopg.Connection, final: dict) -> list[str]:
    """Where the database differs from what the hall made."""
    found = [
        f"{final[what]} records {what}" for what in ("unacknowledged", "dropped") if final[what]
    ]
    for table in TABLES:
        stored, distinct = _one(
            connection,
            f"SELECT count(*), count(DISTINCT (subject_id, at)) FROM (SELECT subject_id, at FROM {table.name} "
            f"UNION ALL SELECT subject_id, at FROM {table.name}_late) s",
        )
        made = final["rows"].get(table.name, 0)
        if (stored, distinct) != (made, made):
            found.append(f"{table.name}: {made} made, {stored} stored, {distinct} distinct")
    (energy,) = _one(
        connection,
        "SELECT sum(energy_mj)::text FROM (SELECT energy_mj FROM gpu_sample UNION ALL SELECT energy_mj FROM gpu_sample_late) s",
    )
    if int(energy) != final["energy_mj"]:
        found.append(f"the energy counters add up to {energy}, and {final['energy_mj']} were sent")
    return found


def _one(connection: psycopg.Connection, query: str) -> tuple:
    row = connection.execute(query).fetchone()
    if row is None:
        raise RuntimeError("a count without a row")
    return row
