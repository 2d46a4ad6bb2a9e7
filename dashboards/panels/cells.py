"""The cells of the fleet map: one value and one mark each.

A mark is what a cell shows by shape, so that colour is never the only sign: `.` well, `t` slowed down, `f` fault, `s` stale,
`m` no reading yet, `p` the node waits for a person.
"""

from dataclasses import dataclass

import numpy as np

from dashboards.live_state import Flags, FleetView, Floats, Ints

# Clock event reasons that cost performance and are not a plan: hardware slowdown, thermal (software, hardware), power brake.
SLOWED = 0x8 | 0x20 | 0x40 | 0x80
FAULT_WINDOW_US = 3600 * 1_000_000
METRICS = ("utilization", "tensor", "power", "temperature", "memory", "health")


@dataclass(frozen=True, slots=True)
class Scale:
    """The ends of a colour scale, in `unit`."""

    minimum: float
    maximum: float
    unit: str


def above_zero(column: Floats) -> Flags:
    """Where a reading is known and more than 0."""
    above: Flags = np.nan_to_num(column, nan=0.0) > 0
    return above


def fresh(view: FleetView, at_us: Ints) -> Flags:
    """Which rows are young enough to be called live."""
    young: Flags = at_us >= view.now_us - view.silent_after_s * 1_000_000
    return young


def per_cell(view: FleetView, of_gpu: Floats, of_host: Floats) -> Floats:
    """Take the GPU's value in GPU cells and the node's in host cells."""
    return np.where(view.grid.is_gpu, of_gpu, of_host[view.grid.node_index])


def faults(view: FleetView) -> Flags:
    """Cells whose device or driver says something is broken, or that had a critical event within the hour."""
    health = view.health
    broken = above_zero(health.values("recovery_action")) | above_zero(
        health.values("row_remap_failure")
    )
    broken |= above_zero(health.values("sram_threshold_exceeded"))
    recent = [
        e.gpu_id
        for e in view.events
        if e.level == "critical" and e.gpu_id and e.at_us > view.now_us - FAULT_WINDOW_US
    ]
    found: Flags = broken | np.isin(view.grid.gpu_ids, np.array(recent, np.int64))
    return found


def slowed(view: FleetView) -> Flags:
    """Cells whose clocks are held down by heat or hardware, or that wait for a row remap."""
    reasons = np.nan_to_num(view.gpu.values("clock_event_reasons"), nan=0.0).astype(np.int64)
    held: Flags = (reasons & SLOWED) != 0
    return held | above_zero(view.health.values("row_remap_pending"))


def marks(view: FleetView) -> str:
    """One letter a cell. What hides the reading (pending, no reading, stale) wins over what it says."""
    grid = view.grid
    host_present, host_at = view.host.present[grid.node_index], view.host.at_us[grid.node_index]
    present = np.where(grid.is_gpu, view.gpu.present, host_present)
    at_us = np.where(grid.is_gpu, view.gpu.at_us, host_at)
    waiting = np.array([node.state != "approved" for node in grid.seats], np.bool_)[
        grid.node_index
    ]
    letters = np.full(len(grid.gpu_ids), "m", dtype="<U1")
    letters[present] = "."
    letters[present & slowed(view)] = "t"
    letters[present & faults(view)] = "f"
    letters[present & ~fresh(view, at_us)] = "s"
    letters[waiting] = "p"
    return "".join(letters.tolist())


def _memory(view: FleetView) -> Floats:
    used, free = view.gpu.values("memory_used_bytes"), view.gpu.values("memory_free_bytes")
    host_used, host_free = (
        view.host.values("memory_used_bytes"),
        view.host.values("memory_available_bytes"),
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.where(np.isnan(view.grid.memory_bytes), used + free, view.grid.memory_bytes)
        return per_cell(view, 100 * used / total, 100 * host_used / (host_used + host_free))


def values(view: FleetView, metric: str) -> tuple[Floats, Scale]:
    """The chosen metric of every cell and its scale. `health` has marks only, so its values are all missing."""
    gpu, host = view.gpu, view.host
    if metric == "power":
        known = view.grid.limit_w[~np.isnan(view.grid.limit_w)]
        top = float(known.max()) if len(known) else 500.0
        return per_cell(view, gpu.values("power_average_w"), host.values("rapl_power_w")), Scale(
            0, top, "W"
        )
    if metric == "temperature":
        return per_cell(
            view, gpu.values("temperature_c"), host.values("cpu_temperature_c")
        ), Scale(25, 90, "°C")
    if metric == "memory":
        return _memory(view), Scale(0, 100, "%")
    if metric == "tensor":
        return per_cell(
            view, 100 * gpu.values("tensor_active_ratio"), np.full(len(host.present), np.nan)
        ), Scale(0, 100, "%")
    if metric == "health":
        return np.full(len(view.grid.gpu_ids), np.nan), Scale(0, 1, "")
    return per_cell(view, gpu.values("utilization_percent"), host.values("cpu_percent")), Scale(
        0, 100, "%"
    )


def rounded(column: Floats) -> list[int | None]:
    """Whole numbers for the wire; None for missing."""
    missing = np.isnan(column)
    whole: list[int | None] = np.rint(np.where(missing, 0, column)).astype(np.int64).tolist()
    for position in np.flatnonzero(missing).tolist():
        whole[position] = None
    return whole
