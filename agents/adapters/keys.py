"""What makes this machine this node: its Ed25519 key and who it joined, in the state folder."""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from dcops.wire.identity import from_base64, pin_of

KEY_FILE = "key.pem"
IDENTITY_FILE = "identity.json"


class IdentityError(Exception):
    """The key or the identity cannot be used; the message says what to do."""


class Identity(msgspec.Struct, frozen=True):
    """Who this node is to which server. server_key is base64; ca_pem is empty where the system's certificates do."""

    node_id: str
    node_name: str
    server: str
    server_pin: str
    server_key: str
    ca_pem: str = ""

    @property
    def server_public_key(self) -> bytes:
        """The server's key, 32 raw bytes. Raises ValueError if it is not the pinned one."""
        key = from_base64(self.server_key)
        if pin_of(key) != self.server_pin:
            raise ValueError("the server key is not the pinned one")
        return key


def key_for_token(state_dir: Path, token_id: str) -> Ed25519PrivateKey:
    """The key to join with under this token: the same again if an earlier answer was lost. Raises IdentityError, OSError."""
    path = state_dir / f"joining-{hashlib.sha256(token_id.encode()).hexdigest()[:16]}.pem"
    if not path.exists():
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, _pem(Ed25519PrivateKey.generate()))
    return _read_key(path)


def keep(state_dir: Path, key: Ed25519PrivateKey, identity: Identity) -> None:
    """This key is a node now: make both the agent's own. Raises OSError; joining with the same token again is safe."""
    write_private(state_dir / KEY_FILE, _pem(key))
    text = msgspec.json.format(msgspec.json.encode(identity), indent=2)
    write_private(state_dir / IDENTITY_FILE, text + b"\n")
    for path in state_dir.glob("joining-*.pem"):
        path.unlink(missing_ok=True)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(state_dir: Path) -> Ed25519PrivateKey:
    """The node's key. Raises IdentityError if it is absent, damaged or open to others."""
    return _read_key(state_dir / KEY_FILE)


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except FileNotFoundError:
        raise IdentityError(
            f"There is no node key in {path.parent}. Join first: dcops-agent join."
        ) from None
    except PermissionError:
        raise IdentityError(
            f"{path} cannot be read. Run the agent as the user that joined."
        ) from None
    if mode & 0o077:
        raise IdentityError(
            f"{path} is open to other users (mode {mode:04o}). If nobody copied it: chmod 600 {path}; "
            "otherwise delete it and join again."
        )
    with suppress(ValueError, TypeError):
        key = load_pem_private_key(data, None)
        if isinstance(key, Ed25519PrivateKey):
            return key
    raise IdentityError(f"{path} is damaged. Delete it and join again: dcops-agent join.")


def load_identity(state_dir: Path) -> Identity | None:
    """Who this node is; None if it has not joined. Raises IdentityError."""
    path = state_dir / IDENTITY_FILE
    try:
        identity = msgspec.json.decode(path.read_bytes(), type=Identity)
        _ = identity.server_public_key
    except FileNotFoundError:
        return None
    except PermissionError:
        raise IdentityError(
            f"{path} cannot be read. Run the agent as the user that joined."
        ) from None
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise IdentityError(
            f"{path} is damaged ({error}). Join again: dcops-agent join."
        ) from error
    return identity


def write_private(path: Path, data: bytes) -> None:
    """Replace a file, mode 0600, atomically and durably. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    with suppress(FileNotFoundError):
        partial.unlink()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether this key signed this message."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
