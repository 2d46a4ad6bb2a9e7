"""The NVML adapter against a driver that answers from a script, with the failures that real ones show."""

import pytest

from agents.adapters.nvml import RETRY_LOST_S, Nvml
from agents.adapters.nvml_device import REST_S
from agents.ports import Want
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE
from tests.fakes.nvml import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    LIBRARY_NOT_FOUND,
    NOT_SUPPORTED,
    UINT,
    ULL,
    UNINITIALIZED,
    VERSION_MISMATCH,
    Answer,
    NvmlFailure,
    ScriptedNvml,
    filled,
)

SAMPLE = Want(sample=True)
HEALTH = Want(health=True)
EVERYTHING = Want(sample=True, health=True, processes=True, inventory=True)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def api():
    return ScriptedNvml(gpus=2)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def nvml(api, clock):
    api.refuse("nvmlEventSetCreate", NOT_SUPPORTED)
    source = Nvml(api, clock)
    yield source
    source.close()


def sample(report, index=0):
    return dict(zip(GPU_SAMPLE.names, report.sample[report.uuids[index]], strict=True))


def health(report, index=0):
    return dict(zip(GPU_HEALTH.names, report.health[report.uuids[index]], strict=True))


def older(gpu):
    """An Ampere GPU (not GA100): no GPM, none of the newer fields."""
    gpu.gpm = {}
    gpu.fields = {
        (number, scope): value
        for (number, scope), value in gpu.fields.items()
        if number in (82, 83, 91)
    }
    gpu.answers["nvmlDeviceGetCudaComputeCapability"] = (8, 6)


class TestSample:
    def test_units_are_those_of_the_registry(self, nvml, clock):
        nvml.read(SAMPLE)
        clock.now += 1
        readings = sample(nvml.read(SAMPLE))
        assert readings["power_average_w"] == pytest.approx(612.345)
        assert readings["power_instant_w"] == pytest.approx(645.21)
        assert readings["power_limit_w"] == 700
        assert readings["energy_mj"] == 123_456_789_012
        assert readings["sm_active_ratio"] == pytest.approx(0.9125)
        assert readings["pcie_tx_bytes_per_s"] == 512 * 2**20
        assert readings["nvlink_rx_bytes_per_s"] == 90_000 * 2**20
        assert (readings["sm_clock_mhz"], readings["memory_clock_mhz"]) == (1980, 2619)

    def test_activity_needs_two_readings_and_is_none_before(self, nvml, clock):
        assert sample(nvml.read(SAMPLE))["sm_active_ratio"] is None
        clock.now += 1
        assert sample(nvml.read(SAMPLE))["sm_active_ratio"] is not None

    def test_what_is_not_supported_is_none_and_never_zero(self, nvml, api):
        for gpu in api.gpus:
            gpu.answers = {"nvmlDeviceGetTemperature": lambda _sensor: 40}
            gpu.fields, gpu.gpm = {}, {}
        readings = sample(nvml.read(SAMPLE))
        assert readings.pop("temperature_c") == 40
        assert set(readings.values()) == {None}

    def test_a_refused_call_rests_and_is_tried_again_later(self, nvml, api, clock):
        api.record_calls = True
        nvml.read(SAMPLE)
        api.calls.clear()
        nvml.read(SAMPLE)
        assert "nvmlDeviceGetFanSpeed" not in api.calls
        clock.now += REST_S
        api.gpus[0].answers["nvmlDeviceGetFanSpeed"] = 30
        assert sample(nvml.read(SAMPLE))["fan_speed_percent"] == 30

    def test_a_passing_failure_does_not_rest(self, nvml, api):
        api.gpus[0].answers["nvmlDeviceGetPerformanceState"] = NvmlFailure(999)
        assert sample(nvml.read(SAMPLE))["performance_state"] is None
        api.gpus[0].answers["nvmlDeviceGetPerformanceState"] = 2
        assert sample(nvml.read(SAMPLE))["performance_state"] == 2

    @pytest.mark.parametrize(
        ("field", "value", "metric"),
        [
            ((83, 0), (ULL, 9223372036854775794), "energy_mj"),
            ((83, 0), (ULL, 2**64 - 1), "energy_mj"),
            ((185, 0), (UINT, 2**32 - 1), "power_average_w"),
            ((82, 0), (UINT, 0x7FFFFFF0), "memory_temperature_c"),
            ((82, 0), (UINT, 0), "memory_temperature_c"),
        ],
    )
    def test_a_sentinel_is_none(self, nvml, api, field, value, metric):
        api.gpus[0].fields[field] = value
        api.refuse("nvmlDeviceGetTotalEnergyConsumption", NOT_SUPPORTED)
        assert sample(nvml.read(SAMPLE))[metric] is None

    def test_an_absurd_utilization_is_none(self, nvml, api):
        api.gpus[0].answers["nvmlDeviceGetUtilizationRates"] = Answer(gpu=4_294_967_295, memory=3)
        readings = sample(nvml.read(SAMPLE))
        assert (readings["utilization_percent"], readings["memory_utilization_percent"]) == (
            None,
            3,
        )

    @pytest.mark.parametrize(
        ("capability", "metric"),
        [
            ((8, 6), "power_average_w"),
            ((9, 0), "power_average_w"),
            ((8, 0), "power_instant_w"),
            ((7, 0), "power_instant_w"),
        ],
    )
    def test_power_says_whether_it_is_an_average(self, nvml, api, capability, metric):
        older(api.gpus[0])
        api.gpus[0].answers["nvmlDeviceGetCudaComputeCapability"] = capability
        readings = sample(nvml.read(SAMPLE))
        powers = {name: readings[name] for name in ("power_average_w", "power_instant_w")}
        other = ({*powers} - {metric}).pop()
        assert powers[metric] == pytest.approx(612.345)
        assert powers[other] is None

    def test_memory_of_an_old_driver_has_no_reserved_part(self, nvml, api):
        api.refuse("nvmlDeviceGetMemoryInfo_v2", FUNCTION_NOT_FOUND)
        api.gpus[0].answers["nvmlDeviceGetMemoryInfo_v2"] = NvmlFailure(FUNCTION_NOT_FOUND)
        readings = sample(nvml.read(SAMPLE))
        assert readings["memory_used_bytes"] == 70_620_809_984
        assert readings["memory_reserved_bytes"] is None

    def test_without_gpm_traffic_comes_from_counters(self, nvml, api, clock):
        gpu = api.gpus[0]
        older(gpu)
        everything = 2**32 - 1
        gpu.fields |= {(197, 0): (ULL, 1000), (138, everything): (ULL, 10)}
        assert sample(nvml.read(SAMPLE))["pcie_tx_bytes_per_s"] is None
        clock.now += 2
        gpu.fields |= {(197, 0): (ULL, 5000), (138, everything): (ULL, 14)}
        readings = sample(nvml.read(SAMPLE))
        assert readings["pcie_tx_bytes_per_s"] == 2000
        assert readings["nvlink_tx_bytes_per_s"] == 2 * 1024

    def test_a_counter_that_went_backwards_gives_no_rate(self, nvml, api, clock):
        older(api.gpus[0])
        api.gpus[0].fields[197, 0] = (ULL, 5000)
        nvml.read(SAMPLE)
        clock.now += 1
        api.gpus[0].fields[197, 0] = (ULL, 10)
        assert sample(nvml.read(SAMPLE))["pcie_tx_bytes_per_s"] is None

    def test_the_slow_pcie_call_is_made_only_with_the_health_counters(self, nvml, api):
        older(api.gpus[0])
        api.gpus[0].answers["nvmlDeviceGetPcieThroughput"] = lambda _direction: 250
        assert sample(nvml.read(SAMPLE))["pcie_tx_bytes_per_s"] is None
        both = nvml.read(Want(sample=True, health=True))
        assert sample(both)["pcie_tx_bytes_per_s"] == 250_000


class TestHealth:
    def test_counters(self, nvml):
        readings = health(nvml.read(HEALTH))
        assert readings["throttle_power_ns"] == 1_000_000
        assert readings["throttle_reliability_ns"] == 6_000_000
        assert readings["ecc_corrected_volatile"] == 7
        assert readings["ecc_uncorrected_aggregate"] == 1
        assert readings["rows_remapped_correctable"] == 1
        assert readings["pcie_replays"] == 2
        assert readings["recovery_action"] == 0
        assert readings["fabric_state"] == 3
        assert readings["compute_processes"] == 1

    def test_links_are_counted_and_their_errors_summed(self, nvml):
        readings = health(nvml.read(HEALTH))
        assert readings["nvlink_active_links"] == 18
        assert readings["nvlink_replay_errors"] == 18

    def test_a_total_of_all_links_wins_over_the_sum(self, nvml, api):
        api.gpus[0].fields[52, 0] = (ULL, 5)
        assert health(nvml.read(HEALTH))["nvlink_replay_errors"] == 5

    def test_a_gpu_without_links_has_none_rather_than_zero(self, nvml, api):
        api.gpus[0].links = 0
        readings = health(nvml.read(HEALTH))
        assert readings["nvlink_active_links"] is None
        assert readings["nvlink_crc_errors"] is None

    def test_a_gpu_without_a_fabric_has_no_fabric_state(self, nvml, api):
        api.gpus[0].answers["nvmlDeviceGetGpuFabricInfoV"] = filled(state=0)
        assert health(nvml.read(HEALTH))["fabric_state"] is None

    def test_older_calls_fill_in_what_fields_do_not_give(self, nvml, api):
        older(api.gpus[0])
        api.gpus[0].answers |= {
            "nvmlDeviceGetTotalEccErrors": lambda error, counter: 10 * error + counter,
            "nvmlDeviceGetRemappedRows": lambda: (1, 2, 0, 1),
            "nvmlDeviceGetPcieReplayCounter": 4,
        }
        readings = health(nvml.read(HEALTH))
        assert readings["ecc_uncorrected_aggregate"] == 11
        assert readings["rows_remapped_uncorrectable"] == 2
        assert readings["row_remap_failure"] == 1
        assert readings["pcie_replays"] == 4

    def test_all_ones_in_a_counter_that_could_hold_them_are_none(self, nvml, api):
        api.gpus[0].fields[94, 0] = (UINT, 2**32 - 1)
        assert health(nvml.read(HEALTH))["pcie_replays"] is None


class TestLoss:
    def test_a_lost_gpu_is_absent_and_the_others_go_on(self, nvml, api):
        before = nvml.read(SAMPLE)
        api.gpus[0].lost = True
        report = nvml.read(SAMPLE)
        assert report.uuids == [api.gpus[1].uuid]
        assert set(report.sample) == {api.gpus[1].uuid}
        assert list(report.lost) == [before.uuids[0]]
        assert "lost" in report.lost[before.uuids[0]]

    def test_a_lost_gpu_is_not_touched_again_until_a_new_session(self, nvml, api, clock):
        nvml.read(SAMPLE)
        api.gpus[0].lost = True
        nvml.read(SAMPLE)
        sessions = api.sessions
        nvml.read(SAMPLE)
        assert api.sessions == sessions
        api.gpus[0].lost = False
        assert len(nvml.read(SAMPLE).uuids) == 1
        clock.now += RETRY_LOST_S
        nvml.read(SAMPLE)
        report = nvml.read(SAMPLE)
        assert api.sessions == sessions + 1
        assert len(report.uuids) == 2
        assert report.lost == {}

    def test_a_gpu_that_the_driver_no_longer_lists_is_reported_lost(self, nvml, api):
        nvml.read(SAMPLE)
        gone = api.gpus[1].uuid
        api.reload(api.gpus[:1])
        nvml.read(SAMPLE)
        report = nvml.read(SAMPLE)
        assert report.lost == {gone: "the driver no longer lists it"}

    def test_a_gpu_that_gives_no_handle_at_start_does_not_stop_the_others(self, nvml, api):
        api.gpus[0].lost = True
        assert nvml.read(SAMPLE).uuids == [api.gpus[1].uuid]

    def test_a_driver_that_unloads_is_a_problem_and_comes_back_with_new_handles(self, nvml, api):
        nvml.read(SAMPLE)
        api.reload()
        report = nvml.read(SAMPLE)
        assert report.uuids == []
        assert report.problem.status == "failed"
        after = nvml.read(SAMPLE)
        assert len(after.sample) == 2
        assert after.problem is None
        assert after.identities is not None

    def test_swapped_indexes_do_not_swap_the_gpus(self, nvml, api):
        first, second = api.gpus
        first.answers["nvmlDeviceGetTemperature"] = lambda _sensor: 41
        second.answers["nvmlDeviceGetTemperature"] = lambda _sensor: 42
        nvml.read(SAMPLE)
        api.reload([second, first])
        nvml.read(SAMPLE)
        report = nvml.read(SAMPLE)
        assert report.uuids == [second.uuid, first.uuid]
        temperatures = {
            uuid: row[GPU_SAMPLE.names.index("temperature_c")]
            for uuid, row in report.sample.items()
        }
        assert temperatures == {first.uuid: 41, second.uuid: 42}

    @pytest.mark.parametrize(
        ("code", "status", "word"),
        [
            (LIBRARY_NOT_FOUND, "missing", "libnvidia-ml"),
            (DRIVER_NOT_LOADED, "failed", "modprobe"),
            (VERSION_MISMATCH, "failed", "differ in version"),
            (999, "failed", "does not work"),
        ],
    )
    def test_no_driver_is_said_in_plain_words(self, nvml, api, code, status, word):
        api.refuse("nvmlInit", code)
        problem = nvml.read(SAMPLE).problem
        assert problem.status == status
        assert word in problem.message

    @pytest.mark.parametrize("code", [UNINITIALIZED, GPU_IS_LOST])
    def test_no_failure_of_any_call_is_raised(self, api, clock, code):
        recording = ScriptedNvml(gpus=1)
        recording.record_calls = True
        Nvml(recording, clock).read(EVERYTHING)
        for name in sorted(set(recording.calls)):
            broken = ScriptedNvml(gpus=1)
            broken.refuse(name, code)
            source = Nvml(broken, clock)
            for _ in range(2):
                report = source.read(EVERYTHING)
                assert report.uuids or report.problem or report.lost or name.startswith("nvml")
            source.close()


class TestIdentity:
    def test_who_it_is(self, nvml):
        gpu = nvml.read(Want(inventory=True)).identities[1]
        assert gpu.index == 1
        assert gpu.model == "NVIDIA H100 80GB HBM3"
        assert gpu.serial == "1653000000001"
        assert gpu.pci_bus_id == "00000000:2B:00.0"
        assert (gpu.power_limit_min_w, gpu.power_limit_max_w) == (200, 700)
        assert (gpu.temperature_shutdown_c, gpu.temperature_slowdown_c) == (92, 89)
        assert (gpu.ecc_enabled, gpu.mig_mode) == (True, False)
        assert gpu.compute_capability == "9.0"

    def test_it_comes_unasked_with_a_new_session_only(self, nvml):
        assert nvml.read(SAMPLE).identities is not None
        assert nvml.read(SAMPLE).identities is None

    def test_unknown_is_none_or_empty(self, nvml, api):
        api.gpus[0].answers = {}
        gpu = nvml.read(Want(inventory=True)).identities[0]
        assert (gpu.serial, gpu.memory_total_bytes, gpu.ecc_enabled) == ("", None, None)

    def test_driver_versions(self, nvml):
        driver = nvml.read(SAMPLE).driver
        assert (driver.driver_version, driver.cuda_version) == ("580.65.06", "13.0")

    def test_mig_devices_are_listed_by_uuid(self, nvml, api):
        instance = ScriptedNvml(1).gpus[0]
        instance.uuid = "MIG-1"
        api.gpus.append(instance)
        api.gpus[0].answers |= {
            "nvmlDeviceGetMigMode": [1, 1],
            "nvmlDeviceGetMaxMigDeviceCount": 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": lambda index: (
                instance if index == 0 else NvmlFailure(NOT_SUPPORTED)
            ),
        }
        gpu = nvml.read(Want(inventory=True)).identities[0]
        assert gpu.mig_mode is True
        assert gpu.mig_devices[0] == "MIG-1"

    def test_processes_name_their_gpu_user_and_memory(self, nvml, api):
        import os

        api.gpus[1].answers["nvmlDeviceGetComputeRunningProcesses_v3"] = lambda: [
            Answer(pid=os.getpid(), usedGpuMemory=2**64 - 1)
        ]
        processes = nvml.read(Want(processes=True)).processes
        ours = next(process for process in processes if process.pid == os.getpid())
        assert ours.gpu_uuid == api.gpus[1].uuid
        assert ours.name
        assert ours.user
        assert ours.memory_used_bytes is None


class TestFindings:
    def test_they_name_the_metrics_that_are_missing(self, nvml, clock):
        nvml.read(EVERYTHING)
        clock.now += 1
        finding = nvml.read(EVERYTHING).findings[0]
        assert "fan_speed_percent" in finding.message
        assert "temperature_c," not in finding.message

    def test_a_gpu_without_events_says_where_xids_come_from(self, nvml, clock):
        nvml.read(EVERYTHING)
        clock.now += 1
        assert "kernel log" in nvml.read(EVERYTHING).findings[0].message
