"""What the fleet looks like now, held once per process: seats, newest rows, recent events.

Loaded from the database at first use, then fed by the live events of the ingest processes. Every panel of every viewer
is computed from one FleetView a second, so a hundred viewers cost what one costs.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, NODE_SAMPLE, TABLES, SampleTable
from dcops.live import EventsStored, LiveEvent, SamplesStored

SEATS_EVERY_S = 15.0
TABLES_EVERY_S = 2.0
EVENTS_EVERY_S = 5.0
ENERGY_EVERY_S = 15.0
FED_WITHIN_US = 3_000_000
TREND_S = 600

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class GpuSeat(Protocol):
    """A GPU and where it sits; see fleet.queries.seats."""

    @property
    def id(self) -> int: ...
    @property
    def uuid(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def model(self) -> str: ...
    @property
    def power_limit_max_w(self) -> float | None: ...
    @property
    def memory_total_bytes(self) -> int | None: ...


class NodeSeat(Protocol):
    """A node and its GPUs in index order; see fleet.queries.seats."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def simulated(self) -> bool: ...
    @property
    def gpus(self) -> Sequence[GpuSeat]: ...


class Latest(Protocol):
    """Newest row per subject of one table; see telemetry.latest."""

    @property
    def subject_ids(self) -> npt.NDArray[np.int32]: ...
    @property
    def at_us(self) -> npt.NDArray[np.int64]: ...
    def values(self, metric: str) -> Floats: ...


@dataclass(frozen=True, slots=True)
class EventLine:
    """One stored event, as the pages show it. `level` is info, warning or critical."""

    at_us: int
    level: str
    kind: str
    message: str
    code: int | None
    node_id: int | None
    gpu_id: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A quarantined batch: whose, when and why."""

    at_us: int
    node_id: int | None
    reason: str


class Columns:
    """Newest values of one table, in the order of the subjects asked for; NaN where a subject has no row or no reading."""

    def __init__(self, latest: Latest, ids: npt.NDArray[np.int32]) -> None:
        subjects = latest.subject_ids
        order = np.argsort(subjects, kind="stable")
        if len(subjects):
            slots = np.minimum(np.searchsorted(subjects, ids, sorter=order), len(subjects) - 1)
            self._rows = order[slots]
            self.present: Flags = subjects[self._rows] == ids
        else:
            self._rows = np.zeros(len(ids), np.int64)
            self.present = np.zeros(len(ids), np.bool_)
        self._latest = latest
        self.at_us: Ints = (
            np.where(self.present, latest.at_us[self._rows], 0)
            if len(subjects)
            else np.zeros(len(ids), np.int64)
        )

    def values(self, metric: str) -> Floats:
        """One column, float64, NaN for missing."""
        if not self.present.any():
            return np.full(len(self.present), np.nan)
        column = self._latest.values(metric)[self._rows].astype(np.float64)
        column[~self.present] = np.nan
        return column

    def only(self, ids: npt.NDArray[np.int32]) -> "Columns":
        """The same table for other subjects."""
        return Columns(self._latest, ids)


@dataclass(frozen=True)
class Grid:
    """The cells of the fleet map in reading order: a node's GPUs, or one host cell for a node without."""

    seats: Sequence[NodeSeat]
    version: str
    gpu_ids: npt.NDArray[np.int32]  # -1 for a host cell
    node_ids: npt.NDArray[np.int32]
    node_index: Ints
    limit_w: Floats
    memory_bytes: Floats
    by_node: Mapping[int, NodeSeat]
    by_gpu: Mapping[int, tuple[NodeSeat, GpuSeat]]

    @property
    def is_gpu(self) -> Flags:
        """Which cells are GPUs."""
        return self.gpu_ids >= 0


def make_grid(seats: Sequence[NodeSeat], version: str) -> Grid:
    """Lay the seats out as cells."""
    cells: list[tuple[int, NodeSeat, GpuSeat | None]] = []
    for position, node in enumerate(seats):
        cells += [(position, node, gpu) for gpu in node.gpus or (None,)]
    nan = float("nan")
    return Grid(
        seats=seats,
        version=version,
        gpu_ids=np.array([gpu.id if gpu else -1 for _, _, gpu in cells], np.int32),
        node_ids=np.array([node.id for _, node, _ in cells], np.int32),
        node_index=np.array([i for i, _, _ in cells], np.int64),
        limit_w=np.array(
            [(gpu.power_limit_max_w or nan) if gpu else nan for _, _, gpu in cells], np.float64
        ),
        memory_bytes=np.array(
            [(gpu.memory_total_bytes or nan) if gpu else nan for _, _, gpu in cells], np.float64
        ),
        by_node={node.id: node for node in seats},
        by_gpu={gpu.id: (node, gpu) for _, node, gpu in cells if gpu},
    )


@dataclass(frozen=True)
class FleetView:
    """Everything a panel may show, at one instant."""

    now_us: int
    grid: Grid
    gpu: Columns  # gpu_sample by cell
    health: Columns  # gpu_health by cell
    host: Columns  # node_sample by node, in seat order
    events: Sequence[EventLine] = ()
    refused: Sequence[Refused] = ()
    energy_today_kwh: float | None = None
    last_heard_us: Mapping[int, int] = field(default_factory=dict)
    trends: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    silent_after_s: int = 20


class Source(Protocol):
    """Where a LiveState reads from; source.Database, or a fake in tests."""

    def seats(self) -> Sequence[NodeSeat]: ...
    def latest(self, table: SampleTable, now: datetime) -> "Feed": ...
    def events(self, now: datetime) -> Sequence[EventLine]: ...
    def refused(self, now: datetime) -> Sequence[Refused]: ...
    def energy_today_kwh(self, now: datetime) -> float | None: ...
    def last_heard_us(self) -> Mapping[int, int]: ...
    def past_trends(self, grid: Grid, now: datetime) -> Mapping[str, Sequence[float | None]]: ...


class Feed(Latest, Protocol):
    """A Latest that takes another process's rows."""

    def apply(self, packed: tuple[bytes, bytes, bytes]) -> object: ...


@dataclass
class _Timed:
    """When a part was read last, in µs; a part is read again when it is older than it may be, or marked dirty."""

    at_us: int = 0

    def due(self, now_us: int, every_s: float) -> bool:
        if now_us - self.at_us < every_s * 1_000_000:
            return False
        self.at_us = now_us
        return True


class LiveState:
    """The parts a FleetView is made of, each read again when due. Safe to call from any thread."""

    def __init__(
        self,
        source: Source,
        silent_after_s: int,
        totals: Callable[[FleetView], Mapping[str, float | None]],
    ) -> None:
        self._source = source
        self._silent_after_s = silent_after_s
        self._totals = totals
        self._lock = threading.Lock()
        self._read = {
            part: _Timed() for part in ("seats", "tables", "events", "refused", "energy")
        }
        self._fed_us = 0
        self._clock_us = 0
        self._grid = make_grid([], "")
        self._tables: dict[int, Feed] = {}
        self._events: Sequence[EventLine] = ()
        self._refused: Sequence[Refused] = ()
        self._energy: float | None = None
        self._last_heard: Mapping[int, int] = {}
        self._trends: dict[str, deque[float | None]] = {}
        self._trend_second = 0
        self._view: FleetView | None = None

    def apply(self, event: LiveEvent) -> None:
        """Take what another process, or this one, stored."""
        with self._lock:
            if isinstance(event, SamplesStored):
                self._fed_us = self._clock_us
                self._view = None
                for code, packed in event.tables.items():
                    if code in self._tables:
                        self._tables[code].apply(packed)
            elif isinstance(event, EventsStored):
                self._read["events"].at_us = 0
            else:
                self._read["seats"].at_us = 0

    def view(self, now: datetime) -> FleetView:
        """The fleet now; the same object for calls within half a second."""
        now_us = round(now.timestamp() * 1_000_000)
        with self._lock:
            if self._view is None or now_us - self._view.now_us >= 500_000:
                self._refresh(now, now_us)
                self._view = self._make_view(now_us)
                self._remember(self._view, now)
            return replace(
                self._view, trends={name: list(points) for name, points in self._trends.items()}
            )

    def _refresh(self, now: datetime, now_us: int) -> None:
        self._clock_us = now_us
        if self._read["seats"].due(now_us, SEATS_EVERY_S):
            seats = self._source.seats()
            self._grid = make_grid(seats, _version(seats))
            self._last_heard = self._source.last_heard_us()
        # While live events arrive the tables need no reading; without any (another process layout, Redis away) they do.
        if not self._tables or (
            now_us - self._fed_us > FED_WITHIN_US
            and self._read["tables"].due(now_us, TABLES_EVERY_S)
        ):
            self._read["tables"].at_us = now_us
            self._tables = {table.code: self._source.latest(table, now) for table in TABLES}
        if self._read["events"].due(now_us, EVENTS_EVERY_S):
            self._events = self._source.events(now)
        if self._read["refused"].due(now_us, EVENTS_EVERY_S):
            self._refused = self._source.refused(now)
        if self._read["energy"].due(now_us, ENERGY_EVERY_S):
            self._energy = self._source.energy_today_kwh(now)

    def _make_view(self, now_us: int) -> FleetView:
        grid = self._grid
        return FleetView(
            now_us=now_us,
            grid=grid,
            gpu=Columns(self._tables[GPU_SAMPLE.code], grid.gpu_ids),
            health=Columns(self._tables[GPU_HEALTH.code], grid.gpu_ids),
            host=Columns(
                self._tables[NODE_SAMPLE.code],
                np.array([node.id for node in grid.seats], np.int32),
            ),
            events=self._events,
            refused=self._refused,
            energy_today_kwh=self._energy,
            last_heard_us=self._last_heard,
            silent_after_s=self._silent_after_s,
        )

    def _remember(self, view: FleetView, now: datetime) -> None:
        """Add this second to the trends; seconds nobody computed are gaps, those before the start come from the database."""
        second = view.now_us // 1_000_000
        if not self._trend_second:
            past = self._source.past_trends(self._grid, now)
            self._trends = {name: deque(points, maxlen=TREND_S) for name, points in past.items()}
        missed = min(TREND_S, second - self._trend_second - 1) if self._trend_second else 0
        if second == self._trend_second:
            return
        self._trend_second = second
        for name, value in self._totals(view).items():
            points = self._trends.setdefault(name, deque(maxlen=TREND_S))
            points.extend([None] * missed)
            points.append(None if value is None else float(f"{value:.5g}"))


def _version(seats: Sequence[NodeSeat]) -> str:
    """Short digest of all that the map's layout shows."""
    shown = [
        (n.name, n.state, n.simulated, [(g.id, g.index, g.model) for g in n.gpus]) for n in seats
    ]
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:12]
