"""How certificates are checked: the same on every Python."""

from __future__ import annotations

import ssl
from pathlib import Path

# Since 3.13 Python asks OpenSSL for VERIFY_X509_STRICT, which refuses certificates for their form alone: a CA without
# key usage, or whose basic constraints are not critical; a certificate without an authority key identifier, or with an
# empty list of other names. Private CAs issue such ones (`openssl req -x509` did for decades), and they must not stop
# working because the image has a newer Python. Signature, time, name and purpose are checked as ever.
_FORM = ssl.VerifyFlags.VERIFY_X509_STRICT


def context(purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH, ca_file: Path | None = None) -> ssl.SSLContext:
    """Python's defaults, without what 3.13 added about form. Trusts `ca_file` instead of this machine's CAs.

    Raises OSError (ssl.SSLError is one) when the file cannot be read or holds no certificates.
    """
    made = ssl.create_default_context(purpose, cafile=ca_file)
    made.verify_flags &= ~_FORM
    return made


def redis_url(url: str) -> str:
    """The URL of a Redis with the option that tells redis-py the same; one with such an option stays as it is."""
    if not url.startswith("rediss") or "_verify_flags=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}ssl_exclude_verify_flags={_FORM.name}"
