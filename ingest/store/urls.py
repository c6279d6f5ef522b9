"""WA_REDIS_URL: the URL of one Redis, or of several."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qs, unquote

from ingest.errors import SettingsError

ONLY = "INGEST_REDIS"
"""In the environment of a worker process: the address of the one Redis, among several, that it serves."""


def address(url: str) -> str:
    """A Redis URL without scheme, user, password and options (except `db`), for logs and metrics."""
    where, _, options = url.partition("://")[2].rpartition("@")[2].partition("?")
    database = [one for one in options.split("&") if one.startswith("db=")]
    return "?".join((where, *database))


def split(redis_url: str) -> list[str]:
    """The URL of each Redis that WA_REDIS_URL names. Raises SettingsError.

    A comma that no scheme follows is part of one URL: it separates sentinels, or nodes of a cluster.
    """
    urls = re.split(r",\s*(?=[a-z+]+://)", redis_url)
    if len(set(map(address, urls))) < len(urls):
        raise SettingsError("WA_REDIS_URL names the same Redis twice: give each once")
    return urls


def only(redis_url: str) -> str:
    """The URL, where only one Redis will do. Raises SettingsError."""
    if len(split(redis_url)) > 1:
        raise SettingsError("WA_REDIS_URL names several Redis, but this takes only one: give one of them")
    return redis_url


def of_this_process(redis_url: str) -> str:
    """What this process uses of WA_REDIS_URL: in a worker process that serves one of several Redis, that one."""
    wanted = os.environ.get(ONLY)
    return next((one for one in split(redis_url) if address(one) == wanted), redis_url) if wanted else redis_url


def as_now(url: str) -> str:
    """The URL as WA_REDIS_URL_FILE gives it now: since the start, a password may have been rotated there.

    The same URL when the file names no Redis of that address, cannot be read, or is not used.
    """
    path = os.environ.get("WA_REDIS_URL_FILE")
    if not path or os.environ.get("WA_REDIS_URL"):
        return url
    try:
        now = split(Path(path).read_text().strip())
    except (OSError, UnicodeDecodeError, SettingsError):
        return url
    return next((one for one in now if address(one) == address(url)), url)


def credentials(url: str) -> tuple[str | None, str | None]:
    """User and password, as redis-py reads them from a URL; None for what is not given."""
    before, _, query = url.partition("?")
    user, _, _ = before.partition("://")[2].partition("/")[0].rpartition("@")
    username, _, password = user.partition(":")
    options = parse_qs(query)
    given = [options.get(name, [None])[0] for name in ("username", "password")]
    return unquote(username) or given[0], unquote(password) or given[1]
