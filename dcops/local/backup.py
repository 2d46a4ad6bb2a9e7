"""Backups of the database: one consistent pg_dump, compressed, encrypted in pieces, and checked before it is trusted.

File: magic · length and JSON of the open header · pieces. Each piece is AES-256-GCM over at most 1 MiB with the nonce
prefix · counter · last?, so that a lost, repeated, swapped or cut-off piece does not decrypt. The last piece is the manifest:
sha256 and size of what the others hold, and the server's identity key, without which agents would not know a restored server.
"""

import hashlib
import json
import os
import secrets
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg.conninfo import conninfo_to_dict

from dcops.local.errors import LocalError
from dcops.local.postgres import binaries
from dcops.local.secretfile import write_private

MAGIC = b"DCOPSBK1"
PIECE_BYTES = 1 << 20
KEY_BYTES = 32
_TAG_BYTES = 16
_LENGTH = struct.Struct(">I")
_LAST = 1 << 31  # in a piece's length: this is the manifest


@dataclass(frozen=True)
class Written:
    """A finished backup file."""

    path: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Found:
    """What a verified backup says about itself."""

    made_at: str
    database: str
    dump_bytes: int
    server_key: str


def write(
    owner_url: str,
    path: Path,
    key_file: Path,
    *,
    now: datetime,
    server_key_file: Path | None = None,
) -> Written:
    """Dump the database of `owner_url` into `path`, whole or not at all. Makes the key file where there is none.

    Raises LocalError if the file exists, the dump fails or nothing can be written there.
    """
    if path.exists():
        raise LocalError(f"{path} exists already. Name another file.")
    key = _load_key(key_file, create=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w+b") as file:
            _write_body(file, key, owner_url, now, server_key_file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError as error:
        raise LocalError(f"The backup cannot be written to {path}: {error.strerror}.") from None
    finally:
        partial.unlink(missing_ok=True)
    return Written(path, path.stat().st_size, _sha256_of(path))


def verify(path: Path, key_file: Path) -> Found:
    """Read the whole backup and check every byte of it. Raises LocalError if it is damaged or the key is another one."""
    digest, size, manifest = hashlib.sha256(), 0, b""
    with _open(path) as file:
        for last, piece in _pieces(file, _load_key(key_file, create=False), path):
            if last:
                manifest = piece
            else:
                digest.update(piece)
                size += len(piece)
    facts = json.loads(manifest)
    if facts["sha256"] != digest.hexdigest() or facts["size_bytes"] != size:
        raise LocalError(
            f"{path} is damaged: its contents do not fit its manifest. Take another backup."
        )
    return Found(facts["made_at"], facts["database"], size, facts["server_key"])


def restore(owner_url: str, path: Path, key_file: Path) -> None:
    """Replace everything dcops_owner owns in the database by a verified backup, in one transaction: all of it or nothing.

    Raises LocalError if the backup or the restore fails; the database is then as it was.
    """
    verify(path, key_file)
    psql: list[str | Path] = [
        binaries() / "psql",
        "--no-psqlrc",
        "--quiet",
        "--single-transaction",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
    ]
    with subprocess.Popen(  # noqa: S603 - argv of our own making
        psql, env=_libpq_environment(owner_url), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            _feed(process.stdin, path, _load_key(key_file, create=False))
        except BrokenPipeError:
            pass  # psql says why
        except BaseException:
            process.kill()  # before its input ends: an end would mean commit
            raise
        _, complaint = process.communicate()
    if process.returncode != 0:
        raise LocalError(f"The restore failed and changed nothing: {_last_line(complaint)}")


def restore_identity(found: Found, server_key_file: Path) -> None:
    """Give a server its identity of the backup back, keeping another one beside it. Agents trust only that key."""
    if not found.server_key or not server_key_file.parent.is_dir():
        return
    if server_key_file.exists() and server_key_file.read_text() != found.server_key:
        server_key_file.rename(server_key_file.with_suffix(".pem.before-restore"))
    write_private(server_key_file, found.server_key.encode())


def _feed(stdin: IO[bytes] | None, path: Path, key: bytes) -> None:
    if stdin is None:
        raise LocalError("psql cannot be given the backup.")
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    stdin.write(b"SET client_min_messages = warning;\nDROP OWNED BY CURRENT_USER CASCADE;\n")
    with _open(path) as file:
        for last, piece in _pieces(file, key, path):
            if not last:
                stdin.write(decompressor.decompress(piece))


def _write_body(
    file: IO[bytes], key: bytes, owner_url: str, now: datetime, server_key_file: Path | None
) -> None:
    writer = _PieceWriter(file, key, now)
    digest, size = hashlib.sha256(), 0
    for piece in _dump(owner_url):
        digest.update(piece)
        size += len(piece)
        writer.add(piece)
    identity = server_key_file.read_text() if server_key_file and server_key_file.exists() else ""
    manifest = {
        "made_at": now.isoformat(),
        "database": conninfo_to_dict(owner_url).get("dbname"),
        "sha256": digest.hexdigest(),
        "size_bytes": size,
        "server_key": identity,
    }
    writer.finish(json.dumps(manifest).encode())


def _dump(owner_url: str) -> Iterator[bytes]:
    """Yield the compressed dump in pieces of PIECE_BYTES, the last one shorter. Raises LocalError if pg_dump fails."""
    command: list[str | Path] = [
        binaries() / "pg_dump",
        "--format=plain",
        "--no-password",
        "--encoding=UTF8",
    ]
    compressor = zstandard.ZstdCompressor(level=3).chunker(chunk_size=PIECE_BYTES)
    with subprocess.Popen(  # noqa: S603 - argv of our own making
        command, env=_libpq_environment(owner_url), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        if process.stdout is None:
            raise LocalError("pg_dump has no output.")
        while data := process.stdout.read(PIECE_BYTES):
            yield from compressor.compress(data)
        _, complaint = process.communicate()
    if process.returncode != 0:
        raise LocalError(f"The database could not be dumped: {_last_line(complaint)}")
    yield from compressor.finish()  # type: ignore[no-untyped-call]


class _PieceWriter:
    def __init__(self, file: IO[bytes], key: bytes, now: datetime) -> None:
        self._file, self._cipher, self._count = file, AESGCM(key), 0
        self._prefix = secrets.token_bytes(7)
        facts = {"made_at": now.isoformat(), "prefix": self._prefix.hex(), "key_id": _key_id(key)}
        self._header = json.dumps(facts).encode()
        file.write(MAGIC + _LENGTH.pack(len(self._header)) + self._header)

    def add(self, piece: bytes) -> None:
        self._put(piece, last=False)

    def finish(self, manifest: bytes) -> None:
        self._put(manifest, last=True)

    def _put(self, piece: bytes, *, last: bool) -> None:
        sealed = self._cipher.encrypt(
            _nonce(self._prefix, self._count, last=last), piece, self._header
        )
        self._file.write(_LENGTH.pack(len(sealed) | (_LAST if last else 0)) + sealed)
        self._count += 1


def _pieces(file: IO[bytes], key: bytes, path: Path) -> Iterator[tuple[bool, bytes]]:
    """Yield (is it the manifest?, plaintext) of each piece. Raises LocalError at the first that is not as written."""
    header, facts = _read_header(file, path)
    if facts["key_id"] != _key_id(key):
        raise LocalError(
            f"{path} was written with another key. Name the right one with --key-file."
        )
    cipher, prefix, last, count = AESGCM(key), bytes.fromhex(facts["prefix"]), False, 0
    while not last:
        sealed, last = _read_piece(file, path)
        try:
            yield last, cipher.decrypt(_nonce(prefix, count, last=last), sealed, header)
        except InvalidTag:
            raise _damaged(path) from None
        count += 1
    if file.read(1):
        raise _damaged(path)


def _read_header(file: IO[bytes], path: Path) -> tuple[bytes, dict[str, Any]]:
    start = file.read(len(MAGIC) + _LENGTH.size)
    if start[: len(MAGIC)] != MAGIC or len(start) != len(MAGIC) + _LENGTH.size:
        raise LocalError(f"{path} is no backup of dcops.")
    (length,) = _LENGTH.unpack(start[len(MAGIC) :])
    header = file.read(min(length, 4096))
    try:
        facts = json.loads(header)
        bytes.fromhex(facts["prefix"])
    except (ValueError, KeyError, TypeError):
        raise _damaged(path) from None
    return header, facts


def _read_piece(file: IO[bytes], path: Path) -> tuple[bytes, bool]:
    start = file.read(_LENGTH.size)
    if len(start) != _LENGTH.size:
        raise _damaged(path)
    (word,) = _LENGTH.unpack(start)
    length, last = word & ~_LAST, bool(word & _LAST)
    if not _TAG_BYTES <= length <= PIECE_BYTES + _TAG_BYTES:
        raise _damaged(path)
    sealed = file.read(length)
    if len(sealed) != length:
        raise _damaged(path)
    return sealed, last


def _damaged(path: Path) -> LocalError:
    return LocalError(f"{path} is damaged or cut off; nothing was changed. Take another backup.")


def _nonce(prefix: bytes, count: int, *, last: bool) -> bytes:
    return prefix + count.to_bytes(4, "big") + bytes([last])


def _load_key(path: Path, *, create: bool) -> bytes:
    if create and not path.exists():
        write_private(path, secrets.token_hex(KEY_BYTES).encode())
    try:
        key = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise LocalError(
            f"The key {path} cannot be read: {error.strerror}. Name it with --key-file."
        ) from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise LocalError(
            f"{path} is no key of dcops: it must hold {KEY_BYTES * 2} hexadecimal digits."
        )
    return key


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"dcops backup key id" + key).hexdigest()[:16]


def _open(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise LocalError(f"{path} cannot be read: {error.strerror}.") from None


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _libpq_environment(url: str) -> dict[str, str]:
    """Pass a URL's parts as variables: on the command line the password would show in the process list."""
    names = {
        "host": "PGHOST",
        "port": "PGPORT",
        "user": "PGUSER",
        "password": "PGPASSWORD",
        "dbname": "PGDATABASE",
        "sslmode": "PGSSLMODE",
        "sslrootcert": "PGSSLROOTCERT",
        "sslcert": "PGSSLCERT",
        "sslkey": "PGSSLKEY",
    }
    parts = conninfo_to_dict(url)
    given = {names[name]: str(value) for name, value in parts.items() if name in names}
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"} | given


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
