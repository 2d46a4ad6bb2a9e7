"""The server's Ed25519 identity: what join tokens pin and agents check before they trust anything else."""

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dcops.wire.identity import pin_of


class ServerKey:
    """The private key and what follows from it."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_bytes = private.public_key().public_bytes_raw()
        self.pin = pin_of(self.public_bytes)
        self.server_id = self.pin[:16]

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature."""
        return self._private.sign(data)


def load(path: Path) -> ServerKey:
    """Read the key, making it (mode 0600) where there is none. Two processes that start at once get the same key.

    Raises OSError where the file cannot be read or made, ValueError where it is no Ed25519 key.
    """
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        pem = _create(path)
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(
            f"{path} is not an Ed25519 key. Restore the right file, or move it away to make a new identity."
        )
    return ServerKey(key)


def _create(path: Path) -> bytes:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written beside and linked into place: the path never holds half a key, and the first of two makers wins.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return path.read_bytes()
    finally:
        temporary.unlink(missing_ok=True)
    return pem
