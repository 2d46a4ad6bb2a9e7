"""What is decided about the machine before anything starts."""

import os
import socket
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from dcops.local import preflight, secretfile, tls
from dcops.local.errors import LocalError
from dcops.local.process import SOCKET_DIR_MAX_BYTES, socket_directory
from dcops.local.redis import is_safe, parse_version

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("flavour", "version", "safe"),
    [
        ("redis", (6, 2, 14), False),
        ("redis", (6, 2, 20), True),
        ("redis", (7, 0, 15), False),
        ("redis", (7, 4, 5), False),
        ("redis", (8, 2, 1), False),
        ("redis", (8, 2, 2), True),
        ("redis", (8, 4, 0), True),
        ("valkey", (8, 0, 5), False),
        ("valkey", (8, 1, 4), True),
        ("valkey", (9, 0, 0), True),
        ("valkey", (7, 2, 10), False),
    ],
)
def test_a_server_with_the_lua_holes_is_not_preferred(flavour, version, safe):
    assert is_safe(flavour, version) is safe


def test_versions_are_read_from_what_the_servers_print():
    assert parse_version("Redis server v=8.2.2 sha=0:0 malloc=jemalloc") == (8, 2, 2)
    assert parse_version("Valkey server v=8.1.4 sha=0") == (8, 1, 4)
    assert parse_version("something else 1.2.3") is None


def test_an_old_python_is_told_so():
    with pytest.raises(LocalError, match=r"3\.11 or newer, and this is 3\.9"):
        preflight.check_python((3, 9))
    preflight.check_python((3, 11))


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("0.0.0.0", "http://gpu.example:8000"),
        ("127.0.0.1", "http://gpu.example:8000"),
        ("0.0.0.0", "http://localhost:8000"),
        ("127.0.0.1", "ftp://localhost"),
        ("10.0.0.1", "https://"),
    ],
)
def test_plain_http_beyond_this_machine_is_refused(bind, url):
    with pytest.raises(LocalError, match="TLS only"):
        preflight.check_transport(bind, url)


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1", None),
        ("0.0.0.0", None),
        ("0.0.0.0", "https://gpu.example"),
        ("::1", "http://localhost:1"),
    ],
)
def test_tls_and_loopback_are_accepted(bind, url):
    preflight.check_transport(bind, url)


def test_a_busy_port_is_told_so_and_a_free_one_is_taken():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(LocalError, match=f"Port {port} is in use"):
            preflight.check_port("127.0.0.1", port)
    preflight.check_port("127.0.0.1", port)


def test_an_address_of_another_machine_is_told_so():
    with pytest.raises(LocalError, match="address of this machine"):
        preflight.check_port("192.0.2.1", 8000)


def test_one_data_directory_has_one_launcher(tmp_path):
    place, lock_file = tmp_path / "data", tmp_path / "data" / "dcops.lock"
    first = preflight.take_data_dir(place, lock_file)
    with pytest.raises(LocalError, match="Another dcops runs"):
        preflight.take_data_dir(place, lock_file)
    first.close()
    preflight.take_data_dir(place, lock_file).close()


def test_a_directory_with_other_peoples_files_is_left_alone(tmp_path):
    mode = tmp_path.stat().st_mode
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(LocalError, match="not made by dcops"):
        preflight.take_data_dir(tmp_path, tmp_path / "dcops.lock")
    (tmp_path / "PG_VERSION").write_text("15\n")
    with pytest.raises(LocalError, match="another PostgreSQL"):
        preflight.take_data_dir(tmp_path, tmp_path / "dcops.lock")
    assert tmp_path.stat().st_mode == mode


def test_sockets_move_to_a_short_private_directory_when_the_path_is_long(tmp_path):
    short = socket_directory(tmp_path / "d", None)
    assert short == tmp_path / "d" / "run"
    deep = tmp_path / ("x" * 100)
    moved = socket_directory(deep, None)
    try:
        assert len(os.fsencode(moved)) <= SOCKET_DIR_MAX_BYTES
        assert moved.stat().st_mode & 0o777 == 0o700
        assert socket_directory(deep, None) == moved
        assert socket_directory(tmp_path / ("y" * 100), None) != moved
    finally:
        moved.rmdir()


def test_secrets_are_made_once_differ_and_are_their_owners_alone(tmp_path):
    first = secretfile.load(tmp_path)
    assert secretfile.load(tmp_path) == first
    assert len(set(first.values())) == len(secretfile.NAMES)
    assert all(len(value) >= 50 for value in first.values())
    assert (tmp_path / "secrets.json").stat().st_mode & 0o077 == 0


def test_a_damaged_secrets_file_is_told_and_not_replaced(tmp_path):
    (tmp_path / "secrets.json").write_text("{half")
    with pytest.raises(LocalError, match="Restore that file"):
        secretfile.load(tmp_path)
    assert (tmp_path / "secrets.json").read_text() == "{half"


def test_the_certificate_is_kept_while_it_serves_and_renewed_when_it_does_not(tmp_path):
    names = ["gpu.example", "10.0.0.1", "localhost"]
    files = tls.ensure(tmp_path / "tls", names, NOW)
    first = files.certificate.read_bytes()
    authority = files.ca.read_bytes()
    assert (
        tls.ensure(tmp_path / "tls", names, NOW + timedelta(days=300)).certificate.read_bytes()
        == first
    )
    renewed = tls.ensure(
        tmp_path / "tls", names, NOW + timedelta(days=380)
    ).certificate.read_bytes()
    assert renewed != first
    assert (
        tls.ensure(tmp_path / "tls", [*names, "new.example"], NOW).certificate.read_bytes()
        != renewed
    )
    assert files.ca.read_bytes() == authority
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "tls").iterdir())
