"""The TLS that the settings describe: its context, its certificates, and whether its files changed."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509

from ingest import trust
from ingest.settings import Settings, SettingsError, variable


def context(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer as the settings say, or None for plain HTTP. Raises SettingsError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    made = trust.context(ssl.Purpose.CLIENT_AUTH)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    _read("tls_cert", settings.tls_cert)  # raises a clear error when it holds no certificate
    _bytes("tls_key", settings.tls_key)  # raises a clear error when it cannot be read
    try:
        made.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_password)
    except ssl.SSLError as error:
        foreign = error.reason == "KEY_VALUES_MISMATCH"
        why = "is not the key of the certificate in WA_TLS_CERT" if foreign else "holds no private key in PEM form"
        raise SettingsError(f"WA_TLS_KEY: {settings.tls_key} {why}") from None
    if settings.tls_client_ca is not None:
        _read("tls_client_ca", settings.tls_client_ca)
        made.load_verify_locations(settings.tls_client_ca)
        made.verify_mode = ssl.CERT_REQUIRED
    return made


def certificates(settings: Settings) -> dict[str, list[x509.Certificate]]:
    """What each variable's file holds. Raises SettingsError."""
    files = {field: getattr(settings, field) for field in ("tls_cert", "tls_client_ca")}
    return {variable(field): _read(field, file) for field, file in files.items() if file is not None}


def ends(settings: Settings) -> dict[str, float]:
    """When the first certificate of each file expires (epoch seconds): `server`, and `client_ca` when that is set."""
    uses = {"WA_TLS_CERT": "server", "WA_TLS_CLIENT_CA": "client_ca"}
    return {
        uses[name]: min(one.not_valid_after_utc for one in found).timestamp()
        for name, found in certificates(settings).items()
    }


def version(settings: Settings) -> tuple[tuple[int, int, int], ...]:
    """Changes when one of the files does; empty while one is missing, which callers take for no change."""
    files = [f for f in (settings.tls_cert, settings.tls_key, settings.tls_client_ca) if f is not None]
    try:
        found = [file.stat() for file in files]
    except OSError:
        return ()
    return tuple((status.st_mtime_ns, status.st_ino, status.st_size) for status in found)


def _read(field: str, file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_bytes(field, file))
    except ValueError:
        raise SettingsError(f"{variable(field)}: {file} holds no certificate in PEM form") from None


def _bytes(field: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable(field)}: cannot read {file}: {error.strerror}") from None


def _no_password() -> str:
    # Without this, OpenSSL would ask on the terminal.
    raise SettingsError(
        "WA_TLS_KEY: the key is encrypted; give it without a password, in a file that only the receiver may read"
    )
