"""What the GPUs of a hall are asked to do: jobs over one or many nodes, that train in steps, serve in bursts, or wait."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

GROUP_SIZES = (1, 1, 1, 2, 2, 4, 8, 16)
CHECKPOINT_EVERY_S = 600.0
CHECKPOINT_S = 15.0
DAY_S = 86400.0


class JobKind(IntEnum):
    """What a group of nodes runs now."""

    IDLE = 0
    TRAINING = 1
    INFERENCE = 2


@dataclass(frozen=True, slots=True)
class Load:
    """Demand of one tick, each 0..1: the first four per GPU (nodes x gpus), the last four per node."""

    compute: Floats
    dram: Floats
    nvlink: Floats
    pcie: Floats
    memory: Floats
    cpu: Floats
    disk_read: Floats
    disk_write: Floats
    network: Floats


def _sizes(nodes: int, rng: np.random.Generator) -> Iterator[int]:
    left = nodes
    while left:
        size = min(left, int(rng.choice(GROUP_SIZES)))
        left -= size
        yield size


class Workload:
    """The jobs of a block of nodes. A job spans a run of neighbouring nodes, and its slowest GPU sets the pace of all."""

    def __init__(self, nodes: int, gpus: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._gpus = gpus
        sizes = np.array(list(_sizes(nodes, rng)), dtype=np.int64)
        groups = len(sizes)
        self.first_node: Ints = np.cumsum(sizes) - sizes
        self.group_of_node: Ints = np.repeat(np.arange(groups), sizes)
        self.kind: Ints = np.zeros(groups, dtype=np.int64)
        self._left_s: Floats = np.zeros(groups)
        self._period_s: Floats = np.ones(groups)
        self._stall: Floats = np.zeros(groups)
        self._level: Floats = np.zeros(groups)
        self._memory: Floats = np.zeros(groups)
        self._clock_s: Floats = np.zeros(groups)
        self._age_s: Floats = np.zeros(groups)
        self._serving: Floats = rng.uniform(0.2, 0.8, nodes)
        self._begin(np.arange(groups))
        self._left_s *= rng.uniform(0.05, 1.0, groups)
        self._age_s = rng.uniform(0.0, CHECKPOINT_EVERY_S, groups)

    def end_job(self, node: int) -> None:
        """The job on this node crashed: its nodes go idle for a while."""
        group = self.group_of_node[node]
        self.kind[group] = JobKind.IDLE
        self._left_s[group] = self._rng.uniform(15.0, 60.0)

    def step(self, dt_s: float, unix_s: float, speed: Floats) -> Load:
        """Advance by dt_s and return the demand. `speed` is each GPU's clock over its highest (nodes x gpus), of the last tick."""
        self._left_s -= dt_s
        over = np.flatnonzero(self._left_s <= 0)
        if len(over):
            self._begin(over)
        pace_of_group = np.minimum.reduceat(speed.min(axis=1), self.first_node)
        self._clock_s += dt_s * np.maximum(pace_of_group, 0.1)
        self._age_s += dt_s
        return self._demand(unix_s, speed, pace_of_group)

    def _begin(self, groups: Ints) -> None:
        """Draw what each of these groups does next: after work comes a pause, after a pause comes work."""
        rng, count = self._rng, len(groups)
        was_idle = self.kind[groups] == JobKind.IDLE
        work = np.where(rng.random(count) < 0.7, JobKind.TRAINING, JobKind.INFERENCE)
        pause = rng.random(count) < 0.15
        self.kind[groups] = np.where(was_idle & ~pause, work, JobKind.IDLE)
        idle = self.kind[groups] == JobKind.IDLE
        self._left_s[groups] = np.where(
            idle, rng.uniform(30, 240, count), rng.uniform(600, 7200, count)
        )
        self._period_s[groups] = rng.uniform(2.5, 12.0, count)
        self._stall[groups] = rng.choice([0.02, 0.05, 0.1, 0.3], count, p=[0.4, 0.3, 0.2, 0.1])
        self._level[groups] = rng.uniform(0.8, 1.0, count)
        self._memory[groups] = rng.uniform(0.55, 0.95, count)
        self._clock_s[groups] = rng.uniform(0, 10, count)
        self._age_s[groups] = 0.0

    def _demand(self, unix_s: float, speed: Floats, pace_of_group: Floats) -> Load:
        group = self.group_of_node
        kind = self.kind[group]
        training = (kind == JobKind.TRAINING)[:, None]
        inference = (kind == JobKind.INFERENCE)[:, None]
        phase = ((self._clock_s / self._period_s) % 1.0)[group][:, None]
        stalled = phase < self._stall[group][:, None]
        exchanging = phase > 0.82
        saving = ((self._age_s % CHECKPOINT_EVERY_S) < CHECKPOINT_S)[group][:, None] & (
            self._age_s > 60
        )[group][:, None]
        # A GPU faster than the job's slowest finishes its part early and waits.
        waiting = pace_of_group[group][:, None] / np.maximum(speed, 0.05)
        train = (
            np.where(exchanging, 0.45, 1.0)
            * self._level[group][:, None]
            * np.minimum(waiting, 1.0)
        )
        train = np.where(stalled | saving, 0.04, train)
        serve = self._serve(unix_s)[:, None]
        working = stalled | saving
        shape = np.ones_like(speed)
        return Load(
            compute=np.where(training, train, np.where(inference, serve * 0.75, 0.0)),
            dram=np.where(
                training, train * 0.62, np.where(inference, np.minimum(serve * 1.1, 1.0), 0.0)
            ),
            nvlink=np.where(
                training & ~working,
                np.where(exchanging, 0.85, 0.2),
                np.where(inference, serve * 0.15, 0.0),
            )
            * shape,
            pcie=np.where(
                training, np.where(stalled, 0.5, 0.06), np.where(inference, serve * 0.1, 0.0)
            )
            * shape,
            memory=np.where(training | inference, self._memory[group][:, None], 0.0) * shape,
            cpu=np.where(kind == JobKind.IDLE, 0.02, np.where(stalled[:, 0], 0.75, 0.28)),
            disk_read=np.where(training[:, 0] & stalled[:, 0], 0.7, 0.01),
            disk_write=np.where(training[:, 0] & saving[:, 0], 0.8, 0.004),
            network=np.where(
                training[:, 0] & exchanging[:, 0], 0.8, np.where(inference[:, 0], 0.05, 0.01)
            ),
        )

    def _serve(self, unix_s: float) -> Floats:
        """Requests per node, as a share of what it can serve: a daily curve, slow drift and bursts."""
        rng, nodes = self._rng, len(self._serving)
        daily = 0.45 + 0.25 * np.sin(2 * np.pi * (unix_s / DAY_S - 0.3))
        self._serving += 0.08 * (daily - self._serving) + 0.05 * rng.standard_normal(nodes)
        self._serving = np.clip(self._serving, 0.0, 1.0)
        burst = rng.random(nodes) < 0.03
        return np.where(burst, np.minimum(self._serving + 0.4, 1.0), self._serving)
