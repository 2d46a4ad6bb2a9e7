"""The GPUs a simulated hall is made of. Figures are those of the makers' data sheets, rounded where they differ by board."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class GpuModel:
    """What the physics and the inventory need to know of one GPU model.

    `hunger` is the dynamic power that full load would draw at the highest clock, relative to what the power limit leaves above
    idle: over 1, full load runs into the limit, as it does on these boards.
    """

    name: str
    architecture: str
    compute_capability: str
    memory_mib: int
    sm_clock_max_mhz: int
    sm_clock_idle_mhz: int
    memory_clock_mhz: int
    power_idle_w: float
    power_limit_w: float
    power_limit_min_w: float
    hunger: float
    temperature_slowdown_c: int
    temperature_shutdown_c: int
    temperature_memory_max_c: int
    nvlink_links: int
    nvlink_bytes_per_s: float
    pcie_generation: int
    pcie_bytes_per_s: float
    driver_versions: tuple[str, ...]
    vbios: str
    has_gpm: bool = True

    @property
    def memory_bytes(self) -> int:
        """Frame buffer in bytes."""
        return self.memory_mib * MIB


H100 = GpuModel(
    name="NVIDIA H100 80GB HBM3",
    architecture="Hopper",
    compute_capability="9.0",
    memory_mib=81559,
    sm_clock_max_mhz=1980,
    sm_clock_idle_mhz=345,
    memory_clock_mhz=2619,
    power_idle_w=71,
    power_limit_w=700,
    power_limit_min_w=200,
    hunger=1.42,
    temperature_slowdown_c=87,
    temperature_shutdown_c=92,
    temperature_memory_max_c=95,
    nvlink_links=18,
    nvlink_bytes_per_s=450e9,
    pcie_generation=5,
    pcie_bytes_per_s=55e9,
    driver_versions=("570.133.20", "580.65.06"),
    vbios="96.00.A5.00.01",
)
H200 = GpuModel(
    name="NVIDIA H200",
    architecture="Hopper",
    compute_capability="9.0",
    memory_mib=143771,
    sm_clock_max_mhz=1980,
    sm_clock_idle_mhz=345,
    memory_clock_mhz=3201,
    power_idle_w=76,
    power_limit_w=700,
    power_limit_min_w=200,
    hunger=1.38,
    temperature_slowdown_c=87,
    temperature_shutdown_c=92,
    temperature_memory_max_c=95,
    nvlink_links=18,
    nvlink_bytes_per_s=450e9,
    pcie_generation=5,
    pcie_bytes_per_s=55e9,
    driver_versions=("570.133.20", "580.65.06"),
    vbios="96.00.D0.00.02",
)
A100 = GpuModel(
    name="NVIDIA A100-SXM4-80GB",
    architecture="Ampere",
    compute_capability="8.0",
    memory_mib=81920,
    sm_clock_max_mhz=1410,
    sm_clock_idle_mhz=210,
    memory_clock_mhz=1593,
    power_idle_w=58,
    power_limit_w=400,
    power_limit_min_w=100,
    hunger=1.34,
    temperature_slowdown_c=89,
    temperature_shutdown_c=92,
    temperature_memory_max_c=95,
    nvlink_links=12,
    nvlink_bytes_per_s=300e9,
    pcie_generation=4,
    pcie_bytes_per_s=26e9,
    driver_versions=("535.183.06", "550.127.08"),
    vbios="92.00.45.00.03",
    has_gpm=False,
)
B200 = GpuModel(
    name="NVIDIA B200",
    architecture="Blackwell",
    compute_capability="10.0",
    memory_mib=183359,
    sm_clock_max_mhz=1965,
    sm_clock_idle_mhz=120,
    memory_clock_mhz=3996,
    power_idle_w=142,
    power_limit_w=1000,
    power_limit_min_w=400,
    hunger=1.45,
    temperature_slowdown_c=92,
    temperature_shutdown_c=97,
    temperature_memory_max_c=105,
    nvlink_links=18,
    nvlink_bytes_per_s=900e9,
    pcie_generation=5,
    pcie_bytes_per_s=55e9,
    driver_versions=("580.65.06",),
    vbios="97.00.82.00.1A",
)

# Which model a rack gets, and how often.
MIX: tuple[tuple[GpuModel, float], ...] = ((H100, 0.45), (H200, 0.25), (A100, 0.18), (B200, 0.12))


@dataclass(frozen=True, slots=True)
class Xid:
    """A driver error the hall may show: how often among all, how bad, and what the driver prints."""

    code: int
    weight: float
    severity: str
    message: str


XIDS: tuple[Xid, ...] = (
    Xid(13, 0.22, "warning", "Graphics Engine Exception on GPC 2: ESR 0x514648=0x1000e"),
    Xid(
        31,
        0.3,
        "warning",
        "MMU Fault: ENGINE GRAPHICS faulted @ 0x7f2a_4c000000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
    ),
    Xid(43, 0.18, "warning", "channel 0x00000008 stopped processing; the application was reset"),
    Xid(48, 0.04, "critical", "double bit ECC error: an uncorrectable error in device memory"),
    Xid(63, 0.1, "warning", "row remapping was recorded and becomes active after a reset"),
    Xid(74, 0.08, "critical", "NVLink: fatal error on link 11"),
    Xid(79, 0.03, "critical", "GPU has fallen off the bus."),
    Xid(94, 0.05, "warning", "contained memory error; the application was ended"),
)
