"""Where the server is, and how the connection to it is secured."""

import ipaddress
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit


class AddressError(ValueError):
    """The address cannot be used; the message says what would do."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server's place. Plain text only reaches this very machine."""

    host: str
    port: int
    secure: bool

    @property
    def url(self) -> str:
        """As a person writes it."""
        return f"{'https' if self.secure else 'http'}://{self._authority}"

    @property
    def websocket_url(self) -> str:
        """For the link."""
        return f"{'wss' if self.secure else 'ws'}://{self._authority}"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read https://host[:port], or http:// to this machine. Raises AddressError."""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise AddressError(
            f"{text!r} is not a server address. Write it like https://dcops.example.org:8000."
        )
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise AddressError(f"{text!r} has more than a host and a port. Leave the rest away.")
    secure = parts.scheme == "https"
    if not secure and not is_loopback(host):
        raise AddressError(
            f"Plain http would send the token and all data unprotected to {host}. Use https://; "
            "plain http is for a server on this machine only."
        )
    return Address(host, port or (443 if secure else 80), secure)


def is_loopback(host: str) -> bool:
    """Whether this name can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trusting(ca_pem: str) -> ssl.SSLContext:
    """TLS that trusts this CA and no other, or the system's if it is empty. Raises AddressError."""
    try:
        context = ssl.create_default_context(cadata=ca_pem or None)
    except ssl.SSLError as error:
        raise AddressError(
            "The server's CA certificate is damaged. Join this node again."
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def unverified() -> ssl.SSLContext:
    """TLS that trusts anyone, to fetch what is then checked against a pin. Never send a secret through it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
