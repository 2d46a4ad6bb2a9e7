"""Readings of many nodes at once as wire records: numpy structured arrays with the very layout of dcops.wire.rows."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.sim.catalog import GpuModel
from agents.sim.physics import Block, gpu_columns, health_columns, node_columns
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, NODE_SAMPLE, SampleTable
from dcops.wire.rows import COLUMN_CODE, ROW, SECTION

# Not on these boards: fans (they are the chassis'), and page retirement (replaced by row remapping).
ABSENT = frozenset(
    {
        "fan_speed_percent",
        "retired_pages_single_bit",
        "retired_pages_double_bit",
        "retired_pages_pending",
    }
)
# Needs the profiling counters that NVML offers from Hopper on.
NEEDS_GPM = frozenset(name for name in GPU_SAMPLE.names if name.endswith("_ratio")) | {
    "temperature_margin_c",
    "sram_threshold_exceeded",
    "fabric_state",
    "fabric_health_mask",
    "recovery_action",
}
INFINIBAND = frozenset(name for name in NODE_SAMPLE.names if name.startswith("infiniband"))

_SECTION_FIELDS = [("code", "u1"), ("count", "<u2"), ("at_us", "<i8"), ("gpu_list", "<u4")]


def row_dtype(table: SampleTable) -> np.dtype[Any]:
    """The packed row of a table, as dcops.wire.rows.ROW defines it."""
    fields = [(metric.name, "<" + COLUMN_CODE[metric.column]) for metric in table.metrics]
    dtype = np.dtype([("subject", "u1"), ("present", "<u8"), *fields])
    if dtype.itemsize != ROW[table.name].size:
        raise ValueError(
            f"rows of {table.name} are {dtype.itemsize} bytes here and {ROW[table.name].size} on the wire"
        )
    return dtype


def section_dtype(table: SampleTable, rows: int) -> np.dtype[Any]:
    """One section with its rows."""
    dtype = np.dtype([*_SECTION_FIELDS, ("rows", row_dtype(table), (rows,))])
    if dtype.itemsize != SECTION.size + rows * ROW[table.name].size:
        raise ValueError(f"a section of {table.name} does not have the wire's size")
    return dtype


def presence(table: SampleTable, simulated: Iterable[str], absent: Iterable[str] = ()) -> int:
    """The presence bits of a row with the simulated metrics, but for these absent ones."""
    here = frozenset(simulated) - frozenset(absent)
    return sum(1 << bit for bit, name in enumerate(table.names) if name in here)


def _absent(model: GpuModel) -> frozenset[str]:
    return ABSENT if model.has_gpm else ABSENT | NEEDS_GPM


class Packer:
    """Turns the state of one block into one record per node."""

    def __init__(
        self, block: Block, has_infiniband: npt.NDArray[np.bool_], gpu_list: int = 1
    ) -> None:
        self._block = block
        nodes, gpus = block.shape
        self._record = np.zeros(
            nodes,
            dtype=[
                ("gpu", section_dtype(GPU_SAMPLE, gpus)),
                ("node", section_dtype(NODE_SAMPLE, 1)),
            ],
        )
        self._health = np.zeros(nodes, dtype=section_dtype(GPU_HEALTH, gpus))
        for sections, table, count in (
            (self._record["gpu"], GPU_SAMPLE, gpus),
            (self._record["node"], NODE_SAMPLE, 1),
            (self._health, GPU_HEALTH, gpus),
        ):
            sections["code"], sections["count"], sections["gpu_list"] = table.code, count, gpu_list
        self._record["node"]["gpu_list"] = 0
        for sections, table, columns in (
            (self._record["gpu"], GPU_SAMPLE, gpu_columns(block)),
            (self._health, GPU_HEALTH, health_columns(block)),
        ):
            bits = np.array(
                [presence(table, columns, _absent(model)) for model in block.models],
                dtype=np.uint64,
            )
            sections["rows"]["present"] = bits[:, None]
            sections["rows"]["subject"] = np.arange(gpus)
        readings = node_columns(block, 0.0)
        with_infiniband, without = (
            presence(NODE_SAMPLE, readings),
            presence(NODE_SAMPLE, readings, INFINIBAND),
        )
        self._record["node"]["rows"]["present"] = np.where(
            has_infiniband, with_infiniband, without
        )[:, None]

    @property
    def gpu_rows(self) -> npt.NDArray[Any]:
        """The rows of gpu_sample as packed last, (nodes, gpus)."""
        rows: npt.NDArray[Any] = self._record["gpu"]["rows"]
        return rows

    def pack(self, at_us: int, with_health: npt.NDArray[np.bool_]) -> list[bytes]:
        """The records of this instant, one per node; `with_health` says which nodes add their slow counters."""
        unix_s = at_us / 1e6
        _fill(self._record["gpu"], GPU_SAMPLE, at_us, gpu_columns(self._block))
        _fill(
            self._record["node"],
            NODE_SAMPLE,
            at_us,
            {k: v[:, None] for k, v in node_columns(self._block, unix_s).items()},
        )
        records = _slices(self._record)
        if with_health.any():
            _fill(self._health, GPU_HEALTH, at_us, health_columns(self._block))
            extra = _slices(self._health)
            for node in np.flatnonzero(with_health):
                records[node] += extra[node]
        for node in np.flatnonzero(self._block.lost.any(axis=1)):
            records[node] = self._without_lost(int(node), bool(with_health[node]))
        return records

    def _without_lost(self, node: int, with_health: bool) -> bytes:
        """The record of a node that cannot read all of its GPUs: those rows are not there."""
        here = ~self._block.lost[node]
        sections = [self._record["gpu"][node], *([self._health[node]] if with_health else [])]
        parts = []
        for section in sections:
            rows = section["rows"][here]
            parts.append(
                SECTION.pack(
                    int(section["code"]),
                    len(rows),
                    int(section["at_us"]),
                    int(section["gpu_list"]),
                )
            )
            parts.append(rows.tobytes())
        return b"".join([*parts, self._record["node"][node].tobytes()])


def _fill(
    sections: npt.NDArray[Any],
    table: SampleTable,
    at_us: int,
    columns: Mapping[str, npt.NDArray[Any]],
) -> None:
    sections["at_us"] = at_us
    rows = sections["rows"]
    for name in table.names:
        if name in columns:
            rows[name] = columns[name]


def _slices(array: npt.NDArray[Any]) -> list[bytes]:
    data, size = array.tobytes(), array.dtype.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]
