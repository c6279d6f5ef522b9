"""A private CA as people made them for decades: what it issues is right but for its form, which Python 3.13 refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class OldCA:
    """Its certificate, in `file`, has no key usage, and basic constraints that are not critical; those that it issues
    do not name the key that signed them.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.file = folder / "ca.pem"
        self._name = _name(f"Old CA {folder.name}")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._sign(self.file, self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))

    def issue(self, host: str) -> Path:
        """A file with a certificate for a host name or an IP address, and its key."""
        file = self.file.with_name(f"{host}.pem")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        self._sign(file, _name(host), key, x509.SubjectAlternativeName([name]))
        with file.open("ab") as more:
            more.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return file

    def _sign(
        self, file: Path, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> None:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        signed = builder.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())
        file.write_bytes(signed.public_bytes(Encoding.PEM))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
