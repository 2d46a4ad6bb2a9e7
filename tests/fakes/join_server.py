"""A server to join, over plain HTTP or TLS, that keeps every byte of every request it could read."""

import datetime
import http.server
import ipaddress
import json
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from dcops.wire.identity import JoinToken, identity_transcript, pin_of, to_base64


@dataclass
class JoinServer:
    """What it answers can be changed between requests."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    ca_pem: str = ""
    tampered_ca: str | None = None
    status: int = 200
    answer: object = field(
        default_factory=lambda: {"node_id": "id-1", "node_name": "n1", "state": "approved"}
    )
    identity_status: int = 200
    heard: list[bytes] = field(default_factory=list)
    url: str = ""

    @property
    def token(self) -> JoinToken:
        return JoinToken(pin_of(self._public()), "token-id", "the-secret")

    def _public(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def identity(self, nonce: bytes) -> dict[str, str]:
        server_id = pin_of(self._public())[:16]
        signature = self.key.sign(identity_transcript(nonce, server_id, self.ca_pem))
        return {
            "server_id": server_id,
            "public_key": to_base64(self._public()),
            "ca_pem": self.ca_pem if self.tampered_ca is None else self.tampered_ca,
            "signature": to_base64(signature),
        }


@contextmanager
def serving(server: JoinServer, tls: ssl.SSLContext | None = None):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.heard.append(self.path.encode())
            nonce = bytes.fromhex(parse_qs(urlsplit(self.path).query)["nonce"][0])
            self.reply(server.identity_status, server.identity(nonce))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.heard.append(self.path.encode() + body)
            self.reply(server.status, server.answer)

        def reply(self, status, content):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    if tls is not None:
        listening.socket = tls.wrap_socket(listening.socket, server_side=True)
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{listening.server_port}"
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def certificate(directory: Path, name: str, *, days: int = 30, address="127.0.0.1"):
    """A CA made for this call and a server certificate by it. Returns (CA PEM, TLS context of the server)."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} CA")])

    def begin(subject, public_key, until):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(until)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False
            )
        )

    ca = (
        begin(ca_name, ca_key.public_key(), now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(True, 0), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False)
        .sign(ca_key, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    leaf = (
        begin(subject, key.public_key(), now + datetime.timedelta(days=days))
        .add_extension(names, False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = directory / f"{name}.pem"
    chain.write_bytes(private + leaf.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return ca.public_bytes(pem).decode(), context
