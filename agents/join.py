"""`dcops-agent join`: recognise the server by the token's pin, and only then show it the secret."""

import http.client
import json
import os
import secrets
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agents.adapters.address import Address, AddressError, parse_address, trusting, unverified
from agents.adapters.keys import (
    Identity,
    IdentityError,
    keep,
    key_for_token,
    load_identity,
    verify,
)
from dcops.wire.frames import IDENTITY_PATH, JOIN_PATH
from dcops.wire.identity import (
    NONCE_BYTES,
    IdentityDocument,
    JoinAnswer,
    JoinRequest,
    JoinToken,
    from_base64,
    identity_transcript,
    parse_token,
    pin_of,
    to_base64,
)

TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 256 << 10

T = TypeVar("T")


class JoinError(Exception):
    """This node did not join; the message says why and what to do."""


def join(
    server: str,
    token: str,
    state_dir: Path,
    *,
    hostname: str,
    machine_id: str = "",
    simulated: bool = False,
    replace: bool = False,
) -> JoinAnswer:
    """Make this machine a node of the server. Raises JoinError.

    replace: give up an identity that the state folder already holds.
    """
    try:
        address, parsed = parse_address(server), parse_token(token)
        _check_free(state_dir, replace=replace)
        key = key_for_token(state_dir, parsed.token_id)
    except (AddressError, IdentityError, ValueError) as error:
        raise JoinError(str(error)) from error
    except OSError as error:
        raise JoinError(
            f"The state folder {state_dir} cannot be used ({error.strerror}). "
            "Run as the agent's user, or name another with --state-dir."
        ) from error
    document, public_key = _recognise(address, parsed)
    request = JoinRequest(
        parsed.token_id,
        parsed.secret,
        to_base64(key.public_key().public_bytes_raw()),
        hostname,
        machine_id,
        simulated,
    )
    answer = _ask(address, parsed, document, request)
    identity = Identity(
        answer.node_id,
        answer.node_name,
        address.url,
        parsed.pin,
        to_base64(public_key),
        document.ca_pem,
    )
    _keep(state_dir, key, identity)
    return answer


def _check_free(state_dir: Path, *, replace: bool) -> None:
    if replace:
        return
    present = load_identity(state_dir)
    if present is not None:
        raise JoinError(
            f"This machine is already node {present.node_name} of {present.server}. "
            "To give that up and join anew, add --replace."
        )


def _keep(state_dir: Path, key: Ed25519PrivateKey, identity: Identity) -> None:
    try:
        keep(state_dir, key, identity)
    except OSError as error:
        raise JoinError(
            f"The server took this node in as {identity.node_name}, but {state_dir} could not be written "
            f"({error.strerror}). Make room there and run the same command again at once."
        ) from error


def _recognise(address: Address, token: JoinToken) -> tuple[IdentityDocument, bytes]:
    """Fetch what the server says it is, and believe it only if it fits the token's pin."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    status, body = _exchange(address, unverified, "GET", f"{IDENTITY_PATH}?nonce={nonce.hex()}")
    if status != 200:
        raise JoinError(
            f"{address.url} answers {status} where a dcops server tells its identity. Check the address."
        )
    document = _decoded(body, IdentityDocument, address)
    try:
        public_key = from_base64(document.public_key)
        signature = from_base64(document.signature)
    except ValueError:
        raise JoinError(
            f"{address.url} does not answer like a dcops server. Check the address."
        ) from None
    signed = identity_transcript(nonce, document.server_id, document.ca_pem)
    if pin_of(public_key) != token.pin:
        raise JoinError(
            f"The server at {address.url} is not the one that made this token, so the token was not sent. "
            "Check the address; if it is right, make a new token there with `dcops node token`."
        )
    if document.server_id != token.pin[:16] or not verify(public_key, signature, signed):
        raise JoinError(
            f"The server at {address.url} cannot prove its identity, so the token was not sent. "
            "Something between this node and the server may be changing the traffic."
        )
    return document, public_key


def _ask(
    address: Address, token: JoinToken, document: IdentityDocument, request: JoinRequest
) -> JoinAnswer:
    status, body = _exchange(
        address, lambda: trusting(document.ca_pem), "POST", JOIN_PATH, msgspec.json.encode(request)
    )
    if status == 200:
        return _decoded(body, JoinAnswer, address)
    raise JoinError(_refusal(status, body))


def _refusal(status: int, body: bytes) -> str:
    """The server's own sentence if it gave one."""
    message = ""
    try:
        answer = json.loads(body)
        message = str(answer["message"]) if isinstance(answer, dict) else str(answer[2])
    except (ValueError, LookupError):
        pass
    if message:
        return f"The server refused: {message}"
    if status in (429, 503):
        return "The server is busy. Try again in a minute."
    return f"The server refused with status {status}. Make a new token with `dcops node token` and try again."


def _exchange(
    address: Address,
    tls: Callable[[], ssl.SSLContext],
    method: str,
    path: str,
    body: bytes | None = None,
) -> tuple[int, bytes]:
    """One request on a connection of its own; redirects are not followed."""
    connection: http.client.HTTPConnection
    try:
        if address.secure:
            connection = http.client.HTTPSConnection(
                address.host, address.port, timeout=TIMEOUT_S, context=tls()
            )
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
    except AddressError as error:
        raise JoinError(str(error)) from error
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_BYTES_MAX)
    except ssl.SSLCertVerificationError as error:
        raise JoinError(_certificate_trouble(address, error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise JoinError(
            f"No dcops server answers at {address.url} ({error or type(error).__name__}). "
            "Check the address, the port, and that the server is running."
        ) from error
    finally:
        connection.close()


def _certificate_trouble(address: Address, error: ssl.SSLCertVerificationError) -> str:
    told = error.verify_message or str(error)
    if "not yet valid" in told or "expired" in told:
        advice = "Check this machine's clock, then the server's certificate."
    elif "mismatch" in told or "not valid for" in told:
        advice = "Use the host name that the certificate was made for."
    else:
        advice = "If the server has a certificate of its own making, its CA must be set there (DCOPS_CA_FILE)."
    return f"The certificate of {address.url} was not accepted ({told}), so the token was not sent. {advice}"


def _decoded(body: bytes, shape: type[T], address: Address) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.MsgspecError:
        raise JoinError(
            f"{address.url} does not answer like a dcops server. Check the address."
        ) from None


def machine_id(path: Path = Path("/etc/machine-id")) -> str:
    """The machine's own id, empty if it has none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def host_name() -> str:
    """What this machine calls itself."""
    return os.uname().nodename
