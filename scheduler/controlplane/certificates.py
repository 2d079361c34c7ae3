"""Keys and certificates of one local cluster, created with it."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from scheduler import whole

LIFE = timedelta(days=365)
Key = ec.EllipticCurvePrivateKey


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: Key | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class Authority:
    """A certificate authority that writes into one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(
            "muster local authority", self._key, _name("muster local authority")
        )
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self._certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path = folder / "ca.crt"
        whole.write_bytes(self.path, self._certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: str, key: Key, issuer: x509.Name) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))  # clocks differ
            .not_valid_after(now + LIFE)
        )

    def issue(self, name: str, *addresses: str) -> tuple[Path, Path]:
        """Write NAME.crt and NAME.key, for clients, and for servers on loopback and ADDRESSES."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = [
            x509.DNSName("localhost"),
            x509.DNSName("kubernetes.default.svc"),
            *(
                x509.IPAddress(ipaddress.ip_address(address))
                for address in dict.fromkeys(("127.0.0.1", *addresses))
            ),
        ]
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(name, key, self._certificate.subject)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        crt, pem = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        whole.write_bytes(crt, certificate.public_bytes(serialization.Encoding.PEM))
        whole.write_bytes(pem, _pem(key), mode=0o600)
        return crt, pem


def signing_key(path: Path) -> Path:
    """Write a key with which service account tokens are signed."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    whole.write_bytes(path, _pem(key), mode=0o600)
    return path
