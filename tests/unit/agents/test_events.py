"""Each happening once, whoever saw it and however often it came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.adapters.kmsg import event_of, parse
from agents.events import OPEN_MAX, WINDOW_US, Ledger, short_bus_id, xid_event
from dcops.wire.frames import Event, Severity

UUIDS = {"0000:9b:00": "GPU-9b"}
SECOND = 1_000_000


def nvml(at_us, code=79):
    return xid_event(at_us, "00000000:9B:00.0", code, gpu_uuid="GPU-9b", source="nvml")


def kmsg(at_us, code=79):
    return event_of(f"NVRM: Xid (PCI:0000:9b:00): {code}, pid=1234, name=python, oh dear", at_us)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("00000000:9B:00.0", "0000:9b:00"),
        ("0000:9b:00", "0000:9b:00"),
        ("9b:00.0", "0000:9b:00"),
        ("00000001:01:1F.0", "0001:01:1f"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_bus_ids_of_driver_and_kernel_are_one(text, short):
    assert short_bus_id(text) == short


class TestOnce:
    @pytest.mark.parametrize("first", [nvml, kmsg])
    @pytest.mark.parametrize("second", [nvml, kmsg])
    def test_the_same_xid_from_both_sources_is_one_event(self, first, second):
        ledger = Ledger()
        news = ledger.admit([first(5 * SECOND), second(7 * SECOND)], UUIDS)
        assert len(news) == 1
        assert news[0].code == 79
        assert news[0].gpu_uuid == "GPU-9b"

    def test_it_is_one_also_in_separate_ticks_and_in_the_wrong_order(self):
        ledger = Ledger()
        assert ledger.admit([nvml(12 * SECOND)], UUIDS)
        assert ledger.admit([kmsg(11 * SECOND)], UUIDS) == []

    def test_another_code_or_another_gpu_is_another_event(self):
        ledger = Ledger()
        other = xid_event(SECOND, "0000:1b:00", 79, gpu_uuid="GPU-1b", source="nvml")
        assert len(ledger.admit([nvml(SECOND), nvml(SECOND, code=48), other], UUIDS)) == 3

    def test_the_same_again_after_the_window_is_news_under_another_key(self):
        ledger = Ledger()
        news = ledger.admit([nvml(0), nvml(WINDOW_US + SECOND)], UUIDS)
        assert len({event.key for event in news}) == 2

    def test_a_storm_is_one_event_and_one_summary(self):
        ledger = Ledger()
        storm = [event for n in range(500) for event in (nvml(n * 1000), kmsg(n * 1000))]
        assert len(ledger.admit(storm, UUIDS)) == 1
        assert ledger.close(WINDOW_US) == []
        summary = ledger.close(WINDOW_US + SECOND)
        assert len(summary) == 1
        assert "499 more in 10 s" in summary[0].message
        assert ledger.close(10 * WINDOW_US) == []

    def test_one_seen_by_both_is_no_repetition(self):
        ledger = Ledger()
        ledger.admit([nvml(0), kmsg(0)], UUIDS)
        assert ledger.close(2 * WINDOW_US) == []

    def test_a_flood_of_different_events_does_not_grow_without_bound(self):
        ledger = Ledger()
        flood = [nvml(0, code=code) for code in range(OPEN_MAX + 50)]
        assert len(ledger.admit(flood, UUIDS)) == len(flood)
        ledger.close(0)
        assert ledger.admit([nvml(1, code=3)], UUIDS), "forgotten, so it is news again"

    @given(
        st.lists(
            st.tuples(st.integers(0, 100 * SECOND), st.sampled_from([48, 79]), st.booleans()),
            max_size=40,
        )
    )
    def test_every_sighting_is_near_an_event_of_its_code(self, sightings):
        ledger, news = Ledger(), []
        for at_us, code, from_driver in sightings:
            news += ledger.admit([(nvml if from_driver else kmsg)(at_us, code)], UUIDS)
        for at_us, code, _ in sightings:
            assert any(
                event.code == code and abs(event.at_us - at_us) <= WINDOW_US for event in news
            )


class TestKernelLines:
    def test_an_xid(self):
        event = event_of(
            "NVRM: Xid (PCI:0000:9b:00): 79, pid='<unknown>', GPU has fallen off the bus.", 5
        )
        assert (event.kind, event.code, event.severity) == ("xid", 79, Severity.CRITICAL)
        assert "GPU has fallen off the bus" in event.message

    def test_an_xid_of_a_mig_instance(self):
        event = event_of("NVRM: Xid (PCI:0000:9b:00 GPU-I:05): 43, pid=77, Ch 00000008", 5)
        assert (event.code, event.severity) == (43, Severity.WARNING)

    def test_an_unknown_xid_is_a_warning(self):
        assert event_of("NVRM: Xid (PCI:0000:9b:00): 999, what", 5).severity == Severity.WARNING

    @pytest.mark.parametrize(
        ("text", "severity"),
        [
            (
                "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 22013, Non-fatal, Link 55",
                Severity.WARNING,
            ),
            (
                "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM",
                Severity.CRITICAL,
            ),
        ],
    )
    def test_an_nvswitch_error(self, text, severity):
        event = event_of(text, 5)
        assert (event.kind, event.severity) == ("sxid", severity)

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("NVRM: The NVIDIA GPU 0000:b3:00.0\nNVRM: fallen off the bus and", "gpu_lost"),
            (
                "NVRM: API mismatch: the client has the version 1 but this kernel module 2",
                "driver",
            ),
            ("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.65.06", "driver"),
            ("mlx5_core 0000:0c:00.0 ens3f0np0: Link down", "network"),
            (
                "Out of memory: Killed process 4242 (python) total-vm:1kB, anon-rss:1kB",
                "kernel",
            ),
            ("INFO: task python:4242 blocked for more than 120 seconds.", "kernel"),
            ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0", "memory"),
            (
                "pcieport 0000:00:01.0: AER: Uncorrectable (Fatal) error message received",
                "pcie",
            ),
        ],
    )
    def test_other_trouble(self, text, kind):
        assert event_of(text, 5).kind == kind

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "usb 1-1: new high-speed USB device",
            "NVRM: nothing of note",
            "EXT4-fs (vda): mounted filesystem",
        ],
    )
    def test_the_rest_is_nothing_to_us(self, text):
        assert event_of(text, 5) is None

    def test_a_record_is_taken_apart(self):
        line = parse(b"4,1234,5678901,-;NVRM: Xid (PCI:0000:01:00): 31, pid=1\n SUBSYSTEM=pci\n")
        assert (line.sequence, line.since_boot_us) == (1234, 5678901)
        assert line.text == "NVRM: Xid (PCI:0000:01:00): 31, pid=1"

    @given(st.binary(max_size=300))
    def test_no_bytes_are_too_strange(self, record):
        line = parse(record)
        if line is not None:
            found = event_of(line.text, 0)
            assert found is None or isinstance(found, Event)
