"""What the live panels say about a fleet."""

import msgspec
import pytest
from django.utils import translation

from dashboards.frames import PanelKey, frame, frame_bytes
from dashboards.live_state import EventLine, Refused
from dashboards.panels import overview
from dashboards.panels.attention import make_attention, make_events
from dashboards.panels.cells import marks, rounded, values
from dashboards.panels.tiles import make_tiles, totals
from dashboards.units import UNKNOWN
from dcops.domain.errors import NotFound
from tests.integration.dashboards.fleet import NOW_US, Fleet, node


def event(
    level="critical",
    kind="xid",
    code=79,
    gpu_id=None,
    node_id=None,
    ago_s=10,
    message="raw <b>line</b>",
):
    return EventLine(NOW_US - ago_s * 1_000_000, level, kind, message, code, node_id, gpu_id)


def tile(fleet, key, **more):
    return next(tile for tile in make_tiles(fleet.view(**more)) if tile["key"] == key)


def test_a_cell_says_by_its_mark_what_hides_or_spoils_the_reading():
    fleet = Fleet([node(1, "a", 6), node(2, "b", 1, state="pending")])
    for pk in (100, 101, 102, 104, 200):
        fleet.gpu(pk, utilization_percent=50, clock_event_reasons=0x40 if pk == 101 else 0x4)
    fleet.health(102, recovery_action=1)
    fleet.gpu(103, age_s=21, utilization_percent=50)
    fleet.events = [event(gpu_id=104)]
    assert marks(fleet.view()) == ".tfsfmp"


def test_an_old_critical_event_is_no_fault_any_more():
    fleet = Fleet([node(1, "a", 1)])
    fleet.gpu(100, utilization_percent=1)
    fleet.events = [event(gpu_id=100, ago_s=3601)]
    assert marks(fleet.view()) == "."


def test_a_node_without_gpus_is_one_host_cell_with_the_hosts_value():
    fleet = Fleet([node(1, "a", 1), node(2, "b")])
    fleet.gpu(100, utilization_percent=70)
    fleet.host(2, cpu_percent=12.4)
    assert rounded(values(fleet.view(), "utilization")[0]) == [70, 12]
    assert marks(fleet.view()) == ".."


def test_a_missing_reading_is_null_and_never_zero():
    fleet = Fleet([node(1, "a", 2)])
    fleet.gpu(100, power_average_w=0)
    fleet.gpu(101, utilization_percent=5)
    assert rounded(values(fleet.view(), "power")[0]) == [0, None]


def test_memory_is_a_share_of_what_is_installed():
    fleet = Fleet([node(1, "a", 1)])
    fleet.gpu(100, memory_used_bytes=20 << 30)
    assert rounded(values(fleet.view(), "memory")[0]) == [25]


def test_the_power_scale_ends_at_the_highest_limit():
    assert values(Fleet([node(1, "a", 1)]).view(), "power")[1].maximum == 700


def test_tiles_count_only_what_is_live():
    fleet = Fleet([node(1, "a", 4)])
    fleet.gpu(100, utilization_percent=90, power_average_w=600, tensor_active_ratio=0.5)
    fleet.gpu(101, utilization_percent=0, power_average_w=100, tensor_active_ratio=0.1)
    fleet.gpu(102, age_s=60, utilization_percent=90, power_average_w=600, tensor_active_ratio=0.9)
    assert (tile(fleet, "used")["value"], tile(fleet, "used")["unit"]) == ("1", "of 4")
    assert "2 not reporting" in tile(fleet, "used")["note"]
    assert tile(fleet, "power")["value"] == "700"
    assert tile(fleet, "useful")["value"] == "30"


def test_a_gpu_with_a_process_is_in_use_even_while_idle():
    fleet = Fleet([node(1, "a", 1)])
    fleet.gpu(100, utilization_percent=0)
    fleet.health(100, compute_processes=1)
    assert tile(fleet, "used")["value"] == "1"


def test_unknown_tensor_activity_is_said_and_not_made_up():
    fleet = Fleet([node(1, "a", 1)])
    fleet.gpu(100, utilization_percent=100)
    assert tile(fleet, "useful")["value"] == UNKNOWN
    assert totals(fleet.view())["tensor"] is None


def test_a_fleet_without_gpus_gets_the_hosts_tiles():
    fleet = Fleet([node(1, "a")])
    fleet.host(1, cpu_percent=12.5, memory_used_bytes=2 << 30, memory_available_bytes=6 << 30)
    shown = {tile["key"]: tile for tile in make_tiles(fleet.view())}
    assert set(shown) == {"reporting", "cpu", "memory", "pressure", "network", "disk"}
    assert shown["cpu"]["value"] == "12"
    assert (shown["memory"]["value"], shown["memory"]["bar"]) == ("2", 0.25)
    assert shown["network"]["value"] == UNKNOWN


def test_an_empty_fleet_has_a_page_too():
    made = overview.snapshot(Fleet([]).view(), "power")
    assert (made["values"], made["marks"], made["nodes"], made["hosts"]) == ([], "", [], [])


def test_what_needs_a_person_is_said_in_sentences_the_worst_first():
    fleet = Fleet(
        [
            node(1, "silent", 8),
            node(2, "new", state="pending"),
            node(3, "hot", 2),
            node(4, "never"),
        ]
    )
    fleet.host(1, age_s=125)
    for pk in (2, 3):
        fleet.host(pk)
    fleet.gpu(300, clock_event_reasons=0x20)
    fleet.gpu(301, clock_event_reasons=0)
    fleet.events = [event(gpu_id=301)]
    fleet.refused = [Refused(NOW_US, 3, "its rows do not add up")]
    said = [(line["level"], line["text"]) for line in make_attention(fleet.view())]
    assert ("bad", "hot GPU 1: Xid 79: GPU has fallen off the bus") in said
    assert ("bad", "silent has been silent for 2 min") in said
    assert ("warn", "never has not sent anything yet") in said
    assert ("warn", "1 GPU of hot is slowed down by heat or hardware") in said
    assert ("warn", "1 batch of hot could not be read") in said
    assert ("info", "new asks to join") in said
    order = [level for level, _ in said]
    assert order == sorted(order, key=["bad", "warn", "info"].index)


def test_a_node_last_heard_long_ago_is_silent_and_not_new():
    fleet = Fleet([node(1, "a")])
    fleet.last_heard_us = {1: NOW_US - 3600 * 1_000_000}
    assert make_attention(fleet.view())[0]["text"] == "a has been silent for 1 h 00 min"


def test_calm_is_an_empty_list():
    fleet = Fleet([node(1, "a", 1)])
    fleet.host(1)
    fleet.gpu(100, clock_event_reasons=0x1 | 0x4)
    assert make_attention(fleet.view()) == []


def test_events_name_their_place_and_link_there():
    fleet = Fleet([node(1, "a", 1)])
    fleet.events = [
        event(gpu_id=100, kind="driver", code=None, level="info"),
        event(node_id=1, kind="agent", code=None),
        event(node_id=99),
    ]
    lines = make_events(fleet.view())
    assert [(line["detail"], line["href"]) for line in lines[:2]] == [
        ("a GPU 0", "/gpus/GPU-a-0/"),
        ("a", "/nodes/a/"),
    ]
    assert lines[0]["text"] == "raw <b>line</b>"
    assert lines[2]["detail"] == "the fleet"


def test_only_the_snapshot_carries_the_seats():
    view = Fleet([node(1, "a", 2, simulated=True)]).view(trends={"power": [1.0]})
    assert overview.snapshot(view, "power")["nodes"] == [
        {"name": "a", "state": "approved", "simulated": True, "gpus": [0, 1], "model": "H100"}
    ]
    assert "nodes" not in overview.frame(view, "power")
    assert overview.frame(view, "power")["layout"] == overview.snapshot(view, "power")["layout"]


def test_the_same_panel_is_said_in_the_viewers_language():
    view = Fleet([node(1, "a", 1)]).view()
    said = {
        language: msgspec.json.decode(
            frame_bytes(PanelKey("overview", "", "power", language), view, "update", 7)
        )
        for language in ("en", "zh-hans")
    }
    assert said["en"]["tiles"][0]["label"] == "GPUs in use"
    assert said["zh-hans"]["tiles"][0]["label"] == "使用中的 GPU"
    assert said["en"]["seq"] == 7


@pytest.mark.parametrize(
    "key",
    [
        PanelKey("overview", "", "colour", "en"),
        PanelKey("node", "b", "", "en"),
        PanelKey("gpu", "GPU-x", "", "en"),
        PanelKey("", "", "", "en"),
    ],
)
def test_a_panel_that_is_not_there_is_refused(key):
    view = Fleet([node(1, "a", 1)]).view()
    with pytest.raises(NotFound), translation.override("en"):
        frame(key, view, "snapshot")
    assert msgspec.json.decode(frame_bytes(key, view, "update", 1))["gone"] is True


def test_the_node_panel_holds_each_gpus_newest_row():
    fleet = Fleet([node(1, "a", 2), node(2, "b", 1)])
    fleet.host(1, cpu_percent=40)
    fleet.gpu(101, power_average_w=333)
    made = frame(PanelKey("node", "a", "", "en"), fleet.view(), "snapshot")
    assert made["live"] is True
    assert made["host"]["cpu_percent"] == 40
    assert made["host"]["load_1m"] is None
    assert [gpu["sample"]["power_average_w"] for gpu in made["gpus"]] == [None, 333]
    assert [gpu["live"] for gpu in made["gpus"]] == [False, True]
