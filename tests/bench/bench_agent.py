"""What an agent costs the machine that it watches: CPU and memory of all its processes, spool and link included."""

import asyncio
import os
import tempfile
import time
from pathlib import Path

from tests.bench.harness import Result, benchmark
from tests.fakes import node
from tests.fakes.server import FakeServer, until

GPUS = 8
WARM_UP_BATCHES = 5
MEASURE_S = 60.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    listed = " ".join((task / "children").read_text() for task in tasks)
    children = [int(child) for child in listed.split()]
    return children + [grandchild for child in children for grandchild in _children(child)]


def _cpu_s(pid: int) -> float:
    """User and system time of a process. schedstat counts nanoseconds, where stat counts hundredths of a second."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


async def _measure() -> tuple[float, float, str]:
    """Return CPU in % of one core, PSS in MiB, and a note."""
    with tempfile.TemporaryDirectory() as folder:
        state_dir = Path(folder) / "state"
        server = FakeServer()
        server.script.intervals_s = {}
        async with server:
            node.join(state_dir, server)
            collector = node.scripted("as-told", state_dir, GPUS)
            async with node.agent(state_dir, collector) as process:
                await until(lambda: server.batches >= WARM_UP_BATCHES, 60)
                pids = [process.pid, *_children(process.pid)]
                before, batches, started = (
                    [_cpu_s(p) for p in pids],
                    server.batches,
                    time.monotonic(),
                )
                await asyncio.sleep(MEASURE_S)
                elapsed = time.monotonic() - started
                shares = [
                    100 * (_cpu_s(p) - b) / elapsed for p, b in zip(pids, before, strict=True)
                ]
                sizes = [_pss_mib(p) for p in pids]
                process.terminate()
                await process.wait()
    parts = ", ".join(
        f"{share:.2f} % {size:.0f} MiB" for share, size in zip(shares, sizes, strict=True)
    )
    rate = (server.batches - batches) / elapsed
    return (
        sum(shares),
        sum(sizes),
        f"{GPUS} scripted GPUs at 1 Hz, {rate:.2f} batches/s; agent and collector: {parts}",
    )


@benchmark(
    "agent-cpu", row="agent, 8 GPUs at 1 Hz: CPU", unit="% of one core", goal=1.0, better="lower"
)
def agent_cpu() -> Result:
    """CPU of all processes of the agent."""
    cpu, _, note = asyncio.run(_measure())
    return Result(cpu, note=note)


@benchmark("agent-memory", row="agent, 8 GPUs at 1 Hz: PSS", unit="MiB", goal=80.0, better="lower")
def agent_memory() -> Result:
    """Memory of all processes of the agent, shared pages counted once."""
    _, memory, note = asyncio.run(_measure())
    return Result(memory, note=note)
