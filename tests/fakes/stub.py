"""Compiles tests/fakes/nvml_stub.c into a libnvidia-ml.so.1 and gives the collector's child that loads it."""

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_stub.c")


def build(folder: Path) -> Path:
    """Compile the stub. Raises CalledProcessError."""
    library = folder / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    soname = "-Wl,-soname,libnvidia-ml.so.1"
    command = ["cc", *flags, soname, "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


def child(folder: Path, **settings: int) -> list[str]:
    """The command of the agent's own collector child, with the stub as its driver."""
    variables = [f"LD_LIBRARY_PATH={folder}", *(f"{name}={n}" for name, n in settings.items())]
    return ["env", *variables, sys.executable, "-m", "agents.collector"]
