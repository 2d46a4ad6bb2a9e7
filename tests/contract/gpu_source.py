"""What holds of every source of GPU readings: the scripted driver, the C stub, and a real GPU.

A subclass gives the fixture `command`: the collector's child to start.
"""

import asyncio

import pytest

from agents.collector import Collector
from agents.ports import Want
from agents.sampler import gpu_sections
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, TABLES
from dcops.wire import rows

EVERYTHING = Want(sample=True, health=True, processes=True, inventory=True)
ROW_BYTES = {table.code: rows.ROW[table.name].size for table in TABLES}


async def read(command, *wants):
    """Read once for each want, in one child. Returns the reports."""
    collector = Collector(60.0, command)
    try:
        return [await collector.read(want) for want in wants]
    finally:
        await collector.close()


class GpuSourceContract:
    """Read twice for all of a class: starting a driver is slow."""

    @pytest.fixture(scope="class")
    @classmethod
    def reports(cls, command):
        return asyncio.run(read(command, EVERYTHING, EVERYTHING))

    @pytest.fixture
    def report(self, reports):
        return reports[1]

    def test_it_finds_gpus_by_unique_names(self, report):
        assert report.problem is None
        assert report.uuids
        assert len(set(report.uuids)) == len(report.uuids)
        assert all(uuid.startswith("GPU-") for uuid in report.uuids)

    def test_the_order_of_gpus_stays(self, reports):
        assert reports[0].uuids == reports[1].uuids

    def test_every_gpu_has_a_full_row_of_each_table(self, report):
        for table, readings in ((GPU_SAMPLE, report.sample), (GPU_HEALTH, report.health)):
            assert set(readings) == set(report.uuids)
            assert {len(row) for row in readings.values()} == {len(table.metrics)}

    def test_every_reading_is_missing_or_within_its_bounds(self, report):
        for table, readings in ((GPU_SAMPLE, report.sample), (GPU_HEALTH, report.health)):
            for row in readings.values():
                for metric, value in zip(table.metrics, row, strict=True):
                    assert value is None or metric.minimum <= value <= metric.maximum, metric.name

    def test_the_essentials_are_read(self, report):
        for row in report.sample.values():
            named = dict(zip(GPU_SAMPLE.names, row, strict=True))
            for name in ("temperature_c", "memory_used_bytes", "sm_clock_mhz"):
                assert named[name] is not None, name

    def test_counters_do_not_run_backwards(self, reports):
        first, second = reports
        for position, metric in enumerate(GPU_HEALTH.metrics):
            if metric.kind != "counter":
                continue
            for uuid in second.uuids:
                before, after = first.health[uuid][position], second.health[uuid][position]
                assert before is None or after is None or after >= before, metric.name

    def test_it_packs_into_a_record_and_back(self, report):
        found = list(rows.split_sections(gpu_sections(report, 1), ROW_BYTES))
        assert [section.row_count for section in found] == [len(report.uuids)] * 2

    def test_identities_are_complete(self, report):
        assert [gpu.uuid for gpu in report.identities] == report.uuids
        for gpu in report.identities:
            assert gpu.model
            assert gpu.pci_bus_id
            assert gpu.memory_total_bytes
        assert report.driver.driver_version

    def test_processes_belong_to_the_gpus(self, report):
        assert report.processes is not None
        assert {process.gpu_uuid for process in report.processes} <= set(report.uuids)

    def test_findings_name_each_gpu(self, report):
        assert len(report.findings) == len(report.uuids)
