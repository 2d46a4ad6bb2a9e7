"""Reading /dev/kmsg: a pipe stands for the device, since both give one record a read."""

import os

import pytest

from agents.adapters.kmsg import KernelLog, finding

XID = "6,{},{},-;NVRM: Xid (PCI:0000:9b:00): 79, pid=1, GPU has fallen off the bus.\n"


class Device:
    """Records in a FIFO. A read takes all that was written, so each record is written and read by itself."""

    def __init__(self, folder):
        self.path = folder / "kmsg"
        os.mkfifo(self.path)
        self.place = folder / "place"
        self.end = None

    def open(self, boot_id="boot-1"):
        log = KernelLog(self.place, boot_id, self.path, lambda: 10_000_000, lambda: 4_000_000)
        if self.end is None:
            self.end = os.open(self.path, os.O_WRONLY)
        return log

    def write(self, *records):
        for record in records:
            os.write(self.end, record.encode())


@pytest.fixture
def device(tmp_path):
    device = Device(tmp_path)
    yield device
    if device.end is not None:
        os.close(device.end)


def test_an_event_has_the_time_at_which_the_kernel_wrote_it(device):
    log = device.open()
    device.write(XID.format(7, 1_500_000))
    (event,) = log.drain_events()
    assert event.at_us == 10_000_000 - 4_000_000 + 1_500_000
    assert (event.kind, event.code, event.source) == ("xid", 79, "kmsg")
    assert log.drain_events() == []
    log.close()


def test_a_restart_does_not_repeat_what_was_seen(device):
    log = device.open()
    device.write(XID.format(7, 1))
    log.drain_events()
    log.close()
    log = device.open()
    device.write(XID.format(7, 1))
    assert log.drain_events() == []
    device.write(XID.format(8, 2))
    assert len(log.drain_events()) == 1
    log.close()


def test_after_a_reboot_numbers_begin_anew(device):
    log = device.open()
    device.write(XID.format(700, 1))
    log.drain_events()
    log.close()
    log = device.open(boot_id="boot-2")
    device.write(XID.format(3, 1))
    assert len(log.drain_events()) == 1
    log.close()


def test_a_damaged_place_file_only_starts_over(device):
    device.place.write_text("nonsense")
    log = device.open()
    device.write(XID.format(1, 1))
    assert len(log.drain_events()) == 1
    log.close()


def test_garbage_is_passed_over(device):
    log = device.open()
    device.write("no record at all\n")
    assert log.drain_events() == []
    log.close()


def test_a_log_that_is_not_there_is_said(tmp_path):
    assert finding(tmp_path / "none").status == "missing"
    with pytest.raises(OSError, match="No such file"):
        KernelLog(tmp_path / "place", "boot", tmp_path / "none")
