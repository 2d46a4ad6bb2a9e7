"""What this agent can and cannot read on this machine, and why, in plain words."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from dcops.wire.frames import Finding

_MARKS = {"ok": "yes", "missing": "none", "denied": "DENIED", "failed": "FAILED"}
_LOW_DISK_BYTES = 1 << 30


def check_state_dir(state_dir: Path) -> Finding:
    """Whether the agent can keep its key and its spool."""
    folder = state_dir
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "state folder",
            "denied",
            f"{state_dir} cannot be written by this user. Run as the agent's user, or give --state-dir.",
        )
    free = shutil.disk_usage(folder).free
    if free < _LOW_DISK_BYTES:
        return Finding(
            "state folder",
            "failed",
            f"{state_dir}: only {free >> 20} MiB are free; samples are lost when the disk is full.",
        )
    return Finding("state folder", "ok", f"{state_dir}, {free >> 30} GiB free")


def check_joined(state_dir: Path) -> Finding:
    """Whether this machine is enrolled."""
    if (state_dir / "identity.json").exists():
        return Finding("server", "ok", "This machine has joined a server.")
    return Finding(
        "server",
        "missing",
        "Not joined yet. Make a token with `dcops node token` on the server, then run "
        "`dcops-agent join --server URL --token TOKEN` here.",
    )


def render(findings: Iterable[Finding]) -> str:
    """Return the findings as lines of a table."""
    listed = list(findings)
    width = max((len(finding.subject) for finding in listed), default=0)
    return "\n".join(
        f"{_MARKS.get(finding.status, finding.status):7} {finding.subject:{width}}  {finding.message}"
        for finding in listed
    )
