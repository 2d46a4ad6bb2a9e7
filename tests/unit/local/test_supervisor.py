"""A child that dies comes back, later and later; the end reaches everybody, the programs before their servers."""

import pytest

from dcops.local.errors import LocalError
from dcops.local.supervisor import MAX_DELAY_S, Supervisor, next_delay


class FakeProcess:
    returncode = None

    def poll(self):
        return self.returncode


class FakeChild:
    def __init__(self, name, log, *, fails=0):
        self.name, self.log, self.fails, self.process = name, log, fails, None

    def start(self):
        self.log.append(f"start {self.name}")
        if self.fails:
            self.fails -= 1
            raise LocalError("no room")
        self.process = FakeProcess()

    def ask_to_end(self):
        self.log.append(f"ask {self.name}")

    def stop(self):
        self.log.append(f"stop {self.name}")

    def die(self, status):
        self.process.returncode = status


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def stage():
    said, log, clock = [], [], Clock()
    return Supervisor(said.append, clock), log, clock, said


def test_the_delay_doubles_up_to_a_bound_and_starts_anew_after_a_steady_life():
    delays, delay = [], 0.0
    for _ in range(9):
        delay = next_delay(delay, lived_s=1.0)
        delays.append(delay)
    assert delays == [0.5, 1, 2, 4, 8, 16, MAX_DELAY_S, MAX_DELAY_S, MAX_DELAY_S]
    assert next_delay(MAX_DELAY_S, lived_s=60.0) == 0.5


def test_a_dead_child_is_started_again_after_its_delay_and_not_before(stage):
    supervisor, log, clock, said = stage
    child = FakeChild("web", log)
    supervisor.start(child)
    supervisor.look()
    assert log == ["start web"]
    child.die(-9)
    supervisor.look()
    clock.now += 0.4
    supervisor.look()
    assert log == ["start web"]
    clock.now += 0.2
    supervisor.look()
    assert log == ["start web", "stop web", "start web"]
    assert said == ["web ended (killed by SIGKILL); starting it again in 0.5 s."]


def test_a_child_that_cannot_be_started_again_is_tried_later_and_keeps_nobody_else(stage):
    supervisor, log, clock, said = stage
    broken, other = FakeChild("web", log), FakeChild("beat", log)
    supervisor.start(broken)
    supervisor.start(other)
    broken.fails = 1
    broken.die(1)
    other.die(1)
    supervisor.look()
    clock.now += 1
    supervisor.look()
    assert log[2:] == ["stop web", "start web", "stop beat", "start beat"]
    assert "web cannot be started: no room" in said
    clock.now += 30
    supervisor.look()
    assert log[6:] == ["stop web", "start web"]


def test_the_end_asks_all_first_and_stops_the_servers_last(stage):
    supervisor, log, _, _ = stage
    for name in ("PostgreSQL", "web", "agent"):
        supervisor.start(FakeChild(name, log))
    log.clear()
    supervisor.stop()
    assert log[3:] == ["stop agent", "stop web", "stop PostgreSQL"]
    assert {entry.split()[0] for entry in log[:3]} == {"ask"}


def test_a_child_whose_first_start_fails_is_not_watched(stage):
    supervisor, log, _, _ = stage
    with pytest.raises(LocalError):
        supervisor.start(FakeChild("web", log, fails=1))
    supervisor.look()
    supervisor.stop()
    assert log == ["start web"]
