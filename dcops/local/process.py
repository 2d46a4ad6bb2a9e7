"""Child processes that never outlive their launcher and, under root, run as an account without rights."""

import contextlib
import ctypes
import hashlib
import os
import pwd
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dcops.local.errors import LocalError

# Every process of one data directory carries this variable, so that a later start finds what an earlier one left.
COOKIE = "DCOPS_INSTANCE"
# A socket path may have 107 bytes, and the longest socket name in the directory is ".s.PGSQL.5432".
SOCKET_DIR_MAX_BYTES = 107 - len("/.s.PGSQL.5432")

_ACCOUNTS = ("dcops", "postgres", "nobody")
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
_PR_CAPBSET_READ = 23
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Account:
    """The operating-system account a server runs as."""

    name: str
    uid: int
    gid: int


def unprivileged_account(owner_of: Path) -> Account | None:
    """Return whom root hands PostgreSQL and Redis to: the owner of `owner_of` if it exists, else the first known account.

    None when this process is not root: then everything runs as the caller. Raises LocalError if no account is there.
    """
    if os.geteuid() != 0:
        return None
    if owner_of.exists() and (uid := owner_of.stat().st_uid) != 0:
        owner = _account_of(uid)
        if owner is None:
            raise LocalError(
                f"{owner_of} belongs to user id {uid}, which has no account here. Create one, or move the directory away."
            )
        return owner
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise LocalError(
        "PostgreSQL never runs as root, and there is no account for it. Create one: useradd --system dcops"
    )


def _account_of(uid: int) -> Account | None:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def own_directory(path: Path, account: Account | None, mode: int = 0o700) -> Path:
    """Create a directory if it is missing, give it to the account and set its mode. Raises LocalError if it cannot be used."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if account is not None and path.stat().st_uid != account.uid:
            os.chown(path, account.uid, account.gid)
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)
    except OSError as error:
        raise LocalError(
            f"The directory {path} cannot be used: {error.strerror}. Choose another one with DATA=, or correct its owner."
        ) from None
    return path


def socket_directory(data_dir: Path, account: Account | None) -> Path:
    """Return the private (0700) directory of the unix sockets: inside the data directory unless that path is too long."""
    inside = data_dir / "run"
    if len(os.fsencode(inside)) <= SOCKET_DIR_MAX_BYTES:
        return own_directory(inside, account)
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"dcops-{os.geteuid()}-{digest}"
    with contextlib.suppress(FileExistsError):
        short.mkdir(mode=0o700)
    found = short.lstat()
    expected = {os.geteuid(), account.uid if account else os.geteuid()}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in expected:
        raise LocalError(
            f"{short} belongs to somebody else. Choose a shorter data directory with DATA=."
        )
    return own_directory(short, account)


def reachable(path: Path, account: Account | None) -> bool:
    """Tell whether the account may walk to `path`: every parent directory must let others pass."""
    if account is None:
        return True
    parents = path.resolve().parents
    return all(_may_pass(parent.stat(), account) for parent in parents)


def _may_pass(found: os.stat_result, account: Account) -> bool:
    if found.st_uid == account.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == account.gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    account: Account | None = None,
    must_reach: Iterable[Path] = (),
    death_signal: signal.Signals = signal.SIGKILL,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in its own session; the kernel sends it `death_signal` when this process ends, however it ends.

    Call it from the main thread only: the kernel watches the thread that forked. Under root the program runs as
    `account`; where that account cannot walk to one of `must_reach` (a checkout under /root), it keeps the one capability
    to pass directories, so no directory's mode is opened.
    """
    paths = [Path(command[0]), *must_reach]
    passes = () if all(reachable(path, account) for path in paths) else _directory_capability()
    return subprocess.Popen(  # noqa: S603 - argv of our own making
        [os.fspath(part) for part in command],
        env=dict(env),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.STDOUT if stdout is not None else None,
        cwd=cwd or "/",
        start_new_session=True,
        preexec_fn=_child_setup(account, passes, death_signal, os.getpid()),
    )


def _directory_capability() -> tuple[int, ...]:
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
            return (capability,)
    raise LocalError(
        "The account of PostgreSQL cannot reach this directory. Move the checkout out of /root, or run dcops as an ordinary user."
    )


def _child_setup(
    account: Account | None,
    capabilities: tuple[int, ...],
    death_signal: signal.Signals,
    launcher: int,
) -> Callable[[], None]:
    def set_up() -> None:
        if account is not None:
            _become(account, capabilities)
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != launcher:  # it died between fork and prctl
            os._exit(1)

    return set_up


def _become(account: Account, capabilities: tuple[int, ...]) -> None:
    _libc.prctl(_PR_SET_KEEPCAPS, 1 if capabilities else 0, 0, 0, 0)
    os.setgroups([])
    os.setgid(account.gid)
    os.setuid(account.uid)
    if not capabilities:
        return
    mask = sum(1 << capability for capability in capabilities)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if _libc.capset(header, data) != 0:
        os._exit(126)
    for capability in capabilities:
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def stop(process: subprocess.Popen[bytes], first: signal.Signals, patience_s: float) -> None:
    """End a process: the polite signal, then KILL for its whole group. Returns when it is gone."""
    if process.poll() is None:
        process.send_signal(first)
    finish(process, patience_s)


def finish(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Wait for a process that was asked to end, then KILL what is left of its group. Returns when it is gone."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def processes_of(instance: str) -> list[int]:
    """Return the ids of all processes of a data directory, except this one: those with its cookie, and its PostgreSQL's.

    PostgreSQL writes its titles over its environment, but all its processes work in their data directory.
    """
    cookie, pgdata = f"{COOKIE}={instance}".encode(), f"{instance}/postgres"
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if cookie in (entry / "environ").read_bytes().split(b"\0") or _works_in(entry, pgdata):
                found.append(int(entry.name))
    return sorted(found)


def _works_in(process: Path, pgdata: str) -> bool:
    return (process / "comm").read_text() == "postgres\n" and (process / "cwd").readlink() == Path(
        pgdata
    )


def end_orphans(instance: str, patience_s: float = 10.0) -> int:
    """Kill what an earlier launcher of this data directory left behind, and wait until it is gone. Returns how many."""
    deadline = time.monotonic() + patience_s
    first = processes_of(instance)
    left = first
    while left:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LocalError(
                f"Processes of an earlier start do not end: {', '.join(map(str, left))}. End them by hand."
            )
        time.sleep(0.02)
        left = processes_of(instance)
    return len(first)
