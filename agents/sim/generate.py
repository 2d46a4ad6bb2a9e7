"""A stretch of a hall's past at full speed, for benchmarks: the same readings as columns and as wire records."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.sim.physics import Block, gpu_columns
from agents.sim.plan import SimulatedNode, lay_out
from agents.sim.records import Packer
from dcops.domain.metrics import GPU_HEALTH


@dataclass(frozen=True, slots=True)
class Generated:
    """`ticks` seconds of a hall.

    at_us: int64 (ticks,). columns: gpu_sample metric -> (ticks, nodes, gpus) in the column's own type. present: uint64
    (nodes, gpus) presence bits. payloads[tick][node]: the wire record, with the node's row and now and then its health rows.
    """

    nodes: list[SimulatedNode]
    at_us: npt.NDArray[np.int64]
    columns: dict[str, npt.NDArray[Any]]
    present: npt.NDArray[np.uint64]
    payloads: list[list[bytes]]


def generate(
    nodes: int, gpus: int, ticks: int, seed: int, *, start_us: int = 1_767_225_600_000_000
) -> Generated:
    """Simulate `ticks` seconds from start_us (default 2026-01-01). Same arguments, same bytes."""
    plan = lay_out(nodes, gpus, seed)
    block = Block(
        [node.model for node in plan],
        [node.place for node in plan],
        gpus,
        seed=(seed, 2),
        xids_per_gpu_hour=0.0,
    )
    packer = Packer(block, np.array([node.has_infiniband for node in plan]))
    at_us = start_us + np.arange(ticks, dtype=np.int64) * 1_000_000
    dtype = packer.gpu_rows.dtype
    columns = {
        name: np.empty((ticks, nodes, gpus), dtype=dtype[name]) for name in gpu_columns(block)
    }
    payloads = []
    every = round(GPU_HEALTH.every_s)
    for tick in range(ticks):
        block.step(1.0, float(at_us[tick]) / 1e6)
        payloads.append(packer.pack(int(at_us[tick]), (np.arange(nodes) + tick) % every == 0))
        for name, readings in gpu_columns(block).items():
            columns[name][tick] = readings
    return Generated(plan, at_us, columns, packer.gpu_rows["present"].copy(), payloads)
