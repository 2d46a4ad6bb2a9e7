"""The row of tiles: is anything wrong, and is what was paid for used. A fleet without GPUs gets the host's own tiles."""

from typing import TypedDict

import numpy as np
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from dashboards.live_state import Flags, FleetView, Floats
from dashboards.panels.cells import fresh
from dashboards.units import UNKNOWN, digits, figure

IN_USE_PERCENT = 5


class Tile(TypedDict):
    """One tile as text. `bar` is a share 0..1 or None; `trend` names the series behind its line, or is empty."""

    key: str
    label: str
    value: str
    unit: str
    note: str
    bar: float | None
    trend: str
    level: str


def tile(
    key: str,
    label: str,
    value: str,
    unit: str = "",
    note: str = "",
    bar: float | None = None,
    trend: str = "",
    level: str = "",
) -> Tile:
    """Build one tile."""
    return Tile(
        key=key, label=label, value=value, unit=unit, note=note, bar=bar, trend=trend, level=level
    )


def total(column: Floats, where: Flags) -> float | None:
    """Sum of the known readings, None when there is none."""
    chosen = column[where & ~np.isnan(column)]
    return float(chosen.sum()) if len(chosen) else None


def mean(column: Floats, where: Flags) -> float | None:
    """Mean of the known readings, None when there is none."""
    chosen = column[where & ~np.isnan(column)]
    return float(chosen.mean()) if len(chosen) else None


def live_gpus(view: FleetView) -> Flags:
    """GPU cells with a fresh row."""
    return view.grid.is_gpu & view.gpu.present & fresh(view, view.gpu.at_us)


def live_hosts(view: FleetView) -> Flags:
    """Nodes with a fresh row."""
    return view.host.present & fresh(view, view.host.at_us)


def in_use(view: FleetView) -> Flags:
    """GPUs that run something: a compute process, or 5 % utilization."""
    busy = np.nan_to_num(view.gpu.values("utilization_percent"), nan=0.0) >= IN_USE_PERCENT
    return live_gpus(view) & (
        busy | (np.nan_to_num(view.health.values("compute_processes"), nan=0.0) > 0)
    )


def totals(view: FleetView) -> dict[str, float | None]:
    """The fleet's numbers this second, by trend name."""
    gpus, hosts = live_gpus(view), live_hosts(view)
    temperature = view.gpu.values("temperature_c")[gpus]
    known = temperature[~np.isnan(temperature)]
    used, free = view.host.values("memory_used_bytes"), view.host.values("memory_available_bytes")
    return {
        "used": float(in_use(view).sum()) if gpus.any() else None,
        "tensor": mean(100 * view.gpu.values("tensor_active_ratio"), gpus),
        "utilization": mean(view.gpu.values("utilization_percent"), gpus),
        "power": total(view.gpu.values("power_average_w"), gpus),
        "hottest": float(known.max()) if len(known) else None,
        "cpu": mean(view.host.values("cpu_percent"), hosts),
        "memory": share(total(used, hosts), total(used + free, hosts)),
        "pressure": mean(view.host.values("cpu_pressure_percent"), hosts),
        "memory_pressure": mean(view.host.values("memory_pressure_percent"), hosts),
        "io_pressure": mean(view.host.values("io_pressure_percent"), hosts),
        "load": total(view.host.values("load_1m"), hosts),
        "network": total(
            view.host.values("network_rx_bytes_per_s")
            + view.host.values("network_tx_bytes_per_s"),
            hosts,
        ),
        "disk": total(
            view.host.values("disk_read_bytes_per_s") + view.host.values("disk_write_bytes_per_s"),
            hosts,
        ),
    }


def share(part: float | None, whole: float | None) -> float | None:
    """Percent of a whole, None when either is unknown."""
    return None if part is None or not whole else 100 * part / whole


def make_tiles(view: FleetView) -> list[Tile]:
    """The six tiles of this fleet."""
    if view.grid.is_gpu.any():
        return [
            _used(view),
            _useful(view),
            _power(view),
            _energy(view),
            _hottest(view),
            _reporting(view),
        ]
    return [
        _reporting(view),
        _cpu(view),
        _memory(view),
        _pressure(view),
        _network(view),
        _disk(view),
    ]


def _used(view: FleetView) -> Tile:
    every, live, used = (
        int(view.grid.is_gpu.sum()),
        int(live_gpus(view).sum()),
        int(in_use(view).sum()),
    )
    note = _("%(free)s free, %(silent)s not reporting") % {
        "free": digits(live - used),
        "silent": digits(every - live),
    }
    return tile(
        "used",
        _("GPUs in use"),
        digits(used),
        _("of %s") % digits(every),
        note,
        used / every if every else None,
    )


def _useful(view: FleetView) -> Tile:
    now = totals(view)
    tensor, busy = now["tensor"], now["utilization"]
    if tensor is None:
        note = _("tensor activity is not reported by these GPUs")
        return tile("useful", _("Doing useful work"), UNKNOWN, "", note)
    note = _("a kernel ran %s of the time") % figure(busy, "%")
    return tile(
        "useful",
        _("Doing useful work"),
        figure(tensor, "%").value,
        _("% tensor-active"),
        note,
        tensor / 100,
        "tensor",
    )


def _power(view: FleetView) -> Tile:
    watts = totals(view)["power"]
    limit = total(view.grid.limit_w, view.grid.is_gpu)
    shown = figure(watts, "W")
    unit = (
        _("%(unit)s of %(limit)s") % {"unit": shown.unit, "limit": figure(limit, "W")}
        if limit and watts is not None
        else shown.unit
    )
    part = share(watts, limit)
    note = _("%s of the GPUs' limit") % figure(part, "%") if part is not None else _("GPUs only")
    return tile(
        "power",
        _("GPU power"),
        shown.value,
        unit,
        note,
        part / 100 if part is not None else None,
        "power",
    )


def _energy(view: FleetView) -> Tile:
    kwh = view.energy_today_kwh
    shown = figure(None if kwh is None else kwh * 1000, "Wh")
    watts = totals(view)["power"]
    note = (
        _("%s a day at this power") % figure(watts * 24, "Wh")
        if watts is not None
        else _("from the GPUs' own counters")
    )
    return tile("energy", _("GPU energy today"), shown.value, shown.unit, note)


def _hottest(view: FleetView) -> Tile:
    column = np.where(live_gpus(view), view.gpu.values("temperature_c"), np.nan)
    if np.isnan(column).all():
        return tile("hottest", _("Hottest GPU"), UNKNOWN, "", _("no temperature reported"))
    cell = int(np.nanargmax(column))
    node, gpu = view.grid.by_gpu[int(view.grid.gpu_ids[cell])]
    margin = float(view.gpu.values("temperature_margin_c")[cell])
    note = _("%(node)s GPU %(index)s") % {"node": node.name, "index": gpu.index}
    if not np.isnan(margin):
        note += " · " + _("%s below slowdown") % figure(margin, "°C")
    level = "warn" if margin <= 3 else ""
    return tile(
        "hottest",
        _("Hottest GPU"),
        digits(float(column[cell])),
        "°C",
        note,
        None,
        "hottest",
        level,
    )


def _reporting(view: FleetView) -> Tile:
    every, live = len(view.grid.seats), int(live_hosts(view).sum())
    silent = every - live
    simulated = sum(node.simulated for node in view.grid.seats)
    if silent:
        note = ngettext("%s node is silent", "%s nodes are silent", silent) % digits(silent)
    else:
        note = _("all nodes report")
    if simulated:
        note += " · " + _("%s simulated") % digits(simulated)
    bar = live / every if every else None
    return tile(
        "reporting",
        _("Nodes reporting"),
        digits(live),
        _("of %s") % digits(every),
        note,
        bar,
        "",
        "bad" if silent else "",
    )


def _cpu(view: FleetView) -> Tile:
    percent = totals(view)["cpu"]
    load = mean(view.host.values("load_1m"), live_hosts(view))
    note = _("load %s") % figure(load, "")
    return tile("cpu", _("CPU used"), figure(percent, "%").value, "%", note, None, "cpu")


def _memory(view: FleetView) -> Tile:
    hosts = live_hosts(view)
    used, free = (
        total(view.host.values("memory_used_bytes"), hosts),
        total(view.host.values("memory_available_bytes"), hosts),
    )
    whole = None if used is None or free is None else used + free
    part = share(used, whole)
    shown = figure(used, "B")
    unit = _("%(unit)s of %(limit)s") % {"unit": shown.unit, "limit": figure(whole, "B")}
    swap = _("swap %s") % figure(total(view.host.values("swap_used_bytes"), hosts), "B")
    return tile(
        "memory",
        _("Memory used"),
        shown.value,
        unit,
        swap,
        part / 100 if part is not None else None,
        "memory",
    )


def _pressure(view: FleetView) -> Tile:
    hosts = live_hosts(view)
    shown = figure(totals(view)["pressure"], "%")
    note = _("memory %(memory)s, I/O %(io)s") % {
        "memory": figure(mean(view.host.values("memory_pressure_percent"), hosts), "%"),
        "io": figure(mean(view.host.values("io_pressure_percent"), hosts), "%"),
    }
    return tile(
        "pressure", _("CPU pressure"), shown.value, _("% of time stalled"), note, None, "pressure"
    )


def _network(view: FleetView) -> Tile:
    hosts = live_hosts(view)
    shown = figure(totals(view)["network"], "B/s")
    note = _("in %(rx)s, out %(tx)s") % {
        "rx": figure(total(view.host.values("network_rx_bytes_per_s"), hosts), "B/s"),
        "tx": figure(total(view.host.values("network_tx_bytes_per_s"), hosts), "B/s"),
    }
    return tile("network", _("Network"), shown.value, shown.unit, note, None, "network")


def _disk(view: FleetView) -> Tile:
    hosts = live_hosts(view)
    shown = figure(totals(view)["disk"], "B/s")
    root = figure(mean(view.host.values("root_disk_used_percent"), hosts), "%")
    return tile(
        "disk", _("Disk"), shown.value, shown.unit, _("root disk %s full") % root, None, "disk"
    )
