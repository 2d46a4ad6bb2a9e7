"""The same contract on the scripted driver and on the C stub; the stub also proves the way through ctypes."""

import pytest

from agents.collector import Collector
from agents.ports import Want
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE
from tests.contract.gpu_source import EVERYTHING, GpuSourceContract, read
from tests.fakes import node, stub

GIB = 1 << 30


class TestScripted(GpuSourceContract):
    @pytest.fixture(scope="class")
    @classmethod
    def command(cls, tmp_path_factory):
        return node.scripted("steady", tmp_path_factory.mktemp("scripted"), 3)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return stub.build(tmp_path_factory.mktemp("stub"))


@pytest.mark.needs_cc
class TestStub(GpuSourceContract):
    @pytest.fixture(scope="class")
    @classmethod
    def command(cls, library):
        return stub.child(library)

    def test_every_kind_of_answer_comes_through_ctypes(self, report):
        sample = dict(zip(GPU_SAMPLE.names, report.sample["GPU-stub-1"], strict=True))
        assert sample["utilization_percent"] == 87
        assert sample["memory_reserved_bytes"] == GIB
        assert sample["memory_used_bytes"] == 59 * GIB
        assert sample["power_average_w"] == 250.5, "a double in the union"
        assert sample["memory_temperature_c"] == 63, "an unsigned int in the union"
        assert sample["clock_event_reasons"] == 0x20, "by the older name of the call"
        assert sample["sm_active_ratio"] == 0.25
        health = dict(zip(GPU_HEALTH.names, report.health["GPU-stub-1"], strict=True))
        assert health["throttle_board_ns"] == 3_000_000
        assert (health["fabric_state"], health["fabric_health_mask"]) == (3, 5)
        assert health["pcie_replays"] == 5
        assert health["compute_processes"] == 1

    def test_missing_functions_and_sentinels_are_none(self, report):
        sample = dict(zip(GPU_SAMPLE.names, report.sample["GPU-stub-0"], strict=True))
        assert sample["memory_utilization_percent"] is None, "all ones"
        assert sample["energy_mj"] is None, "DCGM's blank"
        assert sample["fan_speed_percent"] is None, "not in the library"
        assert sample["pcie_tx_bytes_per_s"] is None
        assert report.identities[0].serial == ""
        assert report.identities[0].ecc_enabled is None
        assert "kernel log" in report.findings[0].message, "the stub has no event set"


@pytest.mark.needs_cc
async def test_a_gpu_of_the_stub_gets_lost(library):
    first, second = await read(stub.child(library, STUB_LOSE_AFTER=2), EVERYTHING, EVERYTHING)
    assert first.uuids == ["GPU-stub-0", "GPU-stub-1"]
    assert second.uuids == ["GPU-stub-0"]
    assert list(second.lost) == ["GPU-stub-1"]


@pytest.mark.needs_cc
async def test_a_call_into_the_stub_that_never_returns_is_given_up(library):
    collector = Collector(0.3, stub.child(library, STUB_HANG_AFTER=2))
    try:
        assert (await collector.read(Want(sample=True))).problem is None
        assert "hung" in (await collector.read(Want(sample=True))).problem.message
    finally:
        await collector.close()


@pytest.mark.needs_cc
@pytest.mark.parametrize(
    ("code", "word"), [(9, "modprobe"), (18, "version"), (999, "does not work")]
)
async def test_a_driver_that_does_not_start_is_explained(library, code, word):
    (report,) = await read(stub.child(library, STUB_INIT=code), EVERYTHING)
    assert word in report.problem.message
