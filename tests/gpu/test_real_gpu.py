"""The contract on the GPUs of this machine. DCOPS_RECORD_GPU=<file> also keeps their answers as JSON, for a fixture."""

import os
import sys
from pathlib import Path

import msgspec
import pytest

from agents import snapshot
from dcops.domain.metrics import GPU_SAMPLE
from tests.contract.gpu_source import GpuSourceContract

pytestmark = pytest.mark.needs_gpu


class TestRealGpu(GpuSourceContract):
    @pytest.fixture(scope="class")
    @classmethod
    def command(cls):
        return [sys.executable, "-m", "agents.collector"]

    def test_power_and_energy_are_read(self, report):
        for row in report.sample.values():
            named = dict(zip(GPU_SAMPLE.names, row, strict=True))
            powers = [named["power_average_w"], named["power_instant_w"]]
            assert any(power is not None and power > 0 for power in powers)

    def test_answers_can_be_kept(self, report):
        answers = msgspec.json.format(msgspec.json.encode(snapshot.gpus_of(report)))
        assert report.uuids[0].encode() in answers
        target = os.environ.get("DCOPS_RECORD_GPU")
        if target:
            Path(target).write_bytes(answers)
