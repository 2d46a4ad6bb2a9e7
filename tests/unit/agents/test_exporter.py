"""/metrics under dcgm-exporter's names, units and labels."""

import asyncio

import pytest

from agents.daemon import Latest
from agents.exporter import LOOPBACK, render, serve
from agents.ports import GpuReport
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE
from dcops.wire.frames import GpuIdentity, HostIdentity


def row(table, **values):
    return [values.get(name) for name in table.names]


@pytest.fixture
def latest():
    sample = row(
        GPU_SAMPLE,
        utilization_percent=97,
        memory_used_bytes=3 * 2**20,
        energy_mj=123_456_789_012,
        power_average_w=250.5,
        tensor_active_ratio=0.625,
    )
    identity = GpuIdentity("GPU-a", 3, 'H100 "SXM"', pci_bus_id="00000000:9B:00.0")
    return Latest(
        gpus=GpuReport(1, ["GPU-a"], sample={"GPU-a": sample}),
        health={"GPU-a": row(GPU_HEALTH, pcie_replays=2)},
        identities=[identity],
        host_identity=HostIdentity("node-1", driver_version="580.1"),
        last_xid={"GPU-a": 79},
    )


def value(text, name):
    lines = [line for line in text.splitlines() if line.startswith(name + "{")]
    return [line.rpartition(" ")[2] for line in lines]


def test_values_are_in_dcgms_units(latest):
    text = render(latest)
    assert value(text, "DCGM_FI_DEV_GPU_UTIL") == ["97"]
    assert value(text, "DCGM_FI_DEV_FB_USED") == ["3"], "MiB"
    assert value(text, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION") == ["123456789012"], "mJ"
    assert value(text, "DCGM_FI_DEV_POWER_USAGE") == ["250.5"]
    assert value(text, "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE") == ["0.625"]
    assert value(text, "DCGM_FI_DEV_PCIE_REPLAY_COUNTER") == ["2"]
    assert value(text, "DCGM_FI_DEV_XID_ERRORS") == ["79"]


def test_a_missing_reading_has_no_line(latest):
    assert "DCGM_FI_DEV_GPU_TEMP" not in render(latest)


def test_labels_are_those_of_dcgm_exporter(latest):
    text = render(latest)
    line = next(line for line in text.splitlines() if line.startswith("DCGM_FI_DEV_GPU_UTIL{"))
    assert line == (
        'DCGM_FI_DEV_GPU_UTIL{gpu="3",UUID="GPU-a",pci_bus_id="00000000:9B:00.0",device="nvidia3",'
        'modelName="H100 \\"SXM\\"",Hostname="node-1",DCGM_FI_DRIVER_VERSION="580.1"} 97'
    )


def test_every_metric_has_help_and_type_before_its_lines(latest):
    lines = render(latest).splitlines()
    names = [line.partition("{")[0] for line in lines if not line.startswith("#")]
    for name in names:
        first = lines.index(next(line for line in lines if line.startswith(name + "{")))
        assert lines[first - 1].startswith(f"# TYPE {name} ")
        assert lines[first - 2].startswith(f"# HELP {name} ")
    assert "# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter" in lines
    assert "# TYPE DCGM_FI_DEV_GPU_UTIL gauge" in lines


def test_a_node_without_gpus_has_an_empty_page():
    assert render(Latest()) == ""
    assert render(Latest(gpus=GpuReport(1, []), host_identity=HostIdentity("n"))) == ""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /metrics?x=1 HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /secret HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"405"),
    ],
)
async def test_requests(latest, request_, status):

    server = await serve(latest, 0)
    host, port = server.sockets[0].getsockname()
    assert host == LOOPBACK
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request_)
    answer = await reader.read()
    writer.close()
    server.close()
    assert answer.split()[1] == status


async def test_an_endless_request_is_cut_off(latest):

    server = await serve(latest, 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x" * 200_000)
    # Reset, because what it sent was not read.
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    server.close()
