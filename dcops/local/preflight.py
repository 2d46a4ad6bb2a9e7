"""What is checked before anything starts, so that a wrong start says one sentence instead of a traceback."""

import errno
import fcntl
import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from dcops.local.errors import LocalError
from dcops.local.process import own_directory

MIN_PYTHON = (3, 11)


def check_python(version: tuple[int, int]) -> None:
    """Raise LocalError for a Python that is too old."""
    if version < MIN_PYTHON:
        raise LocalError(
            f"dcops needs Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer, and this is {version[0]}.{version[1]}. "
            "Run: make up PYTHON=/path/to/a/newer/python3"
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_transport(bind: str, public_url: str | None) -> None:
    """Refuse plain HTTP beyond this machine: passwords and tokens would cross the network in the clear."""
    if public_url is None:
        return
    url = urlsplit(public_url)
    if url.scheme == "https" and url.hostname:
        return
    if url.scheme == "http" and is_loopback(url.hostname or "") and is_loopback(bind):
        return
    raise LocalError(
        f"DCOPS_PUBLIC_URL is {public_url}. Beyond this machine dcops speaks TLS only: write https://…, or leave it out."
    )


def check_port(host: str, port: int) -> None:
    """Raise LocalError if nobody can listen there."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError:
        raise LocalError(
            f"{host} is no address of this machine. Give one with BIND=, or 0.0.0.0 for all."
        ) from None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise LocalError(_port_sentence(host, port, error)) from None


def _port_sentence(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is in use. Choose another one: make up PORT={port + 1}"
    if error.errno == errno.EACCES:
        return f"Port {port} is reserved for root. Choose one above 1023: make up PORT=8443"
    return f"Nothing can listen on {host}, port {port}: {error.strerror}. Give an address of this machine with BIND=."


def take_data_dir(path: Path, lock_file: Path) -> IO[bytes]:
    """Make the data directory usable and lock it for this process. The lock ends with the returned file.

    Raises LocalError if it cannot be written to, or another dcops runs on it.
    """
    _check_not_foreign(path, lock_file)
    own_directory(path, None, 0o711 if os.geteuid() == 0 else 0o700)
    try:
        lock = lock_file.open("ab")
    except OSError as error:
        raise LocalError(
            f"The directory {path} cannot be written to: {error.strerror}. Choose another one: make up DATA=/a/directory"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise LocalError(
            f"Another dcops runs on {path}. Stop it first, or start this one with its own: make up DATA=… PORT=…"
        ) from None
    return lock


def _check_not_foreign(path: Path, lock_file: Path) -> None:
    try:
        entries = {entry.name for entry in path.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise LocalError(
            f"The directory {path} cannot be used: {error.strerror}. Choose another one with DATA=."
        ) from None
    if not entries or lock_file.name in entries:
        return
    what = (
        "holds another PostgreSQL's data"
        if "PG_VERSION" in entries
        else "is not empty and was not made by dcops"
    )
    raise LocalError(f"{path} {what}. Choose an empty directory with DATA=.")


def python_version() -> tuple[int, int]:
    """Return the running Python's version."""
    return sys.version_info[:2]
