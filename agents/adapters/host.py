"""The machine around the GPUs, read from /proc and /sys.

Files that are read each tick stay open and are read again from their start, which saves two thirds of the cost. What is
slow to read or slow to change (InfiniBand error counters, fans) is read every SLOW_S, and the list of devices is made
anew every RESCAN_S. `root` lets tests give a tree of files instead of a machine.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agents.ports import Driver
from agents.readings import clean, rate, wrapped_rise
from dcops.domain.metrics import NODE_SAMPLE
from dcops.wire.frames import Finding, HostIdentity
from dcops.wire.rows import Reading

SLOW_S = 15.0
RESCAN_S = 60.0
_SECTOR_BYTES = 512
_INFINIBAND_WORD_BYTES = 4
_READ_BYTES = 1 << 16

# Counters of one InfiniBand or RoCE port that rise only when something is wrong.
_INFINIBAND_ERRORS = (
    "counters/symbol_error",
    "counters/link_error_recovery",
    "counters/port_rcv_errors",
    "counters/port_rcv_remote_physical_errors",
    "counters/port_xmit_discards",
    "counters/local_link_integrity_errors",
    "counters/excessive_buffer_overrun_errors",
    "counters/VL15_dropped",
    "hw_counters/local_ack_timeout_err",
    "hw_counters/out_of_sequence",
    "hw_counters/packet_seq_err",
    "hw_counters/roce_adp_retrans",
)
_VIRTUAL_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd")
_VIRTUAL_NETWORKS = (
    "lo",
    "veth",
    "docker",
    "br",
    "virbr",
    "cni",
    "flannel",
    "cali",
    "ifb",
    "tun",
    "tap",
    "dummy",
)
_CPU_SENSORS = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal", "x86_pkg_temp"})
_CPU_LABELS = ("package", "tctl", "tdie")


class Files:
    """Small kernel files, kept open. A file that cannot be read gives None."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, int] = {}

    def read(self, path: str) -> bytes | None:
        """Return the file's content now."""
        descriptor = self._open.get(path)
        try:
            if descriptor is None:
                descriptor = self._open[path] = os.open(
                    self._root / path, os.O_RDONLY | os.O_CLOEXEC
                )
            return _read_all(descriptor)
        except OSError:
            self._forget(path)
            return None

    def once(self, path: str) -> str:
        """Return a file that is read rarely, as text without white space around it; "" if it cannot be read."""
        try:
            return (self._root / path).read_text(errors="replace").strip("\0\n\t ")
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        """Return the integer that the file holds."""
        content = self.read(path)
        try:
            return None if content is None else int(content)
        except ValueError:
            return None

    def list(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; [] if there is none."""
        try:
            return sorted(os.listdir(self._root / path))
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Whether the path is there."""
        return (self._root / path).exists()

    def refusal(self, path: str) -> str:
        """Return why the file cannot be read, or "" if it can."""
        try:
            with (self._root / path).open("rb") as file:
                file.read(1)
        except OSError as error:
            return error.strerror or "unreadable"
        return ""

    def forget_all(self) -> None:
        """Close every file: devices may have gone, and others may have taken their names."""
        for path in list(self._open):
            self._forget(path)

    def _forget(self, path: str) -> None:
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    content = os.pread(descriptor, _READ_BYTES, 0)
    length = len(content)
    # Only /proc/stat of a machine with hundreds of threads is longer.
    while length == _READ_BYTES:
        more = os.pread(descriptor, _READ_BYTES, len(content))
        content += more
        length = len(more)
    return content


@dataclass
class _Devices:
    """What is worth reading on this machine."""

    disks: frozenset[bytes] = frozenset()
    networks: frozenset[bytes] = frozenset()
    infiniband: list[str] = field(default_factory=list)
    temperatures: list[str] = field(default_factory=list)
    fans: list[str] = field(default_factory=list)
    power: dict[str, int] = field(
        default_factory=dict
    )  # folder of a RAPL package -> µJ at which it wraps


class Host:
    """Reads one machine. Rates cover the time between two calls of `sample`."""

    def __init__(
        self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._files = Files(root)
        self._root = root
        self._clock = clock
        self._devices = _Devices()
        self._rescan_at = self._slow_at = float("-inf")
        self._now = 0.0
        self._counters: dict[str, tuple[float, float]] = {}
        self._slow: dict[str, Reading] = {}

    def sample(self) -> list[Reading]:
        """Readings in the order of NODE_SAMPLE.metrics."""
        self._now = self._clock()
        if self._now >= self._rescan_at:
            self._rescan_at = self._now + RESCAN_S
            self._files.forget_all()
            self._devices = self._scan()
        if self._now >= self._slow_at:
            self._slow_at = self._now + SLOW_S
            self._slow = self._infiniband_errors() | self._fans()
        readings = self._slow | self._cpu() | self._memory() | self._pressure() | self._disks()
        readings |= self._networks() | self._infiniband() | self._temperatures() | self._power()
        return clean(NODE_SAMPLE, readings)

    def identity(self, driver: Driver) -> HostIdentity:
        """What the machine is."""
        self._devices = self._scan()
        kernel = os.uname()
        cpu = _cpu_identity(self._files.once("proc/cpuinfo"))
        return HostIdentity(
            hostname=kernel.nodename,
            machine_id=self._files.once("etc/machine-id"),
            os=_os_name(self._files.once("etc/os-release")),
            kernel=kernel.release,
            architecture=kernel.machine,
            cpu_model=cpu.model,
            cpu_cores=cpu.cores,
            cpu_threads=cpu.threads,
            memory_total_bytes=_kibibytes(self._files.read("proc/meminfo") or b"", b"MemTotal:"),
            driver_version=driver.driver_version,
            cuda_version=driver.cuda_version,
            nvml_version=driver.nvml_version,
            details=self._details(),
        )

    def findings(self) -> list[Finding]:
        """What can and cannot be read here, and why. Lists the devices anew."""
        self._devices = self._scan()
        return [
            self._finding_pressure(),
            _found("disks", [name.decode() for name in self._devices.disks]),
            _found("network", [name.decode() for name in self._devices.networks]),
            _found("InfiniBand", [_port_name(path) for path in self._devices.infiniband]),
            _found("CPU temperature", self._devices.temperatures, _NO_SENSORS),
            _found("fans", self._devices.fans, _NO_SENSORS),
            self._finding_power(),
        ]

    # -- each tick

    def _rate(self, name: str, value: float) -> float | None:
        before, self._counters[name] = self._counters.get(name), (self._now, value)
        return None if before is None else rate(value, before[1], self._now - before[0])

    def _cpu(self) -> dict[str, Reading]:
        content = self._files.read("proc/stat") or b""
        readings: dict[str, Reading] = {"processes_blocked": _after(content, b"procs_blocked ")}
        times = [int(part) for part in content[: content.find(b"\n")].split()[1:9]]
        if len(times) == 8:
            idle, waiting, total = times[3], times[4], sum(times)
            before = self._cpu_before
            self._cpu_before = (idle, waiting, total)
            readings |= _cpu_shares(before, (idle, waiting, total))
        load = (self._files.read("proc/loadavg") or b"").split()
        readings["load_1m"] = float(load[0]) if load else None
        uptime = (self._files.read("proc/uptime") or b"").split()
        readings["uptime_s"] = int(float(uptime[0])) if uptime else None
        return readings

    _cpu_before: tuple[int, int, int] | None = None

    def _memory(self) -> dict[str, Reading]:
        content = self._files.read("proc/meminfo") or b""
        total, available = _kibibytes(content, b"MemTotal:"), _kibibytes(content, b"MemAvailable:")
        swap, swap_free = _kibibytes(content, b"SwapTotal:"), _kibibytes(content, b"SwapFree:")
        return {
            "memory_used_bytes": _less(total, available),
            "memory_available_bytes": available,
            "swap_used_bytes": _less(swap, swap_free),
            "root_disk_used_percent": self._root_disk(),
        }

    def _root_disk(self) -> float | None:
        try:
            disk = os.statvfs(self._root)
        except OSError:
            return None
        used = disk.f_blocks - disk.f_bfree
        usable = used + disk.f_bavail
        return 100 * used / usable if usable else None

    def _pressure(self) -> dict[str, Reading]:
        readings: dict[str, Reading] = {}
        for resource in ("cpu", "memory", "io"):
            content = self._files.read(f"proc/pressure/{resource}") or b""
            readings[f"{resource}_pressure_percent"] = _pressure(content, b"some ")
            readings[f"{resource}_full_pressure_percent"] = _pressure(content, b"full ")
        return readings

    def _disks(self) -> dict[str, Reading]:
        read = written = 0
        for line in (self._files.read("proc/diskstats") or b"").splitlines():
            columns = line.split(None, 10)
            if len(columns) > 9 and columns[2] in self._devices.disks:
                read += int(columns[5])
                written += int(columns[9])
        if not self._devices.disks:
            return {}
        return {
            "disk_read_bytes_per_s": self._rate("disk read", read * _SECTOR_BYTES),
            "disk_write_bytes_per_s": self._rate("disk written", written * _SECTOR_BYTES),
        }

    def _networks(self) -> dict[str, Reading]:
        received = sent = errors = 0
        for line in (self._files.read("proc/net/dev") or b"").splitlines():
            name, colon, rest = line.partition(b":")
            if colon and name.strip() in self._devices.networks:
                columns = [int(column) for column in rest.split()]
                received += columns[0]
                sent += columns[8]
                errors += columns[2] + columns[3] + columns[10] + columns[11]
        if not self._devices.networks:
            return {}
        return {
            "network_rx_bytes_per_s": self._rate("network received", received),
            "network_tx_bytes_per_s": self._rate("network sent", sent),
            "network_errors": errors,
        }

    def _infiniband(self) -> dict[str, Reading]:
        if not self._devices.infiniband:
            return {}
        received = self._sum(self._devices.infiniband, ("counters/port_rcv_data",))
        sent = self._sum(self._devices.infiniband, ("counters/port_xmit_data",))
        return {
            "infiniband_rx_bytes_per_s": self._infiniband_rate("received", received),
            "infiniband_tx_bytes_per_s": self._infiniband_rate("sent", sent),
        }

    def _infiniband_rate(self, name: str, words: int | None) -> float | None:
        if words is None:
            return None
        return self._rate(f"InfiniBand {name}", words * _INFINIBAND_WORD_BYTES)

    def _temperatures(self) -> dict[str, Reading]:
        degrees = [self._files.number(path) for path in self._devices.temperatures]
        known = [value / 1000 for value in degrees if value is not None]
        return {"cpu_temperature_c": max(known, default=None)}

    def _power(self) -> dict[str, Reading]:
        """Sum of the packages; None unless every one of them could be read twice."""
        if not self._devices.power:
            return {}
        watts = 0.0
        complete = True
        for package, span in self._devices.power.items():
            joules = self._package_joules(package, span)
            complete = complete and joules is not None
            watts += joules or 0.0
        return {"rapl_power_w": watts if complete else None}

    def _package_joules(self, package: str, span: int) -> float | None:
        energy = self._files.number(f"{package}/energy_uj")
        if energy is None:
            self._counters.pop(package, None)
            return None
        before, self._counters[package] = self._counters.get(package), (self._now, energy)
        if before is None or self._now <= before[0]:
            return None
        return wrapped_rise(energy, int(before[1]), span) / 1e6 / (self._now - before[0])

    # -- every SLOW_S

    def _infiniband_errors(self) -> dict[str, Reading]:
        ports = self._devices.infiniband
        if not ports:
            return {}
        states = [self._files.read(f"{port}/state") or b"" for port in ports]
        return {
            "infiniband_ports_active": sum(b"ACTIVE" in state for state in states),
            "infiniband_errors": self._sum(ports, _INFINIBAND_ERRORS),
            "infiniband_link_downed": self._sum(ports, ("counters/link_downed",)),
        }

    def _fans(self) -> dict[str, Reading]:
        speeds = [self._files.number(path) for path in self._devices.fans]
        return {"fan_speed_rpm": min((s for s in speeds if s is not None), default=None)}

    def _sum(self, folders: Iterable[str], names: Iterable[str]) -> int | None:
        """Sum the counters that can be read; None if none can."""
        numbers = [self._files.number(f"{folder}/{name}") for folder in folders for name in names]
        known = [number for number in numbers if number is not None]
        return sum(known) if known else None

    # -- every RESCAN_S

    def _scan(self) -> _Devices:
        return _Devices(
            disks=frozenset(
                name.encode()
                for name in self._files.list("sys/block")
                if not name.startswith(_VIRTUAL_DISKS)
            ),
            networks=self._scan_networks(),
            infiniband=[
                f"sys/class/infiniband/{device}/ports/{port}"
                for device in self._files.list("sys/class/infiniband")
                for port in self._files.list(f"sys/class/infiniband/{device}/ports")
            ],
            temperatures=list(self._scan_temperatures()),
            fans=[path for path in self._sensors("fan") if (self._files.number(path) or 0) > 0],
            power=self._scan_power(),
        )

    def _scan_networks(self) -> frozenset[bytes]:
        """Interfaces with hardware behind them; inside a container, where none has, those that are not plumbing."""
        names = self._files.list("sys/class/net")
        physical = [name for name in names if self._files.exists(f"sys/class/net/{name}/device")]
        chosen = physical or [name for name in names if not name.startswith(_VIRTUAL_NETWORKS)]
        return frozenset(name.encode() for name in chosen)

    def _sensors(self, kind: str) -> Iterator[str]:
        for monitor in self._files.list("sys/class/hwmon"):
            for name in self._files.list(f"sys/class/hwmon/{monitor}"):
                if name.startswith(kind) and name.endswith("_input"):
                    yield f"sys/class/hwmon/{monitor}/{name}"

    def _scan_temperatures(self) -> Iterator[str]:
        """CPU packages, else every CPU sensor; a sensor for each core costs an interrupt on that core."""
        paths = [
            p
            for p in self._sensors("temp")
            if self._files.once(f"{p.rpartition('/')[0]}/name") in _CPU_SENSORS
        ]
        packages = [
            path
            for path in paths
            if self._files.once(path.replace("_input", "_label")).lower().startswith(_CPU_LABELS)
        ]
        yield from packages or paths
        if not paths:
            yield from self._thermal_zones()

    def _thermal_zones(self) -> Iterator[str]:
        for zone in self._files.list("sys/class/thermal"):
            if self._files.once(f"sys/class/thermal/{zone}/type") in _CPU_SENSORS:
                yield f"sys/class/thermal/{zone}/temp"

    def _scan_power(self) -> dict[str, int]:
        """The packages: a domain inside a package (cores, DRAM) is part of it, and `psys` holds them all."""
        found: dict[str, int] = {}
        for name in self._files.list("sys/class/powercap"):
            folder = f"sys/class/powercap/{name}"
            if name.count(":") == 1 and self._files.once(f"{folder}/name").startswith("package"):
                found[folder] = self._files.number(f"{folder}/max_energy_range_uj") or 1 << 32
        return found

    # -- identity and findings

    def _details(self) -> dict[str, str]:
        details = {
            "boot_id": self._files.once("proc/sys/kernel/random/boot_id"),
            "vendor": self._files.once("sys/class/dmi/id/sys_vendor"),
            "product": self._files.once("sys/class/dmi/id/product_name"),
            "serial": self._files.once("sys/class/dmi/id/product_serial"),
            "bios": self._files.once("sys/class/dmi/id/bios_version"),
            "network": " ".join(sorted(name.decode() for name in self._devices.networks)),
            "infiniband": " ".join(_port_name(path) for path in self._devices.infiniband),
        }
        return {name: value for name, value in details.items() if value}

    def _finding_pressure(self) -> Finding:
        if self._files.read("proc/pressure/cpu") is not None:
            return Finding("pressure", "ok", "Pressure stall information can be read.")
        return Finding(
            "pressure",
            "missing",
            "The kernel gives no pressure stall information. Boot with psi=1.",
        )

    def _finding_power(self) -> Finding:
        if not self._devices.power:
            return Finding(
                "CPU power",
                "missing",
                "The kernel shows no RAPL energy counters (usual in a virtual machine).",
            )
        refusals = [self._files.refusal(f"{path}/energy_uj") for path in self._devices.power]
        if any(refusals):
            return Finding(
                "CPU power",
                "denied",
                f"RAPL energy counters: {next(filter(None, refusals))}. Only root may read them; run the agent as root or "
                "give its user read access to /sys/class/powercap/*/energy_uj.",
            )
        return Finding("CPU power", "ok", f"RAPL: {len(self._devices.power)} packages.")


_NO_SENSORS = (
    "The kernel shows no such sensor (usual in a virtual machine; on a server the BMC has them)."
)


def _found(subject: str, names: Iterable[str], missing: str = "None on this machine.") -> Finding:
    listed = sorted(names)
    if not listed:
        return Finding(subject, "missing", missing)
    return Finding(subject, "ok", " ".join(listed))


def _port_name(path: str) -> str:
    parts = path.split("/")
    return f"{parts[3]}/{parts[5]}"


def _after(content: bytes, label: bytes) -> int | None:
    """Return the integer that follows `label` in the text, at the start of a line."""
    start = content.find(b"\n" + label)
    if start < 0:
        return None
    return int(content[start + 1 + len(label) :].split(None, 1)[0])


def _kibibytes(content: bytes, label: bytes) -> int | None:
    """Return a line of /proc/meminfo in bytes."""
    kibibytes = _after(b"\n" + content, label)
    return None if kibibytes is None else kibibytes * 1024


def _less(total: int | None, free: int | None) -> int | None:
    return None if total is None or free is None else total - free


def _pressure(content: bytes, label: bytes) -> float | None:
    """Return avg10 of the line of /proc/pressure/* that starts with `label`: % of the last 10 s."""
    start = (b"\n" + content).find(b"\n" + label)
    if start < 0:
        return None
    field = content[start + len(label) :].split(None, 1)[0]
    return float(field.removeprefix(b"avg10="))


def _cpu_shares(
    before: tuple[int, int, int] | None, now: tuple[int, int, int]
) -> dict[str, Reading]:
    """Shares of the time between two readings of (idle, waiting for I/O, total), in ticks."""
    if before is None or now[2] <= before[2]:
        return {}
    idle, waiting, total = (b - a for a, b in zip(before, now, strict=True))
    # The kernel's idle and iowait can step back a little.
    busy = 100 * (total - max(idle, 0) - max(waiting, 0)) / total
    return {
        "cpu_percent": min(max(busy, 0.0), 100.0),
        "cpu_iowait_percent": 100 * max(waiting, 0) / total,
    }


@dataclass(frozen=True)
class _Cpu:
    model: str
    cores: int | None
    threads: int | None


def _cpu_identity(cpuinfo: str) -> _Cpu:
    model = ""
    threads = 0
    package = ""
    cores: set[tuple[str, str]] = set()
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        match name.strip():
            case "processor":
                threads += 1
            case "model name" | "Model":
                model = value.strip()
            case "physical id":
                package = value.strip()
            case "core id":
                cores.add((package, value.strip()))
    return _Cpu(model, len(cores) or None, threads or os.cpu_count())


def _os_name(os_release: str) -> str:
    for line in os_release.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return ""
