"""How certificates are checked: the same on every Python."""

from __future__ import annotations

import ssl
from pathlib import Path

# Since 3.13 Python asks OpenSSL for VERIFY_X509_STRICT, which refuses certificates for their form alone: a CA without
# key usage, or whose basic constraints are not critical; a certificate without an authority key identifier, or with an
# empty list of other names. Private CAs issue such certificates (`openssl req -x509` did for decades), and a newer
# Python in the image must not make them fail. Signature, dates, name and purpose are still checked.
_FORM = ssl.VerifyFlags.VERIFY_X509_STRICT


def context(purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH, ca_file: Path | None = None) -> ssl.SSLContext:
    """Python's defaults, without the form checks of 3.13. Trusts `ca_file` instead of this machine's CAs.

    Raises OSError (ssl.SSLError is one) when the file cannot be read or holds no certificates.
    """
    made = ssl.create_default_context(purpose, cafile=ca_file)
    made.verify_flags &= ~_FORM
    return made


def redis_url(url: str) -> str:
    """A Redis URL that makes redis-py check certificates the same way; one with flags of its own is left as it is."""
    if not url.startswith("rediss") or "_verify_flags=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}ssl_exclude_verify_flags={_FORM.name}"
