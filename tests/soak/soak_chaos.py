"""The server's parts and the agents are killed at random under load; an independent oracle counts what became of the data."""

import os
import random

from tests.bench.harness import Result, soak
from tests.bench.server import ScratchServer
from tests.soak.chaos import run_chaos
from tests.soak.hallprocess import directory, seconds


@soak(
    "chaos-kill-9",
    row="kill -9 of ingest, PostgreSQL, Redis, agent at random for 5 min under load (an oracle counts)",
    unit="rows or events missing, duplicate, corrupted",
    goal=0,
    better="lower",
)
def chaos() -> Result:
    """20 simulated nodes x 8 GPUs and 5 real agents x 4 GPUs; SOAK_SECONDS (300), SOAK_SEED."""
    duration_s = seconds("SOAK_SECONDS", 300.0)
    seed = int(os.environ.get("SOAK_SEED", random.SystemRandom().randrange(1 << 32)))
    with ScratchServer(directory=directory(), app=os.environ.get("SOAK_APP")) as server:
        report = run_chaos(
            server,
            seconds=duration_s,
            nodes=20,
            gpus=8,
            agents=5,
            every_s=3.0,
            down_s=4.0,
            seed=seed,
        )
    examples = "".join(f"\n  {example}" for example in report.verdict.examples)
    print(f"{report}{examples}", flush=True)
    whole = duration_s >= 300.0
    return Result(
        report.verdict.wrong,
        holds=report.verdict.wrong == 0,
        whole=whole,
        note=("" if whole else f"shortened to {duration_s:.0f} s; ") + str(report),
    )
