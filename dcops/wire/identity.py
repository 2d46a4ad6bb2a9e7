"""Who is who on the wire: join tokens, and the bytes that each side signs.

The server has one Ed25519 identity key; a join token pins its SHA-256. The identity document carries the CA certificate
(if the server made its own) signed by that key, so one pin secures both the key and TLS.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

import msgspec

TOKEN_PREFIX = "dcops1"  # noqa: S105 - a public prefix
NONCE_BYTES = 32


class IdentityDocument(msgspec.Struct, frozen=True):
    """Answer of GET /agent/v1/identity?nonce=<hex>. Binary fields are base64."""

    server_id: str
    public_key: str
    ca_pem: str
    signature: str


class JoinRequest(msgspec.Struct, frozen=True):
    """Body of POST /agent/v1/join."""

    token_id: str
    secret: str
    public_key: str
    hostname: str
    machine_id: str = ""
    simulated: bool = False


class JoinAnswer(msgspec.Struct, frozen=True):
    """The node's name and state once its key is bound."""

    node_id: str
    node_name: str
    state: str


@dataclass(frozen=True, slots=True)
class JoinToken:
    """`dcops1.<sha256 of the server's public key, hex>.<token id>.<secret>`"""

    pin: str
    token_id: str
    secret: str

    def __str__(self) -> str:
        return f"{TOKEN_PREFIX}.{self.pin}.{self.token_id}.{self.secret}"


def parse_token(text: str) -> JoinToken:
    """Read a join token as a person pasted it. Raises ValueError with a sentence that says what is wrong."""
    parts = text.strip().split(".")
    if len(parts) != 4 or parts[0] != TOKEN_PREFIX:
        raise ValueError(
            "This is not a dcops join token: it looks like dcops1.<pin>.<id>.<secret>. Copy the whole line that `dcops node token` printed."
        )
    if len(parts[1]) != 64 or not all(parts):
        raise ValueError(
            "The join token is damaged (its pin is not 64 hexadecimal digits). Copy it again, or make a new one with `dcops node token`."
        )
    return JoinToken(parts[1], parts[2], parts[3])


def pin_of(public_key: bytes) -> str:
    """The pin of a server key: SHA-256 of its 32 raw bytes, in hex."""
    return hashlib.sha256(public_key).hexdigest()


def _joined(label: bytes, *parts: bytes) -> bytes:
    # Length-prefixed, so that no two different lists of parts give the same bytes.
    return label + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def identity_transcript(nonce: bytes, server_id: str, ca_pem: str) -> bytes:
    """What the server signs in its identity document."""
    return _joined(b"dcops identity 1", nonce, server_id.encode(), ca_pem.encode())


def server_transcript(
    node_nonce: bytes, server_nonce: bytes, server_id: str, node_id: str
) -> bytes:
    """What the server signs in its Challenge."""
    return _joined(
        b"dcops server 1", node_nonce, server_nonce, server_id.encode(), node_id.encode()
    )


def node_transcript(
    node_nonce: bytes, server_nonce: bytes, server_id: str, node_id: str, boot_id: str
) -> bytes:
    """What the node signs in its Proof."""
    return _joined(
        b"dcops node 1",
        node_nonce,
        server_nonce,
        server_id.encode(),
        node_id.encode(),
        boot_id.encode(),
    )


def to_base64(data: bytes) -> str:
    """Standard base64 text."""
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """Strict base64. Raises ValueError."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
