"""What the hall packs is what the wire says, and lies within what a sane device reports."""

import struct

import numpy as np
import pytest

from agents.sim import generate
from agents.sim.catalog import A100, H100
from agents.sim.physics import Block, Place
from agents.sim.plan import inventory, lay_out, node_name
from agents.sim.records import Packer
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, NODE_SAMPLE, TABLE_BY_CODE, TABLES
from dcops.wire.rows import ROW, Section, split_sections

ROW_BYTES = {table.code: ROW[table.name].size for table in TABLES}
NOON_US = 1_767_268_800_000_000


def read(section: Section) -> list[tuple[int, dict[str, float | None]]]:
    """Decode a section with struct alone: (subject, readings by name, None where absent)."""
    table = TABLE_BY_CODE[section.table_code]
    rows = []
    for subject, present, *fields in struct.iter_unpack(ROW[table.name].format, section.rows):
        rows.append(
            (
                subject,
                {
                    n: v if present >> i & 1 else None
                    for i, (n, v) in enumerate(zip(table.names, fields, strict=True))
                },
            )
        )
    return rows


def packed(model=H100, gpus: int = 4) -> tuple[Block, Packer]:
    block = Block([model, model], [Place(0, 0), Place(0, 1)], gpus, seed=(1,), xids_per_gpu_hour=0)
    return block, Packer(block, np.array([True, False]))


def test_a_record_reads_back_as_the_wire_defines_it():
    block, packer = packed()
    block.step(1.0, NOON_US / 1e6)
    records = packer.pack(NOON_US, np.array([True, False]))
    with_health, without = (list(split_sections(record, ROW_BYTES)) for record in records)
    assert [s.table_code for s in with_health] == [
        GPU_SAMPLE.code,
        NODE_SAMPLE.code,
        GPU_HEALTH.code,
    ]
    assert [s.table_code for s in without] == [GPU_SAMPLE.code, NODE_SAMPLE.code]
    assert {s.at_us for s in with_health} == {NOON_US}
    rows = read(with_health[0])
    assert [subject for subject, _ in rows] == [0, 1, 2, 3]
    assert rows[2][1]["power_average_w"] == pytest.approx(float(block.power_w[0, 2]), rel=1e-6)
    assert rows[2][1]["energy_mj"] == int(block.energy_mj[0, 2])


def test_what_a_board_lacks_is_absent_and_not_zero():
    block, packer = packed(A100)
    block.step(1.0, NOON_US / 1e6)
    record = packer.pack(NOON_US, np.array([False, False]))
    readings = read(next(split_sections(record[0], ROW_BYTES)))[0][1]
    assert readings["tensor_active_ratio"] is None
    assert readings["fan_speed_percent"] is None
    assert readings["temperature_c"] is not None
    hosts = [read(list(split_sections(r, ROW_BYTES))[1])[0][1] for r in record]
    assert hosts[0]["infiniband_rx_bytes_per_s"] is not None
    assert hosts[1]["infiniband_rx_bytes_per_s"] is None


def test_a_lost_gpu_has_no_row():
    block, packer = packed()
    block.suffer(1, 2, 79)
    block.step(1.0, NOON_US / 1e6)
    sections = list(split_sections(packer.pack(NOON_US, np.array([True, True]))[1], ROW_BYTES))
    gpu_rows = [read(s) for s in sections if s.table_code in (GPU_SAMPLE.code, GPU_HEALTH.code)]
    assert [[subject for subject, _ in rows] for rows in gpu_rows] == [[0, 1, 3], [0, 1, 3]]


def test_every_reading_is_one_a_sane_device_reports():
    made = generate(nodes=12, gpus=8, ticks=200, seed=5)
    seen = 0
    for tick in made.payloads[::20]:
        for record in tick:
            for section in split_sections(record, ROW_BYTES):
                table = TABLE_BY_CODE[section.table_code]
                for _, readings in read(section):
                    for metric in table.metrics:
                        value = readings[metric.name]
                        if value is not None:
                            seen += 1
                            assert metric.minimum <= value <= metric.maximum, (metric.name, value)
    assert seen > 10_000


def test_generated_columns_are_the_values_in_the_records():
    made = generate(nodes=3, gpus=2, ticks=5, seed=9)
    rows = read(next(split_sections(made.payloads[4][2], ROW_BYTES)))
    for gpu, readings in rows:
        for name, column in made.columns.items():
            if readings[name] is not None:
                assert readings[name] == column[4, 2, gpu], name


def test_the_same_seed_gives_the_same_bytes():
    assert generate(3, 2, 10, 1).payloads == generate(3, 2, 10, 1).payloads
    assert generate(3, 2, 10, 1).payloads != generate(3, 2, 10, 2).payloads


def test_a_name_says_where_a_node_stands():
    assert [node_name(i) for i in (0, 3, 4, 99, 100, 26 * 100)] == [
        "hall-a01-n01",
        "hall-a01-n04",
        "hall-a02-n01",
        "hall-a25-n04",
        "hall-b01-n01",
        "hall-aa01-n01",
    ]


def test_names_and_gpu_uuids_are_unique_and_differ_between_halls():
    here, there = lay_out(300, 8, seed=1, salt="here"), lay_out(300, 8, seed=1, salt="there")
    assert len({n.name for n in here}) == 300
    uuids = {u for hall in (here, there) for n in hall for u in n.gpu_uuids}
    assert len(uuids) == 2 * 300 * 8


def test_an_inventory_lists_the_gpus_in_order():
    node = lay_out(1, 8, seed=1)[0]
    found = inventory(node)
    assert [g.uuid for g in found.gpus] == list(node.gpu_uuids)
    assert [g.index for g in found.gpus] == list(range(8))
    assert len({g.pci_bus_id for g in found.gpus}) == 8
    assert found.host.details["simulated"] == "yes"
