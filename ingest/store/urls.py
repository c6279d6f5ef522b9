"""WA_REDIS_URL: the URL of one Redis, or of several."""

from __future__ import annotations

import re

from ingest.errors import SettingsError


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
