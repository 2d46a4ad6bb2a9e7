"""`dcops up` on this machine: it starts, ends, recovers, and says in one sentence why it cannot."""

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import psycopg
import pytest

from dcops.local.instance import Instance
from tests.acceptance.launcher import DCOPS, Launcher, clean_environment, wait_until
from tests.servers import make_data_dir

pytestmark = pytest.mark.xdist_group("up")


@pytest.fixture
def home():
    """A data directory that a test starts again and again, as an operator does."""
    base = make_data_dir()
    yield base / "data"
    shutil.rmtree(base, ignore_errors=True)


def _listeners(pids):
    found = set()
    for pid in pids:
        try:
            connections = psutil.Process(pid).net_connections(kind="inet")
        except psutil.NoSuchProcess:
            continue
        found |= {c.laddr[:2] for c in connections if c.status == psutil.CONN_LISTEN}
    return found


def test_it_starts_with_this_machines_agent_listens_on_loopback_only_and_leaves_nothing(home):
    with Launcher(home) as dcops:
        dcops.wait_until_ready()
        assert dcops.fetch("/healthz")[0] == 200
        link = next(line.strip() for line in dcops.said.splitlines() if "/set-up/" in line)
        assert dcops.fetch(link.removeprefix(dcops.url()))[0] == 200
        wait_until(lambda: _numbers(home), 30, lambda: (home / "log" / "agent.log").read_text())
        assert _listeners(dcops.processes()) == {("127.0.0.1", dcops.port)}
        assert _query(home, "SELECT name, state, simulated FROM fleet_node")[0][1:] == (
            "approved",
            False,
        )
        actions = {row[0] for row in _query(home, "SELECT action FROM audit_event")}
        assert {"join_token.create", "node.join"} <= actions
        assert dcops.end(signal.SIGINT) == 0
        dcops.wait_until_nothing_is_left()


def _numbers(home):
    return _query(home, "SELECT count(*) FROM node_sample")[0][0] > 0


def _query(home, statement):
    with psycopg.connect(Instance(home).attached_urls().owner) as owner:
        return owner.execute(statement).fetchall()


def test_after_a_kill_nothing_runs_and_the_next_start_keeps_the_data_beside_another(home):
    with Launcher(home) as dcops:
        dcops.wait_until_ready()
        wait_until(lambda: _numbers(home), 30, dcops.evidence)
        with psycopg.connect(Instance(home).attached_urls().owner) as owner:
            owner.execute("CREATE TABLE left_behind AS SELECT 1")
        dcops.process.kill()
        dcops.process.wait()
        dcops.wait_until_nothing_is_left()
    orphan = subprocess.Popen(
        ["sleep", "600"], env=clean_environment(DCOPS_INSTANCE=str(home)), start_new_session=True
    )
    (home / "postgres" / "postmaster.pid").write_text(f"{orphan.pid}\n{home / 'postgres'}\n")
    second_home = home.with_name("second")
    with Launcher(home) as first, Launcher(second_home, "--no-agent") as second:
        first.wait_until_ready()
        assert orphan.wait(5) == -signal.SIGKILL
        assert "Ended 1 processes" in first.said
        assert _query(home, "SELECT count(*) FROM left_behind") == [(1,)]
        # The port is another one now, and this machine still the same node.
        before = _query(home, "SELECT count(*) FROM node_sample")
        wait_until(
            lambda: _query(home, "SELECT count(*) FROM node_sample") > before, 30, first.evidence
        )
        assert _query(home, "SELECT count(*) FROM fleet_node") == [(1,)]
        second.wait_until_ready()
        assert "Another dcops runs" in _refused(home)
        for word in ("dcops.asgi:application", "redis-server", "postgres -D"):
            _kill(first, word)
        wait_until(lambda: _is_ready(second), 30, lambda: second.said)
        wait_until(lambda: _is_ready(first), 60, lambda: first.said)
        assert first.end() == second.end() == 0
        first.wait_until_nothing_is_left()
        second.wait_until_nothing_is_left()


def test_outside_servers_serve_instead_of_the_embedded_ones(servers, worker_name, tmp_path):
    urls = servers.fresh_database(f"outside_{worker_name}")
    given = {
        "DCOPS_OWNER_DATABASE_URL": urls.owner,
        "DCOPS_DATABASE_URL": urls.app,
        "DCOPS_CELERY_URL": servers.redis_urls.celery,
        "DCOPS_LIVE_URL": servers.redis_urls.live,
    }
    with Launcher(tmp_path / "data", "--no-agent", **given) as dcops:
        dcops.wait_until_ready()
        assert _is_ready(dcops)
        names = {psutil.Process(pid).name() for pid in dcops.processes()}
        assert not {"postgres", "redis-server", "valkey-server"} & names
        assert dcops.end() == 0
        dcops.wait_until_nothing_is_left()
    assert not (tmp_path / "data" / "postgres").exists()


def _is_ready(dcops):
    try:
        return json.loads(dcops.fetch("/readyz")[1])["state"] == "ready"
    except OSError:
        return False


def _kill(dcops, word):
    victims = [pid for pid in dcops.processes() if word in _command_line(pid)]
    assert victims, word
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


def _command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except FileNotFoundError:  # ended since it was listed
        return ""


def _refused(data_dir, *arguments, user=None, **environment):
    """Start dcops where it cannot start; it must say one sentence, and quickly. Returns that sentence."""
    done = subprocess.run(
        [DCOPS, "up", "--data-dir", data_dir, *arguments],
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        user=user,
    )
    assert done.returncode == 1, done
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_busy_port_says_so(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert f"Port {port} is in use" in _refused(tmp_path / "data", "--port", str(port))


def test_a_directory_that_cannot_be_written_says_so(tmp_path):
    assert "cannot be used" in _refused("/proc/dcops")


def test_a_foreign_database_directory_says_so(tmp_path):
    foreign = tmp_path / "data" / "postgres"
    foreign.mkdir(parents=True)
    (tmp_path / "data" / "dcops.lock").touch()
    (foreign / "PG_VERSION").write_text("18\n")
    assert "was not made by dcops" in _refused(tmp_path / "data", "--port", "18999")
    (foreign / "dcops-instance").touch()
    (foreign / "PG_VERSION").write_text("16\n")
    assert "made by PostgreSQL 16" in _refused(tmp_path / "data", "--port", "18999")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"DCOPS_DATABASE_URL": "postgresql://a:b@localhost/x"},
            "DCOPS_OWNER_DATABASE_URL is not set",
        ),
        ({"DCOPS_LIVE_URL": "redis://localhost"}, "DCOPS_CELERY_URL is not set"),
        ({"DCOPS_PUBLIC_URL": "http://gpu.example"}, "TLS only"),
    ],
)
def test_half_a_setting_says_so(tmp_path, environment, sentence):
    assert sentence in _refused(tmp_path / "data", "--port", "18998", **environment)
    assert not list(tmp_path.glob("data/postgres"))


def test_a_wrong_setting_of_the_product_says_so(home):
    assert "DCOPS_RAW_DAYS is 'many'" in _refused(home, "--port", "18997", DCOPS_RAW_DAYS="many")
    assert "DCOPS_SECRET_KEY is weak" in _refused(
        home, "--port", "18997", DCOPS_SECRET_KEY="short"
    )
