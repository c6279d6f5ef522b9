"""Certificates are checked the same on every Python, wherever the project checks one."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from ingest import trust

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("purpose", [ssl.Purpose.SERVER_AUTH, ssl.Purpose.CLIENT_AUTH])
def test_all_but_the_form_is_checked(purpose: ssl.Purpose) -> None:
    """A context differs from Python's own in that one flag, and in nothing that says whom to trust."""
    ours, default = trust.context(purpose), ssl.create_default_context(purpose)
    assert ours.verify_flags == default.verify_flags & ~ssl.VERIFY_X509_STRICT
    for name in ("verify_mode", "check_hostname", "options", "minimum_version"):
        assert getattr(ours, name) == getattr(default, name)


def test_nobody_makes_a_context_elsewhere() -> None:
    """No other module makes a context of its own, or a certificate would be good here and bad there."""
    modules = {path for folder in ("ingest", "workers") for path in (ROOT / folder).rglob("*.py")}
    made = re.compile(r"create_default_context|SSLContext\(")
    assert {path.name for path in modules if made.search(path.read_text())} == {"trust.py"}


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("unix:///rediss", "unix:///rediss"),
        ("rediss://h:1/0", "rediss://h:1/0?ssl_exclude_verify_flags=VERIFY_X509_STRICT"),
        ("rediss+cluster://a,b?db=0", "rediss+cluster://a,b?db=0&ssl_exclude_verify_flags=VERIFY_X509_STRICT"),
        ("rediss://h?ssl_include_verify_flags=VERIFY_X509_STRICT",) * 2,
    ],
)
def test_redis_url(url: str, given: str) -> None:
    """A URL with TLS says it to redis-py, too, unless it says itself what is checked."""
    assert trust.redis_url(url) == given
