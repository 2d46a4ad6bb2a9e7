"""What is signed when a node and the server meet. Pure: bytes in, bytes and verdicts out."""

from itertools import islice
from math import isfinite
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dcops.access.serverkey import ServerKey
from dcops.fleet.errors import JoinRefused
from dcops.wire.frames import PROTOCOL, Challenge, RefusalCode
from dcops.wire.identity import (
    NONCE_BYTES,
    IdentityDocument,
    from_base64,
    identity_transcript,
    node_transcript,
    server_transcript,
    to_base64,
)


def identity_document(key: ServerKey, nonce: bytes, ca_pem: str) -> IdentityDocument:
    """Say who this server is, fresh for this nonce (NONCE_BYTES long). Raises ValueError for another length."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"nonce must be {NONCE_BYTES} bytes in hex")
    signature = key.sign(identity_transcript(nonce, key.server_id, ca_pem))
    return IdentityDocument(
        server_id=key.server_id,
        public_key=to_base64(key.public_bytes),
        ca_pem=ca_pem,
        signature=to_base64(signature),
    )


def challenge(
    key: ServerKey, *, node_nonce: bytes, server_nonce: bytes, node_id: str
) -> Challenge:
    """Prove the server to a node that said Hello, and ask the same of it."""
    signature = key.sign(server_transcript(node_nonce, server_nonce, key.server_id, node_id))
    return Challenge(PROTOCOL, key.server_id, server_nonce, signature)


def verify_proof(
    public_key: bytes,
    signature: bytes,
    *,
    node_nonce: bytes,
    server_nonce: bytes,
    server_id: str,
    node_id: str,
    boot_id: str,
) -> bool:
    """Whether the holder of `public_key` signed this very connection."""
    transcript = node_transcript(node_nonce, server_nonce, server_id, node_id, boot_id)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, transcript)
    except (InvalidSignature, ValueError):
        return False
    return True


def read_public_key(text: str) -> bytes:
    """Read the Ed25519 key of a join request (base64 of 32 bytes). Raises JoinRefused."""
    try:
        raw = from_base64(text)
        Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        raise JoinRefused(
            RefusalCode.MALFORMED, "The public key is not an Ed25519 key. Upgrade the agent."
        ) from None
    return raw


MAX_TEXT = 255
MAX_ENTRIES = 64
_INT8 = 2**63


def clean(value: Any) -> Any:
    """Make what an agent says about itself storable: text without NUL and cut to MAX_TEXT, small maps, integers that fit.

    Agents are honest as a rule and never trusted: nothing one reports may make a statement fail.
    """
    if isinstance(value, str):
        return value.replace("\0", "")[:MAX_TEXT]
    if isinstance(value, dict):
        return {clean(k): clean(v) for k, v in islice(value.items(), MAX_ENTRIES)}
    if isinstance(value, list):
        return [clean(item) for item in value[:MAX_ENTRIES]]
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, int) and not -_INT8 <= value < _INT8:
        return None
    return value
