"""What is due when, and what is written down of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.ports import GpuReport, Want
from agents.sampler import STATE, Plan, Schedule, gpu_sections, node_section, wanted
from dcops.domain.metrics import GPU_HEALTH, GPU_SAMPLE, NODE_SAMPLE, TABLE_BY_CODE, TABLES
from dcops.wire import rows

ROW_BYTES = {table.code: rows.ROW[table.name].size for table in TABLES}


def sections(payload):
    return {
        TABLE_BY_CODE[section.table_code].name: section
        for section in rows.split_sections(payload, ROW_BYTES)
    }


class TestSchedule:
    def test_the_first_tick_is_due_at_the_start(self):
        schedule = Schedule(1.0, start_s=10.0)
        assert schedule.next_s == 10.0
        assert not schedule.take(9.9)
        assert schedule.take(10.0)
        assert not schedule.take(10.5)
        assert schedule.next_s == 11.0

    def test_a_late_tick_moves_no_later_one(self):
        schedule = Schedule(1.0, start_s=0.0)
        schedule.take(0.0)
        schedule.take(1.7)
        assert schedule.next_s == 2.0
        assert schedule.missed == 0

    def test_ticks_that_passed_are_missed_and_not_made_up_for(self):
        schedule = Schedule(1.0, start_s=0.0)
        schedule.take(0.0)
        assert schedule.take(4.2)
        assert not schedule.take(4.3)
        assert schedule.missed == 3
        assert schedule.next_s == 5.0

    def test_it_does_not_drift_in_a_day_of_tenths(self):
        schedule = Schedule(0.1, start_s=1_000_000.0)
        for _ in range(864_000):
            assert schedule.take(schedule.next_s)
        assert schedule.next_s == pytest.approx(1_000_000 + 86_400, abs=1e-6)
        assert schedule.missed == 0

    @given(
        every=st.floats(0.1, 100),
        gaps=st.lists(st.floats(0, 500), max_size=50),
    )
    def test_taken_and_missed_add_up_to_the_time_passed(self, every, gaps):
        schedule, now, taken = Schedule(every, 0.0), 0.0, 0
        for gap in gaps:
            now += gap
            taken += schedule.take(now)
            assert schedule.next_s > now
        if taken:
            assert taken + schedule.missed == round(schedule.next_s / every)


class TestPlan:
    def test_multiples_fall_into_one_tick(self):
        plan = Plan({"gpu_sample": 1.0, "gpu_health": 15.0, STATE: 60.0}, 5.0)
        assert plan.take(5.0) == {"gpu_sample", "gpu_health", STATE}
        due = [plan.take(plan.next_s) for _ in range(60)]
        assert [n for n, names in enumerate(due, 1) if "gpu_health" in names] == [15, 30, 45, 60]
        assert STATE in due[59]
        assert plan.missed == {"gpu_sample": 0, "gpu_health": 0, STATE: 0}

    def test_the_servers_wish_is_followed_and_can_be_withdrawn(self):
        plan = Plan({"gpu_sample": 1.0, "node_sample": 1.0}, 0.0)
        plan.take(0.0)
        plan.adopt({"gpu_sample": 5.0}, 0.5)
        plan.take(0.5)
        assert plan.take(1.0) == {"node_sample"}
        assert plan.take(5.5) == {"gpu_sample", "node_sample"}
        plan.adopt({}, 6.0)
        assert "gpu_sample" in plan.take(6.0)
        assert "gpu_sample" in plan.take(7.0)

    @pytest.mark.parametrize(("wish", "every"), [(0.0, 0.1), (-5, 0.1), (1e9, 3600)])
    def test_an_absurd_wish_is_bounded(self, wish, every):
        plan = Plan({"gpu_sample": 1.0}, 0.0)
        plan.adopt({"gpu_sample": wish}, 0.0)
        plan.take(0.0)
        assert plan.next_s == pytest.approx(every)

    def test_a_wish_for_something_unknown_changes_nothing(self):
        plan = Plan({"gpu_sample": 1.0}, 0.0)
        plan.adopt({"no_such_table": 9.0}, 0.0)
        assert plan.missed == {"gpu_sample": 0}


def test_what_is_due_becomes_one_question():
    assert wanted({"gpu_sample", "node_sample"}, inventory=False) == Want(sample=True)
    assert wanted({"gpu_health", STATE}, inventory=True) == Want(False, True, True, True)


def test_a_host_row_reads_back_as_it_was():
    readings = [None] * len(NODE_SAMPLE.metrics)
    readings[0], readings[-1] = 12.5, 3600
    section = sections(node_section(readings, 77))["node_sample"]
    assert (section.at_us, section.row_count, section.gpu_list) == (77, 1, 0)
    values = rows.ROW["node_sample"].unpack(section.rows)
    assert values[0] == 0
    assert values[1] == 1 | 1 << (len(readings) - 1)
    assert (values[2], values[-1]) == (12.5, 3600)


def test_gpu_rows_are_numbered_by_their_place_in_the_list():
    row = [None] * len(GPU_SAMPLE.metrics)
    slow = [None] * len(GPU_HEALTH.metrics)
    report = GpuReport(5, ["a", "b", "c"], sample={"c": row, "a": row}, health={"b": slow})
    found = sections(gpu_sections(report, 9))
    size = ROW_BYTES[GPU_SAMPLE.code]
    subjects = [
        rows.ROW["gpu_sample"].unpack_from(found["gpu_sample"].rows, at)[0] for at in (0, size)
    ]
    assert subjects == [0, 2]
    assert found["gpu_sample"].gpu_list == found["gpu_health"].gpu_list == 9
    assert rows.ROW["gpu_health"].unpack(found["gpu_health"].rows)[0] == 1


def test_a_report_without_readings_packs_to_nothing():
    assert gpu_sections(GpuReport(5, ["a"]), 1) == b""
