"""A certificate authority of one's own, for `dcops up --bind`: browsers import it once, agents get it with their token."""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dcops.local.process import own_directory
from dcops.local.secretfile import write_private

CA_DAYS = 3650
SERVER_DAYS = 397  # what browsers accept at most
RENEW_BEFORE_DAYS = 30


@dataclass(frozen=True)
class TlsFiles:
    """Paths of PEM files."""

    ca: Path
    certificate: Path
    key: Path


def names_for(bind: str) -> list[str]:
    """Return the host names and addresses under which a server bound to `bind` is reached, the best public one first."""
    wildcard = bind in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
    first = [socket.gethostname()] if wildcard else [bind]
    addresses = _own_addresses() if wildcard else []
    return list(
        dict.fromkeys([*first, *addresses, "localhost", "127.0.0.1", "::1", socket.gethostname()])
    )


def _own_addresses() -> list[str]:
    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6) and "%" not in address.address
    ]
    return sorted(found)


def ensure(directory: Path, names: Sequence[str], now: datetime) -> TlsFiles:
    """Return the CA's and the server's files, making or renewing what is missing, too old or for other names."""
    own_directory(directory, None)
    files = TlsFiles(directory / "ca.pem", directory / "server.pem", directory / "server-key.pem")
    ca_key_file = directory / "ca-key.pem"
    if not (files.ca.exists() and ca_key_file.exists()):
        _make_ca(files.ca, ca_key_file, now)
        files.certificate.unlink(missing_ok=True)
    if not _serves(files, names, now):
        _make_server(files, ca_key_file, names, now)
    return files


def _serves(files: TlsFiles, names: Sequence[str], now: datetime) -> bool:
    if not (files.certificate.exists() and files.key.exists()):
        return False
    found = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return alternatives == _alternatives(names) and found.not_valid_after_utc > now + timedelta(
        days=RENEW_BEFORE_DAYS
    )


def _alternatives(names: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_general_name(name) for name in names])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _make_ca(certificate: Path, key_file: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"dcops on {socket.gethostname()}")
    built = (
        _builder(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(key_file, _pem(key))
    write_private(certificate, built.public_bytes(serialization.Encoding.PEM))


def _make_server(files: TlsFiles, ca_key_file: Path, names: Sequence[str], now: datetime) -> None:
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    ca_key = serialization.load_pem_private_key(ca_key_file.read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{ca_key_file} does not hold the key that dcops made.")
    key = ec.generate_private_key(ec.SECP256R1())
    built = (
        _builder(_name(names[0]), ca.subject, key.public_key(), now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_alternatives(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    write_private(files.key, _pem(key))
    write_private(files.certificate, built.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
