"""The simulated hall obeys the physics it claims."""

import numpy as np
import pytest

from agents.sim.catalog import H100
from agents.sim.physics import (
    HARDWARE_THERMAL,
    HEATING_S,
    POWER_CAP,
    RISE_AT_LIMIT_C,
    THERMAL,
    Block,
    Place,
    gpu_columns,
    health_columns,
)
from agents.sim.workload import JobKind

NOON = 1_767_268_800.0


def block(
    nodes: int = 2,
    gpus: int = 8,
    seed: int = 7,
    resistance: float = 1.0,
    xids_per_gpu_hour: float = 0.0,
) -> Block:
    """Nodes of one rack, all H100."""
    return Block(
        [H100] * nodes,
        [Place(0, height, resistance=resistance) for height in range(nodes)],
        gpus,
        seed=(seed,),
        xids_per_gpu_hour=xids_per_gpu_hour,
    )


def forever(hall: Block, kind: JobKind) -> None:
    """Make every node do one thing for the rest of the test; training without stalls."""
    workload = hall.workload
    workload.kind[:] = kind
    workload._left_s[:] = 1e9
    workload._stall[:] = 0.0
    workload._level[:] = 1.0
    workload._age_s[:] = 20.0


def run(hall: Block, seconds: int, start: float = NOON) -> None:
    for second in range(seconds):
        hall.step(1.0, start + second)


def test_energy_is_the_integral_of_power():
    hall = block()
    before, joules = hall.energy_mj.copy(), np.zeros(hall.shape)
    for second in range(300):
        hall.step(1.0, NOON + second)
        joules += hall.power_w
    assert hall.energy_mj - before == pytest.approx(joules * 1000, rel=1e-9)


def test_energy_integrates_whatever_the_step():
    hall = block()
    before = hall.energy_mj.copy()
    hall.step(0.25, NOON)
    assert hall.energy_mj - before == pytest.approx(hall.power_w * 250, rel=1e-6)


def test_power_follows_load():
    idle, busy = block(), block()
    forever(idle, JobKind.IDLE)
    forever(busy, JobKind.TRAINING)
    run(idle, 60)
    run(busy, 60)
    assert idle.power_w == pytest.approx(idle.idle_w, rel=0.01)
    assert busy.power_w.min() > 3 * idle.power_w.max()


def test_temperature_has_inertia():
    """After a step of power it has covered 63 % of the way in one time constant, and no jump in the first second."""
    hall = block(nodes=1, gpus=1)
    forever(hall, JobKind.IDLE)
    run(hall, 600)
    cold = hall.temperature_c.copy()
    forever(hall, JobKind.TRAINING)
    hall.step(1.0, NOON)
    assert (hall.temperature_c - cold < 3.0).all()
    run(hall, round(HEATING_S) - 1)
    warm = hall.temperature_c - cold
    run(hall, 600)
    settled = hall.temperature_c - cold
    assert 0.5 < float((warm / settled).item()) < 0.75
    assert float(settled.item()) > 25


def test_the_rear_row_breathes_what_the_front_row_warmed():
    hall = block(nodes=1)
    forever(hall, JobKind.TRAINING)
    run(hall, 400)
    air = hall.air_c(NOON)[0]
    assert air[4:].min() > air[:4].max() + 3


def test_a_neighbour_at_work_warms_an_idle_gpu():
    hall = block(nodes=1, gpus=2)
    forever(hall, JobKind.IDLE)
    run(hall, 300)
    before = float(hall.air_c(NOON)[0, 1])
    hall.power_w[0, 0] = 700.0
    assert float(hall.air_c(NOON)[0, 1]) > before + 5


def test_the_top_of_a_working_rack_is_warmer_than_its_bottom():
    hall = block(nodes=4)
    forever(hall, JobKind.TRAINING)
    run(hall, 300)
    inlet = hall.inlet_c(NOON)
    assert list(inlet) == sorted(inlet)
    assert inlet[3] > inlet[0] + 1


def test_the_day_warms_the_inlet():
    hall = block()
    hours = [float(hall.inlet_c(hour * 3600.0)[0]) for hour in range(24)]
    assert 13 <= int(np.argmax(hours)) <= 17
    assert max(hours) - min(hours) > 3


def test_the_power_limit_holds_and_says_so():
    """Full load runs into the limit: power stays under it, clocks give way, the reason and the time are counted."""
    hall = block()
    forever(hall, JobKind.TRAINING)
    capped = False
    for second in range(120):
        hall.step(1.0, NOON + second)
        at_cap = (hall.reasons & POWER_CAP) > 0
        assert (hall.power_w <= hall.limit_w).all()
        assert (hall.clock_ratio[at_cap] < 1).all()
        capped |= bool(at_cap.any())
    assert capped
    assert hall.throttle_power_ns.max() > 1e9
    assert health_columns(hall)["throttle_power_ns"] is hall.throttle_power_ns


def test_bad_air_makes_clocks_give_way_to_heat():
    hall = block(resistance=1.6)
    forever(hall, JobKind.TRAINING)
    run(hall, 900)
    hot = (hall.reasons & (THERMAL | HARDWARE_THERMAL)) > 0
    assert hot.any()
    assert (hall.clock_ratio[hot] < 0.999).all()
    assert hall.throttle_thermal_ns[hot].min() > 1e9
    assert hall.temperature_c.max() < H100.temperature_shutdown_c


def test_good_air_never_throttles_by_heat():
    hall = block()
    forever(hall, JobKind.TRAINING)
    run(hall, 900)
    assert hall.throttle_thermal_ns.max() == 0
    assert hall.temperature_c.max() < H100.temperature_slowdown_c
    assert hall.temperature_c.max() > 22 + 0.8 * RISE_AT_LIMIT_C


def test_a_straggler_slows_its_whole_job():
    """The other GPUs of the job wait for the slow one, so they draw less than they would."""
    slow, fast = block(nodes=1), block(nodes=1)
    slow.clock_cap[:] = 1.0
    fast.clock_cap[:] = 1.0
    slow.clock_cap[0, 0] = 0.6
    forever(slow, JobKind.TRAINING)
    forever(fast, JobKind.TRAINING)
    run(slow, 200)
    run(fast, 200)
    assert slow.load.compute[0, 1:].max() < fast.load.compute[0, 1:].max()
    assert slow.power_w[0, 1:].max() < fast.power_w[0, 1:].max()


@pytest.mark.parametrize("code", [48, 94])
def test_an_uncorrectable_error_counts_and_asks_for_a_reset(code: int):
    hall = block()
    hall.suffer(0, 3, code)
    health = health_columns(hall)
    assert health["ecc_uncorrected_volatile"][0, 3] == 1
    assert health["row_remap_pending"][0, 3] == 1
    assert health["recovery_action"][0, 3] == 1
    assert health["ecc_uncorrected_volatile"].sum() == 1


def test_a_gpu_off_the_bus_comes_back():
    hall = block()
    hall.suffer(1, 2, 79)
    hall.step(1.0, NOON)
    assert list(zip(*np.nonzero(hall.lost), strict=True)) == [(1, 2)]
    run(hall, 200)
    assert not hall.lost.any()


def test_xids_come_at_about_their_rate():
    hall = block(nodes=50, xids_per_gpu_hour=3.6)
    happened = [event for second in range(250) for event in hall.step(1.0, NOON + second)]
    assert 60 < len(happened) < 150
    assert len({event.xid.code for event in happened}) > 3


def test_the_same_seed_gives_the_same_numbers():
    one, two, other = block(seed=3), block(seed=3), block(seed=4)
    for hall in (one, two, other):
        run(hall, 50)
    for name, readings in gpu_columns(one).items():
        assert np.array_equal(readings, gpu_columns(two)[name]), name
    assert not np.array_equal(one.power_w, other.power_w)
