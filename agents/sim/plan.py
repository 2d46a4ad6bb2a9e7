"""The floor plan of a simulated hall: which nodes stand where, and what is in them. The same seed gives the same hall."""

import uuid
from dataclasses import dataclass

import numpy as np

from agents.sim.catalog import MIX, GpuModel
from agents.sim.physics import Place
from dcops.wire.frames import GpuIdentity, HostIdentity, Inventory

NODES_PER_RACK = 4
RACKS_PER_ROW = 25
_NAMESPACE = uuid.UUID("0d2f2bcb-5f4e-4f6f-9d55-6d0a5d1c3c11")


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """One node of the plan."""

    name: str
    model: GpuModel
    place: Place
    driver_version: str
    has_infiniband: bool
    gpu_uuids: tuple[str, ...]


def node_name(index: int) -> str:
    """Row letters, rack in the row and place in the rack: hall-a01-n03."""
    rack, slot = divmod(index, NODES_PER_RACK)
    row, rack_in_row = divmod(rack, RACKS_PER_ROW)
    letters = chr(ord("a") + row % 26) * (row // 26 + 1)
    return f"hall-{letters}{rack_in_row + 1:02}-n{slot + 1:02}"


def lay_out(nodes: int, gpus: int, seed: int, salt: str = "") -> list[SimulatedNode]:
    """Plan `nodes` nodes of `gpus` GPUs. `salt` sets this hall's GPU UUIDs apart from those of every other hall."""
    rng = np.random.default_rng((seed, 1))
    planned = []
    for index in range(nodes):
        if index % NODES_PER_RACK == 0:
            model = MIX[int(rng.choice(len(MIX), p=[weight for _, weight in MIX]))][0]
            driver = model.driver_versions[int(rng.integers(len(model.driver_versions)))]
            has_infiniband = bool(rng.random() < 0.75)
            offset = float(rng.normal(0.0, 0.8))
            resistance = (
                1.22 if rng.random() < 0.06 else 1.0
            )  # a rack with something in the way of its air
        name = node_name(index)
        planned.append(
            SimulatedNode(
                name=name,
                model=model,
                place=Place(index // NODES_PER_RACK, index % NODES_PER_RACK, offset, resistance),
                driver_version=driver,
                has_infiniband=has_infiniband,
                gpu_uuids=tuple(
                    f"GPU-{uuid.uuid5(_NAMESPACE, f'{salt}/{name}/{gpu}')}" for gpu in range(gpus)
                ),
            )
        )
    return planned


def inventory(node: SimulatedNode) -> Inventory:
    """What this node says it is."""
    host = HostIdentity(
        hostname=node.name,
        machine_id=uuid.uuid5(_NAMESPACE, node.gpu_uuids[0] if node.gpu_uuids else node.name).hex,
        os="Ubuntu 24.04.3 LTS (simulated)",
        kernel="6.8.0-79-generic",
        architecture="x86_64",
        cpu_model="Intel(R) Xeon(R) Platinum 8480C",
        cpu_cores=112,
        cpu_threads=224,
        memory_total_bytes=2 << 40,
        driver_version=node.driver_version,
        cuda_version="12.8",
        nvml_version=f"12.{node.driver_version}",
        details={"simulated": "yes"},
    )
    return Inventory(host, [_gpu(node, index) for index in range(len(node.gpu_uuids))])


def _gpu(node: SimulatedNode, index: int) -> GpuIdentity:
    model = node.model
    return GpuIdentity(
        uuid=node.gpu_uuids[index],
        index=index,
        model=model.name,
        serial=f"165{uuid.UUID(node.gpu_uuids[index][4:]).int % 10**10:010}",
        pci_bus_id=f"00000000:{0x1B + 0x22 * index & 0xFF:02X}:00.0",
        vbios=model.vbios,
        architecture=model.architecture,
        compute_capability=model.compute_capability,
        memory_total_bytes=model.memory_bytes,
        power_limit_min_w=model.power_limit_min_w,
        power_limit_max_w=model.power_limit_w,
        power_limit_default_w=model.power_limit_w,
        temperature_slowdown_c=model.temperature_slowdown_c,
        temperature_shutdown_c=model.temperature_shutdown_c,
        temperature_memory_max_c=model.temperature_memory_max_c,
        sm_clock_max_mhz=model.sm_clock_max_mhz,
        memory_clock_max_mhz=model.memory_clock_mhz,
        pcie_link_generation_max=model.pcie_generation,
        pcie_link_width_max=16,
        ecc_enabled=True,
        persistence_mode=True,
        mig_mode=False,
        details={"simulated": "yes"},
    )
