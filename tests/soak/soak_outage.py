"""The server is away for the length of the test; spools reach their bound and disks fill up."""

from tests.bench.harness import Result, soak
from tests.bench.server import ScratchServer
from tests.soak.hallprocess import directory, seconds
from tests.soak.outage import run_outage


@soak(
    "outage-full-spool-full-disk",
    row="server gone for the length of the test, spool at its bound, disk full on the node: stored + gaps = produced exactly",
    unit="records neither stored nor in a gap, or both",
    goal=0,
    better="lower",
)
def outage() -> Result:
    """3 real agents at 10 Hz with a spool of 1 MiB, the server away for SOAK_SECONDS (300), disks full for a quarter of it."""
    duration_s = seconds("SOAK_SECONDS", 300.0)
    with ScratchServer(directory=directory()) as server:
        found = run_outage(
            server, seconds=duration_s, agents=3, spool_kib=1024 if duration_s >= 300 else 64
        )
    print("\n".join([str(found), *found.verdict.examples]), flush=True)
    lost_both_ways = len(found.reasons) >= 2  # else the run proves nothing about one of them
    return Result(
        found.verdict.wrong,
        holds=found.verdict.wrong == 0 and found.verdict.gapped > 0 and lost_both_ways,
        whole=duration_s >= 300.0,
        note=f"{duration_s:.0f} s; {found}",
    )
