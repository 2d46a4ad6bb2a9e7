"""A fleet of the mind: seats and newest rows, without a database."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from dashboards.live_state import Columns, FleetView, make_grid
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, NODE_SAMPLE, TABLES
from dcops.telemetry.latest import Latest
from dcops.telemetry.rows import table_dtype

NOW_US = 1_800_000_000_000_000
LIMIT_W = 700.0


def node(pk, name, gpus=0, state="approved", simulated=False):
    seats = [
        SimpleNamespace(
            id=pk * 100 + i,
            uuid=f"GPU-{name}-{i}",
            index=i,
            model="H100",
            power_limit_max_w=LIMIT_W,
            memory_total_bytes=80 << 30,
        )
        for i in range(gpus)
    ]
    return SimpleNamespace(
        id=pk, uuid=f"uuid-{pk}", name=name, state=state, simulated=simulated, gpus=seats
    )


def put(latest, subject, at_us, **readings):
    """One newest row; metrics not named are missing."""
    row = np.zeros(1, table_dtype(latest.table))
    present = 0
    for name, value in readings.items():
        row[name] = value
        present |= 1 << latest.table.names.index(name)
    row["present"] = present
    latest.update(np.array([subject], np.int32), np.array([at_us], np.int64), row)


@dataclass
class Fleet:
    """Seats, tables and events that become a FleetView."""

    seats: list
    tables: dict = field(default_factory=lambda: {table.name: Latest(table) for table in TABLES})
    events: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    last_heard_us: dict = field(default_factory=dict)

    def gpu(self, pk, age_s=0, **readings):
        put(self.tables["gpu_sample"], pk, NOW_US - age_s * 1_000_000, **readings)

    def health(self, pk, **readings):
        put(self.tables["gpu_health"], pk, NOW_US, **readings)

    def host(self, pk, age_s=0, **readings):
        put(self.tables["node_sample"], pk, NOW_US - age_s * 1_000_000, **readings)

    def view(self, **more):
        grid = make_grid(self.seats, "v1")
        hosts = np.array([seat.id for seat in self.seats], np.int32)
        return FleetView(
            now_us=NOW_US,
            grid=grid,
            gpu=Columns(self.tables[GPU_SAMPLE.name], grid.gpu_ids),
            health=Columns(self.tables[GPU_HEALTH.name], grid.gpu_ids),
            host=Columns(self.tables[NODE_SAMPLE.name], hosts),
            events=self.events,
            refused=self.refused,
            last_heard_us=self.last_heard_us,
            **more,
        )
