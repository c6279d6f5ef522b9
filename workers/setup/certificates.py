"""Certificates for a Coreapp to trust when it calls the webhook. A private key never leaves this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from workers.setup.api import ApiError


class Certificate(NamedTuple):
    """What one certificate says. `sha256` is its fingerprint, `until` the end of its life (UTC, ISO 8601)."""

    subject: str
    issuer: str
    until: str
    sha256: str
    pem: str


def read(path: Path) -> list[Certificate]:
    """The certificates of a PEM file. Raises ApiError, also when it holds a private key."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ApiError(f"{path} cannot be read: {error.strerror}") from None
    if re.search(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----", content):
        raise ApiError(f"{path} holds a private key, which must not leave this machine: give the certificates alone")
    return parse(content, str(path))


def parse(pem: bytes, named: str) -> list[Certificate]:
    """The certificates of a PEM text, in its order. `named` is where it came from. Raises ApiError."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ApiError(f"{named} holds no certificates: they must be PEM, -----BEGIN CERTIFICATE-----") from None
    return [
        Certificate(
            subject=one.subject.rfc4514_string(),
            issuer=one.issuer.rfc4514_string(),
            until=one.not_valid_after_utc.isoformat(),
            sha256=one.fingerprint(hashes.SHA256()).hex(),
            pem=one.public_bytes(Encoding.PEM).decode(),
        )
        for one in found
    ]
