"""How old a number is when a page gets it, with a thousand nodes of eight GPUs connected."""

import asyncio
import json
import os
import time

import numpy as np
from websockets.asyncio.client import connect

from agents.sim.plan import node_name
from tests.bench.harness import Result, soak
from tests.bench.server import ScratchServer
from tests.soak.hallprocess import HallProcess, directory, seconds

NODES = int(os.environ.get("SOAK_NODES", "1000"))
WATCHED = 10


@soak(
    "freshness-8000-gpus",
    row="sample taken to number changed on the page, with 8,000 GPUs connected",
    unit="s, p95",
    goal=2.0,
    better="lower",
)
def freshness() -> Result:
    """Ten node pages over the whole hall and an Overview watch for SOAK_SECONDS (120): sample time to frame received."""
    duration_s = seconds("SOAK_SECONDS", 120.0)
    with (
        ScratchServer(worker=True, directory=directory()) as server,
        HallProcess(server, NODES) as hall,
    ):
        cookie = server.sign_in()
        hall.wait_until_settled()
        ages, overview = asyncio.run(_watch(server, cookie, duration_s))
        hall.finish()
    p50, p95, worst = (float(np.percentile(ages, p)) for p in (50, 95, 100))
    note = f"{len(ages)} updates of {WATCHED} nodes in {duration_s:.0f} s, {overview} Overview frames; p50 {p50:.2f} s, worst {worst:.2f} s; to the socket's end, without the browser's own drawing"
    good = p95 <= 2.0 and overview >= 0.8 * duration_s
    return Result(
        p95,
        holds=good,
        whole=NODES >= 1000,
        note=note if NODES >= 1000 else f"shortened: {NODES} nodes; {note}",
    )


async def _watch(server: ScratchServer, cookie: str, duration_s: float) -> tuple[list[float], int]:
    """Ages of all new numbers of the watched nodes at their arrival, and the frames of the Overview."""
    watched = [node_name(round(i * (NODES - 1) / (WATCHED - 1))) for i in range(WATCHED)]
    end = time.monotonic() + duration_s
    nodes = [_ages(server, cookie, {"panel": "node", "node": name}, end) for name in watched]
    found = await asyncio.gather(
        *nodes, _ages(server, cookie, {"panel": "overview", "metric": "power"}, end)
    )
    return [age for ages in found[:-1] for age in ages], len(found[-1])


async def _ages(
    server: ScratchServer, cookie: str, panel: dict[str, str], end: float
) -> list[float]:
    ages, seen = [], 0
    headers = {"Cookie": cookie}
    url = server.url.replace("http", "ws", 1)
    async with connect(
        f"{url}/live/socket", origin=server.url, additional_headers=headers, max_size=None
    ) as socket:
        await socket.send(json.dumps({"type": "subscribe", **panel}))
        while (left := end - time.monotonic()) > 0:
            try:
                frame = json.loads(await asyncio.wait_for(socket.recv(), left))
            except TimeoutError:
                break
            at_us = frame["gpus"][0]["at_us"] if "gpus" in frame else frame.get("as_of_us", 0)
            if at_us > seen and frame["type"] == "update":
                ages.append(time.time() - at_us / 1e6)
            seen = max(seen, at_us)
    return ages
