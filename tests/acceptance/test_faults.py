"""The soaks at reduced counts: faults under load, the outage, and the proof that their oracle sees a planted bug."""

import pytest

from tests.bench.server import ScratchServer
from tests.servers import make_data_dir
from tests.soak.chaos import run_chaos, wait_until
from tests.soak.hallprocess import HallProcess
from tests.soak.oracle import Judgement, judge, read_hall
from tests.soak.outage import run_outage

pytestmark = pytest.mark.xdist_group("scratch-server")
NODES, GPUS = 3, 2


@pytest.fixture
def directory():
    made = make_data_dir()
    made.chmod(0o711)
    yield made
    made.rmdir()


def crash_with_batches_in_memory(directory, app: str | None = None) -> Judgement:
    """PostgreSQL dies, batches pile up in the web process, then that dies too; all is started again, drained and judged."""
    with ScratchServer(directory=directory, app=app) as server:
        with HallProcess(server, NODES, gpus=GPUS, journal=True) as hall:
            hall.wait_until_settled()
            server.kill("postgres")
            produced = hall.counts()["produced"]
            wait_until(lambda: hall.counts()["produced"] >= produced + 4 * NODES, 30.0)
            server.kill("web")
            server.start("postgres")
            server.start("web")
            server.wait_until_ready()
            wait_until(lambda: hall.counts()["connected"] == NODES, 60.0)
            hall.finish()
        records, lists = read_hall(hall.state_dir, hall.journal, NODES, GPUS)
        with server.connect() as connection:
            return judge(connection, records, lists)


def test_batches_in_the_memory_of_a_killed_server_come_again(directory):
    verdict = crash_with_batches_in_memory(directory)
    assert verdict.wrong == 0, verdict.examples
    assert verdict.stored == verdict.rows > 50


def test_the_oracle_finds_a_server_that_acknowledges_before_the_commit(directory):
    verdict = crash_with_batches_in_memory(directory, "tests.soak.faulty:ack_before_commit")
    assert verdict.missing > 0


def test_nothing_is_lost_twice_or_wrong_when_parts_are_killed(directory):
    with ScratchServer(directory=directory) as server:
        report = run_chaos(
            server, seconds=6.0, nodes=NODES, gpus=GPUS, agents=1, every_s=1.0, down_s=1.0, seed=4
        )
    assert report.verdict.wrong == 0, report.verdict.examples
    assert report.verdict.stored == report.verdict.rows > 50
    assert report.kills.total() > 2


def test_every_loss_of_an_outage_is_a_recorded_gap(directory):
    """The spool reaches its bound and the disk is full while the server is away: stored + gaps = produced exactly."""
    with ScratchServer(directory=directory) as server:
        found = run_outage(server, seconds=12.0, agents=1, spool_kib=40)
    assert found.verdict.wrong == 0, found.verdict.examples
    assert found.verdict.stored + found.verdict.gapped == found.verdict.rows
    assert set(found.reasons) == {"the spool reached its limit", "the disk did not take it"}
