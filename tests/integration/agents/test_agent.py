"""A whole agent as a process: from a reading to an acknowledged record, its commands, and its end."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from dcops.domain.metrics import TABLE_BY_CODE, TABLES
from dcops.wire import frames, rows
from tests.fakes import node
from tests.fakes.server import FakeServer, until

ROW_BYTES = {table.code: rows.ROW[table.name].size for table in TABLES}


async def run(*arguments, **environment):
    """Run `dcops-agent` to its end. Returns (exit status, standard output, standard error)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agents.run",
        *arguments,
        cwd=node.ROOT,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def tables(server):
    """The tables of every metrics record that the server has."""
    found = {}
    for payload in list(server.ledger.delivered.values()):
        if payload[:1] in (b"\x91", b"\x92", b"\x93"):
            continue
        for section in rows.split_sections(payload, ROW_BYTES):
            found.setdefault(TABLE_BY_CODE[section.table_code].name, []).append(section)
    return found


def listening(pid):
    """Addresses on which a process listens, from its descriptors and /proc/net."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(link) if link.is_symlink() else ""
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[9] in inodes and columns[3] in ("0A", "07"):
                found.append(columns[1])
    return found


async def stop(process):
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        return await process.wait()


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


async def test_readings_of_gpus_and_host_arrive_and_sigterm_ends_it_cleanly(state_dir):
    async with FakeServer() as server:
        node.join(state_dir, server)
        async with node.agent(state_dir, node.scripted("steady", state_dir, 3)) as process:
            await until(
                lambda: {"gpu_sample", "gpu_health", "node_sample"} <= set(tables(server)), 40
            )
            assert listening(process.pid) == []
            assert await stop(process) == 0
    sample = tables(server)["gpu_sample"][0]
    assert sample.row_count == 3
    lists = [frame for frame in server.others if isinstance(frame, frames.GpuList)]
    assert sample.gpu_list in {one.list_id for one in lists}
    inventory = [frame for frame in server.others if isinstance(frame, frames.Inventory)][-1]
    assert [gpu.index for gpu in inventory.gpus] == [0, 1, 2]
    assert any(isinstance(frame, frames.NodeState) for frame in server.others)


async def test_a_storm_of_one_xid_arrives_as_one_event(state_dir):
    def xids():
        return [
            happening
            for payload in list(server.ledger.delivered.values())
            if payload[:1] == b"\x91"
            for happening in frames.decode_happenings(payload)
            if isinstance(happening, frames.Event) and happening.kind == "xid"
        ]

    async with FakeServer() as server:
        node.join(state_dir, server)
        async with node.agent(state_dir, node.scripted("xid", state_dir, 1)) as process:
            await until(xids, 40)
            assert await stop(process) == 0
    (event,) = xids()
    assert event.code == 79
    assert event.gpu_uuid.startswith("GPU-")


async def test_the_host_arrives_while_the_driver_hangs(state_dir):
    async with FakeServer() as server:
        node.join(state_dir, server)
        collector = node.scripted("always-hangs", state_dir, 1)
        async with node.agent(state_dir, collector) as process:
            await until(lambda: len(tables(server).get("node_sample", [])) >= 3, 40)
            assert "gpu_sample" not in tables(server)
            assert await stop(process) == 0


async def test_no_process_is_left_behind_by_a_killed_agent(state_dir):
    async with FakeServer() as server:
        node.join(state_dir, server)
        async with node.agent(state_dir, node.scripted("steady", state_dir, 1)) as process:
            await until(lambda: "gpu_sample" in tables(server), 40)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert children
            process.kill()
            await process.wait()
            await until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


async def test_two_agents_do_not_share_a_state_folder(state_dir):
    async with FakeServer() as server:
        node.join(state_dir, server)
        async with node.agent(state_dir) as process:
            await until(lambda: server.batches > 0, 40)
            status, _, err = await run("run", "--state-dir", str(state_dir))
            assert status == 1
            assert "runs with" in err
            assert await stop(process) == 0


async def test_it_tells_systemd_that_it_is_ready_and_that_it_stops(state_dir, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(40)
        async with FakeServer() as server:
            node.join(state_dir, server)
            async with node.agent(
                state_dir, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="30000000"
            ) as process:
                said = [await asyncio.to_thread(end.recv, 100) for _ in range(2)]
                assert said == [b"READY=1", b"WATCHDOG=1"]
                assert await stop(process) == 0
                last = b""
                while last != b"STOPPING=1":
                    last = await asyncio.to_thread(end.recv, 100)


async def test_metrics_are_served_on_loopback_when_asked_for(state_dir):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with FakeServer() as server:
        node.join(state_dir, server)
        async with node.agent(state_dir, DCOPS_AGENT_METRICS_PORT=str(port)) as process:
            await until(lambda: server.batches > 0, 40)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert [address.split(":")[0] for address in listening(process.pid)] == ["0100007F"]
            assert await stop(process) == 0


async def test_once_prints_one_full_reading_as_json():
    status, out, _ = await run("once", "--json")
    reading = json.loads(out)
    assert status == 0
    assert reading["host"]["readings"]["memory_used_bytes"] > 0
    assert reading["host"]["readings"]["cpu_percent"] is not None
    assert set(reading) == {"host", "gpus", "processes", "events", "findings"}


async def test_doctor_speaks_of_every_source(state_dir):
    status, out, _ = await run("doctor", "--state-dir", str(state_dir))
    assert status == 0
    for subject in ("GPUs", "kernel log", "InfiniBand", "CPU power", "state folder", "server"):
        assert subject in out
    assert "dcops-agent join" in out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["once", "--gpu-sample-s", "x"], 2, "--gpu-sample-s must be a number"),
        (["run", "--state-dir", "/proc/nowhere"], 1, "cannot be used"),
        (["join", "--server", "http://localhost:1"], 1, "--token"),
        (
            ["join", "--server", "http://localhost:1", "--token", "nonsense"],
            1,
            "not a dcops join token",
        ),
        (["run", "--config", "/none.toml"], 2, "cannot be read"),
    ],
)
async def test_wrong_use_is_one_sentence(arguments, status, words):
    returned, _, err = await run(*arguments, DCOPS_JOIN_TOKEN="")
    assert returned == status
    assert words in err
    assert "Traceback" not in err


async def test_a_node_that_has_not_joined_is_told_how(state_dir):
    status, _, err = await run("run", "--state-dir", str(state_dir))
    assert status == 1
    assert "dcops-agent join" in err
    assert "Traceback" not in err
