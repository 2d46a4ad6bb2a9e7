"""The collector's child with a scripted driver: `python collector_child.py SCENARIO FOLDER [GPUS]`.

The folder lets a scenario go wrong once and be well in its next life.
"""

import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agents.adapters.nvml import Nvml
from agents.collector import run_child
from tests.fakes.nvml import LIBRARY_NOT_FOUND, VERSION_MISMATCH, XID, ScriptedNvml


def first_time(folder: Path) -> bool:
    """Whether this is the first life in this folder."""
    mark = folder / "lived"
    if mark.exists():
        return False
    mark.touch()
    return True


class SecondReading:
    """Does something at the second reading of the first GPU's temperature."""

    def __init__(self, what):
        self.what, self.readings = what, 0

    def __call__(self, _sensor):
        self.readings += 1
        if self.readings == 2:
            self.what()
        return 40


def at_second_reading(api, what):
    """Do something while the first GPU is read for the second time."""
    api.gpus[0].answers["nvmlDeviceGetTemperature"] = SecondReading(what)


SCENARIOS = {
    "steady": lambda api: None,
    "as-told": lambda api: setattr(api, "longest_wait_s", 60.0),
    "gone": lambda api: api.refuse("nvmlInit", LIBRARY_NOT_FOUND),
    "mismatch": lambda api: api.refuse("nvmlInit", VERSION_MISMATCH),
    "hang": lambda api: at_second_reading(api, threading.Event().wait),
    "always-hangs": lambda api: api.hang("nvmlDeviceGetCount", threading.Event()),
    "crash": lambda api: at_second_reading(api, lambda: os._exit(3)),
    "prints": lambda api: os.write(1, b"a library that prints to standard output\n"),
    "lose": lambda api: at_second_reading(api, lambda: setattr(api.gpus[0], "lost", True)),
    "xid": lambda api: [api.emit(0, XID, 79) for _ in range(5)],
}
# These go wrong only once.
ONCE = {"mismatch", "hang", "crash", "lose"}


def build(scenario: str, folder: Path, gpus: int) -> Nvml:
    """Return the source of the scenario."""
    api = ScriptedNvml(gpus)
    if scenario not in ONCE or first_time(folder):
        SCENARIOS[scenario](api)
    return Nvml(api)


if __name__ == "__main__":
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    run_child(lambda: build(sys.argv[1], Path(sys.argv[2]), count))
