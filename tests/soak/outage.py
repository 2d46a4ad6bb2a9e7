"""The server is gone while agents go on measuring: past the bound of the spool, and with a full disk."""

import time
from dataclasses import dataclass

from tests.bench.server import ScratchServer
from tests.soak.agents import RealAgent
from tests.soak.chaos import collect, wait_until
from tests.soak.oracle import Judgement, judge

INTERVAL_S = 0.1


@dataclass
class Outage:
    """The verdict, and what was lost how."""

    verdict: Judgement
    reasons: dict[str, int]

    def __str__(self) -> str:
        lost = ", ".join(f"{count} because {reason}" for reason, count in self.reasons.items())
        return f"{self.verdict}; records lost: {lost or 'none'}"


def run_outage(server: ScratchServer, *, seconds: float, agents: int, spool_kib: int) -> Outage:
    """Up, then the server gone for `seconds`, the disks full for the third quarter of it; then back, drained and judged."""
    real = [
        RealAgent(server, f"real-{n}", interval_s=INTERVAL_S, spool_kib=spool_kib)
        for n in range(agents)
    ]
    try:
        for agent in real:
            agent.start()
        wait_until(lambda: _nodes_with_rows(server) == agents, 60.0)
        server.kill("web")
        time.sleep(seconds / 2)
        for agent in real:
            agent.disk_full.touch()
        time.sleep(seconds / 4)
        assert all(agent.alive for agent in real), [agent.log() for agent in real]
        for agent in real:
            agent.disk_full.unlink()
        time.sleep(seconds / 4)
        server.start("web")
        server.wait_until_ready()
        for agent in real:
            agent.drain()
    finally:
        for agent in real:
            agent.kill()
    records, lists = collect(real)
    with server.connect() as connection:
        verdict = judge(connection, records, lists)
        reasons = connection.execute(
            "SELECT reason, sum(last_seq - first_seq + 1)::int FROM telemetry_gap GROUP BY reason ORDER BY reason"
        ).fetchall()
    return Outage(verdict, dict(reasons))


def _nodes_with_rows(server: ScratchServer) -> int:
    with server.connect() as connection:
        row = connection.execute("SELECT count(DISTINCT subject_id) FROM node_sample").fetchone()
        return row[0] if row else 0
