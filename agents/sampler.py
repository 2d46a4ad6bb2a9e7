"""What is due when, and what is written down of it. Pure: time and readings come in, records and events go out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor

from agents.ports import GpuReport, Want
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, NODE_SAMPLE, SampleTable
from dcops.wire import rows
from dcops.wire.rows import Reading

STATE = "state"
SHORTEST_S = 0.1
LONGEST_S = 3600.0
# Things due within this time of each other are done in one tick.
_TOGETHER_S = 0.001


@dataclass
class Schedule:
    """Every `every_s` seconds from a start, whatever time the work takes: a late tick moves no later one.

    missed: ticks that passed while an earlier one was still under way.
    """

    every_s: float
    start_s: float
    missed: int = 0

    def __post_init__(self) -> None:
        self._done = 0

    @property
    def next_s(self) -> float:
        """When the next tick is due."""
        return self.start_s + self._done * self.every_s

    def take(self, now_s: float) -> bool:
        """Whether a tick is due; if so it counts as done, and those before it as missed."""
        # Multiplied, not added up: a sum of many 0.1 would drift.
        reached = floor((now_s + _TOGETHER_S - self.start_s) / self.every_s) + 1
        if reached <= self._done:
            return False
        self.missed += reached - self._done - 1
        self._done = reached
        return True


class Plan:
    """The schedules of all that is read, by table name, and `state` for processes and findings."""

    def __init__(self, intervals_s: Mapping[str, float], now_s: float) -> None:
        self._own = dict(intervals_s)
        self._start_s = now_s
        self._schedules = {name: Schedule(every, now_s) for name, every in self._own.items()}

    @property
    def next_s(self) -> float:
        """When the next thing is due."""
        return min(schedule.next_s for schedule in self._schedules.values())

    @property
    def missed(self) -> dict[str, int]:
        """Ticks that were not taken in time, by name."""
        return {name: schedule.missed for name, schedule in self._schedules.items()}

    def take(self, now_s: float) -> frozenset[str]:
        """Return what is due now."""
        return frozenset(name for name, s in self._schedules.items() if s.take(now_s))

    def adopt(self, wishes_s: Mapping[str, float], now_s: float) -> None:
        """Follow the server's wishes for intervals, within bounds; without a wish the own interval holds."""
        for name, own in self._own.items():
            every = min(max(wishes_s.get(name, own), SHORTEST_S), LONGEST_S)
            schedule = self._schedules[name]
            if schedule.every_s != every:
                self._schedules[name] = Schedule(every, now_s, schedule.missed)


def wanted(due: Iterable[str], *, inventory: bool) -> Want:
    """Return what to ask of the GPUs."""
    names = set(due)
    return Want(GPU_SAMPLE.name in names, GPU_HEALTH.name in names, STATE in names, inventory)


def node_section(readings: Sequence[Reading], at_us: int) -> bytes:
    """Pack one row of the host."""
    row = rows.pack_row(NODE_SAMPLE, 0, readings)
    return rows.pack_section(NODE_SAMPLE, at_us, 0, [row])


def gpu_sections(report: GpuReport, gpu_list: int) -> bytes:
    """Pack what a report holds; b"" if it has no readings. `gpu_list` is the number of report.uuids."""
    return _section(GPU_SAMPLE, report, report.sample, gpu_list) + _section(
        GPU_HEALTH, report, report.health, gpu_list
    )


def _section(
    table: SampleTable, report: GpuReport, readings: Mapping[str, Sequence[Reading]], gpu_list: int
) -> bytes:
    if not readings:
        return b""
    packed = [
        rows.pack_row(table, subject, readings[uuid])
        for subject, uuid in enumerate(report.uuids)
        if uuid in readings
    ]
    return rows.pack_section(table, report.at_us, gpu_list, packed)
