"""Prometheus and VictoriaMetrics as peers: the same values by remote write, and what they cost."""

import http.client
import shutil
import struct
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import cramjam
import numpy as np

from tests.bench.server import free_port, tree_cpu_s

PROGRAMS = {"prometheus": "prometheus", "victoria-metrics": "victoria-metrics"}
SETTLE_S = 4.0


def _varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number, data):
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _label(name, value):
    return _field(1, _field(1, name.encode()) + _field(2, value.encode()))


def labels(metric, node, gpu):
    """The labels of one series, as protobuf."""
    names = (("__name__", f"dcops_{metric}"), ("gpu", gpu), ("node", node))
    return b"".join(_label(name, value) for name, value in names)


def write_request(series, at_ms):
    """One remote-write body: series -> (labels, float64 values), all at the same times."""
    sample = np.dtype([("head", "S3"), ("value", "<f8"), ("time", "S7")])
    rows = np.zeros(len(at_ms), sample)
    stamps = [b"\x10" + _varint(int(at)) for at in at_ms]
    assert {len(stamp) for stamp in stamps} == {7}
    rows["head"] = struct.pack("BBB", 2 << 3 | 2, 16, 1 << 3 | 1)
    rows["time"] = stamps
    parts = []
    for known, values in series:
        rows["value"] = values
        parts.append(_field(1, known + rows.tobytes()))
    return bytes(cramjam.snappy.compress_raw(b"".join(parts)))


class Peer:
    """One running peer on a directory of its own."""

    def __init__(self, name):
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix="dcops-peer-"))
        self.port = free_port()

    def __enter__(self):
        address, data = f"127.0.0.1:{self.port}", self.directory / "data"
        if self.name == "prometheus":
            config = self.directory / "prometheus.yml"
            config.write_text("global: {}\n")
            options = [
                f"--config.file={config}",
                f"--storage.tsdb.path={data}",
                f"--web.listen-address={address}",
            ]
            options += ["--web.enable-remote-write-receiver", "--log.level=error"]
            self.ready, self.path = "/-/ready", "/api/v1/write"
        else:
            options = [
                f"-storageDataPath={data}",
                f"-httpListenAddr={address}",
                "-loggerLevel=ERROR",
                "-retentionPeriod=10y",
            ]
            self.ready, self.path = "/health", "/api/v1/write"
        self.process = subprocess.Popen(
            [PROGRAMS[self.name], *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while not self._get(self.ready):
            assert time.monotonic() < deadline, f"{self.name} does not start"
            time.sleep(0.1)
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _get(self, path):
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=120
            ) as answer:
                return answer.status == 200
        except OSError:
            return False

    def write(self, bodies, settle_s=SETTLE_S):
        """Send all bodies; returns the CPU seconds it cost the peer, background work included."""
        before = tree_cpu_s(self.process.pid)
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
        }
        for body in bodies:
            connection.request("POST", self.path, body, headers)
            answer = connection.getresponse()
            told = answer.read()
            assert answer.status in (200, 204), told
        connection.close()
        time.sleep(settle_s)
        return tree_cpu_s(self.process.pid) - before

    def merged_bytes(self):
        """VictoriaMetrics' bytes on disk for samples, with everything merged."""
        self._get("/internal/force_flush")
        self._get("/internal/force_merge")
        last, calm = -1, 0
        while calm < 4:
            time.sleep(1)
            size = sum(
                f.stat().st_size
                for f in (self.directory / "data" / "data").rglob("*")
                if f.is_file()
            )
            calm = calm + 1 if size == last else 0
            last = size
        return last


def installed(name):
    """Whether a peer's program is there."""
    return shutil.which(PROGRAMS[name]) is not None
