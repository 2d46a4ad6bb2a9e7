"""A test whose tool is missing is skipped with a reason; where CI=true it is an error, so that nothing is skipped unseen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_a_missing_tool(tmp_path, ci, outcome):
    (tmp_path / "away.py").write_text(
        "import tests.conftest\n"
        "tests.conftest.EXTRAS['needs_nginx'] = (lambda: False, 'nginx (apt install nginx)')\n"
    )
    source = "import pytest\n@pytest.mark.needs_nginx\ndef test_it():\n    assert False\n"
    (tmp_path / "test_probe.py").write_text(source)
    env = os.environ | {"CI": ci, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    env.pop("DJANGO_SETTINGS_MODULE", None)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-p",
        "tests.conftest",
        "-p",
        "away",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [
            *command,
            "-c",
            ROOT / "pyproject.toml",
            "--rootdir",
            tmp_path,
            tmp_path / "test_probe.py",
        ],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in done.stdout, done.stdout + done.stderr
    assert "nginx (apt install nginx)" in done.stdout
