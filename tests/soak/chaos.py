"""kill -9 at random under load, and the verdict of the oracle."""

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from dcops.local.errors import LocalError
from tests.bench.server import ScratchServer
from tests.soak.agents import RealAgent
from tests.soak.hallprocess import HallProcess
from tests.soak.oracle import GpuLists, Judgement, Produced, judge, read_hall

PARTS = ("web", "postgres", "redis")


@dataclass
class Report:
    """What a chaos run did and found."""

    verdict: Judgement
    kills: Counter[str]
    visible_s: float
    seed: int
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        return f"seed {self.seed}; killed {kills}; fresh samples of all nodes {self.visible_s:.1f} s after the last fault; {self.verdict}"


class Chaos:
    """Kills one part after another, each down for a moment, some at the same time; starts again whatever is down."""

    def __init__(self, server: ScratchServer, agents: list[RealAgent], rng: random.Random) -> None:
        self._server = server
        self._agents = {agent.name: agent for agent in agents}
        self._random = rng
        self._due: dict[str, float] = {}
        self._doomed = ""
        self.kills: Counter[str] = Counter()

    def run(self, seconds: float, *, every_s: float, down_s: float) -> None:
        """Kill on average once in every_s, each part being down for up to down_s."""
        end = time.monotonic() + seconds
        next_kill = time.monotonic() + self._random.expovariate(1 / every_s)
        while time.monotonic() < end:
            self._restart(time.monotonic())
            if time.monotonic() >= next_kill:
                pause_s = self._strike(down_s, every_s)
                next_kill = time.monotonic() + pause_s
            time.sleep(0.05)
        # A part may still end by itself: a web process that meets a recovering database, for one.
        wait_until(lambda: self._restart(float("inf")) and self._server.answers(), 120.0)

    def _strike(self, down_s: float, every_s: float) -> float:
        """Kill something that stands; returns the seconds until the next time.

        Every other death of PostgreSQL is followed by that of the web process while batches wait in its memory: the moment
        in which a server that acknowledges too early loses most.
        """
        standing = [name for name in (*PARTS, *self._agents) if name not in self._due]
        if not standing:
            return every_s
        follows = self._doomed in standing
        victim = self._doomed if follows else self._random.choice(standing)
        self._doomed = ""
        self._kill(victim)
        self.kills[victim if victim in PARTS else "agents"] += 1
        self._due[victim] = time.monotonic() + self._random.uniform(0, down_s)
        if victim == "postgres" and self._random.random() < 0.5:
            self._doomed = "web"
            self._due[victim] = max(self._due[victim], time.monotonic() + 1.5)
            return 1.0
        return self._random.expovariate(1 / every_s)

    def _kill(self, name: str) -> None:
        if name in self._agents:
            self._agents[name].kill()
        else:
            self._server.kill(name)

    def _restart(self, now: float) -> bool:
        """Start what is due or has ended by itself, as a supervisor does. Returns whether all stands."""
        for name in [*PARTS, *self._agents]:
            if name not in self._due and not self._alive(name):
                self._due[name] = time.monotonic() + 0.5
            if name in self._due and self._due[name] <= now:
                with suppress(LocalError):
                    self._start(name)
                    del self._due[name]
        return not self._due and all(self._alive(name) for name in [*PARTS, *self._agents])

    def _alive(self, name: str) -> bool:
        if name in self._agents:
            return self._agents[name].alive
        process = self._server._process(name)
        return process is not None and process.poll() is None

    def _start(self, name: str) -> None:
        if name in self._agents:
            self._agents[name].start()
        else:
            self._server.start(name)


def run_chaos(
    server: ScratchServer,
    *,
    seconds: float,
    nodes: int,
    gpus: int,
    agents: int,
    every_s: float,
    down_s: float,
    seed: int,
) -> Report:
    """Load, kill, heal, drain, judge."""
    rng = random.Random(seed)
    real = [RealAgent(server, f"real-{number}") for number in range(agents)]
    for agent in real:
        agent.start()
    with HallProcess(server, nodes, gpus=gpus, journal=True, xids_per_hour=3600.0) as hall:
        try:
            hall.wait_until_settled()
            chaos = Chaos(server, real, rng)
            chaos.run(seconds, every_s=every_s, down_s=down_s)
            visible_s = wait_until(
                lambda: _all_fresh(server, nodes + agents, time.time() - 3.0), 120.0
            )
            hall.finish()
            for agent in real:
                agent.drain()
        finally:
            for agent in real:
                agent.kill()
        produced, lists = read_hall(hall.state_dir, hall.journal, nodes, gpus)
    for agent in real:
        records, known = agent.produced()
        produced += records
        lists |= known
    with server.connect() as connection:
        return Report(judge(connection, produced, lists), chaos.kills, visible_s, seed)


def collect(agents: list[RealAgent]) -> tuple[list[Produced], GpuLists]:
    """What all of these agents say they produced."""
    records: list[Produced] = []
    lists: GpuLists = {}
    for agent in agents:
        mine, known = agent.produced()
        records += mine
        lists |= known
    return records, lists


def _all_fresh(server: ScratchServer, nodes: int, since: float) -> bool:
    with suppress(OSError), server.connect() as connection:
        row = connection.execute(
            "SELECT count(DISTINCT subject_id) FROM node_sample WHERE at > to_timestamp(%s)",
            [since],
        ).fetchone()
        return row is not None and row[0] >= nodes
    return False


def wait_until(condition: Callable[[], bool], limit_s: float) -> float:
    """Poll until it holds; returns how long that took. Raises TimeoutError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit_s:
            raise TimeoutError(f"it did not happen within {limit_s:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - began
