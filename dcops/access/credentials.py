"""Random secrets and how they are stored: 256 random bits need no slow hash, so SHA-256 it is."""

import base64
import hashlib
import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Issued:
    """A new credential. `id` is public, `secret` is shown once, `sha256` is what the database keeps."""

    id: str
    secret: str
    sha256: bytes


def issue() -> Issued:
    """Make a new id (10 characters) and secret (52 characters), both of a-z and 2-7."""
    secret = _base32(secrets.token_bytes(32))
    return Issued(_base32(secrets.token_bytes(6)), secret, digest(secret))


def digest(secret: str) -> bytes:
    """Return what the database keeps of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()
