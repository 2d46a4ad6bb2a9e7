"""The spool on a real, small file system that fills up: the agent's process lives on, and nothing is lost in silence (T7)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MOUNT = 'mount -t tmpfs -o size=4m none "$1" && cd "$3" && exec "$2" -c "$4" "$1"'

PROGRAM = """
import os, sys
from pathlib import Path
from agents.adapters.spool import Spool
from tests.fakes.ledger import Ledger

home = Path(sys.argv[1])
ledger, spool = Ledger(), Spool(home / "spool", metrics_segment_bytes=1 << 16)
filler = os.open(home / "filler", os.O_CREAT | os.O_WRONLY)
try:
    while True:
        os.write(filler, bytes(4096))
except OSError:
    pass
saved = [ledger.append(spool, "metrics", os.urandom(1500)) for _ in range(200)]
assert saved.count(None) > 100, "the disk did not fill"
events = [ledger.append(spool, "events", b"\\x90" + os.urandom(200)) for _ in range(1000)]
assert None not in events, "an event was lost"
os.ftruncate(filler, 0)
assert ledger.append(spool, "metrics", b"room again") is not None
spool = Spool(home / "spool", metrics_segment_bytes=1 << 16)
ledger.drain(spool)
ledger.check()
lost = sum(gap.last_seq - gap.first_seq + 1 for gap in ledger.gaps)
assert lost == saved.count(None), (lost, saved.count(None))
# Not ru_maxrss: that remembers how large the process was that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
assert int(peak.split()[1]) < 150 << 10, peak
print("done", lost)
"""


def in_a_small_file_system(directory, program):
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh"]
    arguments = [str(directory), sys.executable, str(ROOT), program]
    return subprocess.run(command + arguments, capture_output=True, text=True, timeout=120)


def test_a_full_disk_is_survived_and_every_loss_is_a_gap(tmp_path):
    if in_a_small_file_system(tmp_path, "").returncode:
        pytest.skip("this kernel lets nobody mount a small file system")
    done = in_a_small_file_system(tmp_path, PROGRAM)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done")
