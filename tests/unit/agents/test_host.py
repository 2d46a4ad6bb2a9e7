"""The host, read from a tree of files instead of a machine."""

import os

import pytest

from agents.adapters.host import RESCAN_S, SLOW_S, Host
from agents.ports import Driver
from dcops.domain.metrics import NODE_SAMPLE


class Machine:
    """A tree in the shape of /proc and /sys, and a clock."""

    def __init__(self, root):
        self.root, self.now = root, 1000.0
        self.host = Host(root, lambda: self.now)

    def put(self, path, text):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # In place, as the kernel does: the agent keeps these files open.
        with target.open("r+" if target.exists() else "w") as file:
            file.truncate(0)
            file.write(str(text))

    def read(self, after_s=1.0):
        self.now += after_s
        return dict(zip(NODE_SAMPLE.names, self.host.sample(), strict=True))

    def findings(self):
        return {finding.subject: finding for finding in self.host.findings()}


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def stat(user=0, idle=0, iowait=0, blocked=0):
    return f"cpu  {user} 0 0 {idle} {iowait} 0 0 0 0 0\ncpu0 1 2 3\nprocs_running 1\nprocs_blocked {blocked}\n"


def test_an_empty_machine_gives_only_none(machine):
    readings = machine.read()
    readings.pop("root_disk_used_percent")
    assert set(readings.values()) == {None}


class TestCpuAndMemory:
    def test_shares_are_of_the_time_between_two_samples(self, machine):
        machine.put("proc/stat", stat(user=100, idle=900))
        assert machine.read()["cpu_percent"] is None
        machine.put("proc/stat", stat(user=130, idle=960, iowait=10, blocked=3))
        readings = machine.read()
        assert readings["cpu_percent"] == pytest.approx(30)
        assert readings["cpu_iowait_percent"] == pytest.approx(10)
        assert readings["processes_blocked"] == 3

    def test_idle_time_that_steps_back_gives_no_share_beyond_100(self, machine):
        machine.put("proc/stat", stat(user=100, idle=900))
        machine.read()
        machine.put("proc/stat", stat(user=200, idle=890))
        assert machine.read()["cpu_percent"] == 100

    def test_a_stat_longer_than_one_read_is_read_to_its_end(self, machine):
        long = stat(blocked=7).replace(
            "procs_running", "intr " + "0 " * 60_000 + "\nprocs_running"
        )
        machine.put("proc/stat", long)
        assert machine.read()["processes_blocked"] == 7

    def test_memory(self, machine):
        machine.put(
            "proc/meminfo",
            "MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\n",
        )
        readings = machine.read()
        assert readings["memory_used_bytes"] == 600 * 1024
        assert readings["memory_available_bytes"] == 400 * 1024
        assert readings["swap_used_bytes"] == 30 * 1024

    def test_pressure_load_and_uptime(self, machine):
        machine.put("proc/pressure/cpu", "some avg10=1.50 avg60=0.00 avg300=0.00 total=5\n")
        machine.put(
            "proc/pressure/io",
            "some avg10=9.00 avg60=0 total=5\nfull avg10=4.25 avg60=0 total=2\n",
        )
        machine.put("proc/loadavg", "0.75 0.5 0.25 1/99 1234\n")
        machine.put("proc/uptime", "3600.75 100.00\n")
        readings = machine.read()
        assert readings["cpu_pressure_percent"] == 1.5
        assert (readings["io_pressure_percent"], readings["io_full_pressure_percent"]) == (9, 4.25)
        assert readings["memory_pressure_percent"] is None
        assert (readings["load_1m"], readings["uptime_s"]) == (0.75, 3600)


class TestDevices:
    def test_disks_without_those_that_are_made_of_others(self, machine):
        for name in ("nvme0n1", "dm-0", "loop0"):
            machine.put(f"sys/block/{name}/size", 1)
        line = "259 0 {} 1 0 {} 0 1 0 {} 0 0 0 0\n"
        names = ("nvme0n1", "nvme0n1p1", "dm-0", "loop0")
        machine.put("proc/diskstats", "".join(line.format(name, 100, 200) for name in names))
        assert machine.read()["disk_read_bytes_per_s"] is None
        machine.put("proc/diskstats", "".join(line.format(name, 110, 260) for name in names))
        readings = machine.read(after_s=2)
        assert readings["disk_read_bytes_per_s"] == 10 * 512 / 2
        assert readings["disk_write_bytes_per_s"] == 60 * 512 / 2

    def test_networks_with_hardware_behind_them(self, machine):
        machine.put("sys/class/net/eth0/device/vendor", "x")
        machine.put("sys/class/net/veth1/mtu", 1500)
        row = "{}: {} 1 2 3 0 0 0 0 {} 1 4 5 0 0 0 0\n"
        machine.put(
            "proc/net/dev", "head\n" + row.format("eth0", 0, 0) + row.format("veth1", 9, 9)
        )
        machine.read()
        machine.put("proc/net/dev", "head\n" + row.format("eth0", 500, 700))
        readings = machine.read()
        assert readings["network_rx_bytes_per_s"] == 500
        assert readings["network_tx_bytes_per_s"] == 700
        assert readings["network_errors"] == 2 + 3 + 4 + 5

    def test_a_counter_that_was_reset_gives_no_rate(self, machine):
        machine.put("sys/class/net/eth0/device/vendor", "x")
        row = "eth0: {} 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0\n"
        machine.put("proc/net/dev", row.format(10_000))
        machine.read()
        machine.put("proc/net/dev", row.format(10))
        assert machine.read()["network_rx_bytes_per_s"] is None

    def test_infiniband_counts_words_and_sums_ports(self, machine):
        for port in ("mlx5_0/ports/1", "mlx5_1/ports/1"):
            base = f"sys/class/infiniband/{port}"
            machine.put(f"{base}/state", "4: ACTIVE" if "_0" in port else "1: DOWN")
            machine.put(f"{base}/counters/port_rcv_data", 1000)
            machine.put(f"{base}/counters/port_xmit_data", 0)
            machine.put(f"{base}/counters/symbol_error", 2)
            machine.put(f"{base}/hw_counters/out_of_sequence", 3)
            machine.put(f"{base}/counters/link_downed", 1)
        first = machine.read()
        assert first["infiniband_ports_active"] == 1
        assert first["infiniband_errors"] == 10
        assert first["infiniband_link_downed"] == 2
        machine.put("sys/class/infiniband/mlx5_0/ports/1/counters/port_rcv_data", 1250)
        machine.put("sys/class/infiniband/mlx5_0/ports/1/counters/symbol_error", 7)
        readings = machine.read()
        assert readings["infiniband_rx_bytes_per_s"] == 250 * 4
        assert readings["infiniband_errors"] == 10, "read slowly"
        assert machine.read(after_s=SLOW_S)["infiniband_errors"] == 15

    def test_a_device_that_appears_is_found_at_the_next_scan(self, machine):
        assert machine.read()["cpu_temperature_c"] is None
        machine.put("sys/class/hwmon/hwmon0/name", "k10temp")
        machine.put("sys/class/hwmon/hwmon0/temp1_input", 55_500)
        assert machine.read()["cpu_temperature_c"] is None
        assert machine.read(after_s=RESCAN_S)["cpu_temperature_c"] == 55.5

    def test_only_cpu_packages_are_read_not_each_core(self, machine):
        machine.put("sys/class/hwmon/hwmon0/name", "coretemp")
        machine.put("sys/class/hwmon/hwmon0/temp1_label", "Package id 0")
        machine.put("sys/class/hwmon/hwmon0/temp1_input", 60_000)
        machine.put("sys/class/hwmon/hwmon0/temp2_label", "Core 0")
        machine.put("sys/class/hwmon/hwmon0/temp2_input", 99_000)
        machine.put("sys/class/hwmon/hwmon1/name", "nvme")
        machine.put("sys/class/hwmon/hwmon1/temp1_input", 88_000)
        assert machine.read()["cpu_temperature_c"] == 60

    def test_the_slowest_fan_that_turns(self, machine):
        for number, speed in ((1, 9000), (2, 7500), (3, 0)):
            machine.put(f"sys/class/hwmon/hwmon0/fan{number}_input", speed)
        assert machine.read()["fan_speed_rpm"] == 7500


class TestPower:
    BASE = "sys/class/powercap/intel-rapl:{}"

    def package(self, machine, number, energy_uj, span=1_000_000_000):
        base = self.BASE.format(number)
        machine.put(f"{base}/name", f"package-{number}")
        machine.put(f"{base}/max_energy_range_uj", span)
        machine.put(f"{base}/energy_uj", energy_uj)

    def test_packages_are_summed_and_their_parts_left_out(self, machine):
        self.package(machine, 0, 0)
        self.package(machine, 1, 0)
        machine.put("sys/class/powercap/intel-rapl:0:0/name", "core")
        machine.put("sys/class/powercap/intel-rapl:0:0/energy_uj", 0)
        assert machine.read()["rapl_power_w"] is None
        self.package(machine, 0, 200_000_000)
        self.package(machine, 1, 100_000_000)
        assert machine.read(after_s=2)["rapl_power_w"] == pytest.approx(150)

    def test_a_counter_that_wrapped(self, machine):
        self.package(machine, 0, 990_000_000)
        machine.read()
        self.package(machine, 0, 10_000_000)
        assert machine.read()["rapl_power_w"] == pytest.approx(20)

    def test_a_package_that_cannot_be_read_makes_no_half_sum(self, machine):
        self.package(machine, 0, 0)
        self.package(machine, 1, 0)
        machine.read()
        self.package(machine, 0, 100_000_000)
        machine.put(f"{self.BASE.format(1)}/energy_uj", "not a number")
        assert machine.read()["rapl_power_w"] is None

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_refusal_is_explained(self, machine):
        self.package(machine, 0, 0)
        (machine.root / self.BASE.format(0) / "energy_uj").chmod(0)
        finding = machine.findings()["CPU power"]
        assert finding.status == "denied"
        assert "root" in finding.message


def test_identity(machine):
    machine.put("etc/machine-id", "abc123\n")
    machine.put("etc/os-release", 'NAME=x\nPRETTY_NAME="Fine Linux 9"\n')
    block = "processor : {}\nmodel name : Fast CPU\nphysical id : 0\ncore id : {}\n\n"
    machine.put("proc/cpuinfo", block.format(0, 0) + block.format(1, 0))
    machine.put("proc/meminfo", "MemTotal: 2048 kB\n")
    machine.put("sys/class/dmi/id/product_serial", "SN1\n")
    identity = machine.host.identity(Driver("580.1", "13.0", "13.580"))
    assert (identity.machine_id, identity.os) == ("abc123", "Fine Linux 9")
    assert (identity.cpu_model, identity.cpu_cores, identity.cpu_threads) == ("Fast CPU", 1, 2)
    assert identity.memory_total_bytes == 2 << 20
    assert identity.driver_version == "580.1"
    assert identity.details == {"serial": "SN1"}


def test_what_is_missing_is_said(machine):
    findings = machine.findings()
    assert findings["pressure"].status == "missing"
    assert "psi=1" in findings["pressure"].message
    assert all(finding.message for finding in findings.values())
