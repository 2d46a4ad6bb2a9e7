"""Join a whole hall with one join token, and remember every node's key for the next start."""

import http.client
import os
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agents.sim.link import Server
from dcops.wire.frames import IDENTITY_PATH, JOIN_PATH
from dcops.wire.identity import (
    NONCE_BYTES,
    IdentityDocument,
    JoinAnswer,
    JoinRequest,
    from_base64,
    identity_transcript,
    parse_token,
    pin_of,
    to_base64,
)

STATE_FILE = "hall.msgpack"
JOINS_AT_ONCE = 4
JOIN_ATTEMPTS = 5
TIMEOUT_S = 60.0


class EnrolError(Exception):
    """The hall cannot join; the message says what to do."""


class Enrolled(msgspec.Struct, array_like=True):
    """A node that has joined."""

    name: str
    node_id: str
    private_key: bytes


class HallState(msgspec.Struct):
    """What a hall keeps between runs. `salt` makes its GPU UUIDs its own; `pin` is the server's."""

    salt: str
    url: str = ""
    pin: str = ""
    nodes: dict[str, Enrolled] = {}


def load(state_dir: Path) -> HallState:
    """Read the state, or begin a new one. Raises EnrolError if the file is not ours."""
    path = state_dir / STATE_FILE
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=HallState)
    except FileNotFoundError:
        return HallState(salt=secrets.token_hex(8))
    except msgspec.MsgspecError as error:
        raise EnrolError(
            f"{path} is not the state of a simulated hall ({error}). Move it away to start a new hall."
        ) from error


def save(state_dir: Path, state: HallState) -> None:
    """Write the state, readable by its owner only, whole or not at all."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = state_dir / f"{STATE_FILE}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.msgpack.encode(state))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(state_dir / STATE_FILE)


def _open(url: str, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "https":
        return http.client.HTTPSConnection(
            parts.hostname or "", parts.port or 443, timeout=TIMEOUT_S, context=tls
        )
    if parts.scheme != "http" or parts.hostname is None:
        raise EnrolError(f"{url!r} is not a server address. Write it like http://localhost:8000.")
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT_S)


def recognise(url: str, pin: str) -> Server:
    """Fetch the server's identity and check it against the pin, before anything secret is sent. Raises EnrolError."""
    blind = ssl.create_default_context()
    blind.check_hostname = False
    blind.verify_mode = (
        ssl.CERT_NONE
    )  # the pin decides, not the certificate: nothing secret goes over this connection
    nonce = os.urandom(NONCE_BYTES)
    connection = _open(url, blind)
    try:
        connection.request("GET", f"{IDENTITY_PATH}?nonce={nonce.hex()}")
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        raise EnrolError(
            f"No server answers at {url}: {error}. Check the address, and that dcops is running there."
        ) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise EnrolError(
            f"{url} answers {answer.status} where a dcops server tells its identity. Check the address."
        )
    return _check(url, pin, nonce, msgspec.json.decode(body, type=IdentityDocument))


def _check(url: str, pin: str, nonce: bytes, document: IdentityDocument) -> Server:
    public_key = from_base64(document.public_key)
    if pin_of(public_key) != pin:
        raise EnrolError(
            f"The server at {url} is not the one that made this token. Make a new token with `dcops node token`."
        )
    signed = identity_transcript(nonce, document.server_id, document.ca_pem)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(
            from_base64(document.signature), signed
        )
    except InvalidSignature:
        raise EnrolError(f"The server at {url} cannot prove its identity.") from None
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    tls = ssl.create_default_context(cadata=document.ca_pem or None) if secure else None
    port = parts.port or (443 if secure else 80)
    return Server(parts.hostname or "", port, secure, public_key, document.server_id, tls)


def enrol(
    url: str,
    token: str,
    state_dir: Path,
    names: Iterable[str],
    on_joined: Callable[[int], None] = lambda count: None,
) -> tuple[Server, HallState]:
    """Make sure that every named node has joined this server; `token` may be "" if all did before. Raises EnrolError."""
    state = load(state_dir)
    pin = parse_token(token).pin if token else state.pin
    if not pin:
        raise EnrolError(
            "This hall has not joined yet. Give a join token made for a simulated hall."
        )
    if state.pin != pin:
        state = HallState(salt=state.salt, url=url, pin=pin)  # another server: new keys for all
    server = recognise(url, pin)
    missing = [name for name in names if name not in state.nodes]
    if missing and not token:
        raise EnrolError(
            f"{len(missing)} nodes have not joined yet, such as {missing[0]}. Give a join token made for a simulated hall."
        )
    state.url = url
    save(state_dir, state)
    if missing:
        _join_all(url, server, token, missing, state, on_joined)
        save(state_dir, state)
    return server, state


def _join_all(
    url: str,
    server: Server,
    token: str,
    names: list[str],
    state: HallState,
    on_joined: Callable[[int], None],
) -> None:
    parsed = parse_token(token)
    local = threading.local()

    def join(name: str) -> Enrolled:
        if not hasattr(local, "connection"):
            local.connection = _open(url, server.tls)
        key = Ed25519PrivateKey.generate()
        public = to_base64(key.public_key().public_bytes_raw())
        request = JoinRequest(
            parsed.token_id, parsed.secret, public, hostname=name, simulated=True
        )
        answer = _post(local.connection, msgspec.json.encode(request))
        return Enrolled(answer.node_name, answer.node_id, key.private_bytes_raw())

    with ThreadPoolExecutor(JOINS_AT_ONCE) as threads:
        for name, joined in zip(names, threads.map(join, names), strict=True):
            state.nodes[name] = joined
            on_joined(len(state.nodes))


def _post(connection: http.client.HTTPConnection, body: bytes) -> JoinAnswer:
    """Join one node. A server that is busy or has closed the idle connection is asked again."""
    for attempt in range(JOIN_ATTEMPTS):
        try:
            connection.request("POST", JOIN_PATH, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except (http.client.HTTPException, ConnectionError):
            connection.close()
            if attempt == JOIN_ATTEMPTS - 1:
                raise
            continue
        if response.status != HTTPStatus.SERVICE_UNAVAILABLE:
            break
        time.sleep(0.5 * (attempt + 1))
    if response.status != HTTPStatus.OK:
        raise EnrolError(
            f"The server refused to let the hall join ({response.status}): {_sentence(content)}"
        )
    return msgspec.json.decode(content, type=JoinAnswer)


class _Refused(msgspec.Struct):
    message: str


def _sentence(content: bytes) -> str:
    try:
        return msgspec.json.decode(content, type=_Refused).message
    except msgspec.MsgspecError:
        return content[:200].decode(errors="replace")
