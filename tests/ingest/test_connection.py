"""Connections: errors that name the setting, and the server's version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ingest.connection import check_version, for_receiver, for_tools, for_worker, reason
from ingest.settings import SettingsError, load

MAKERS = [for_receiver, for_worker, for_tools]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("url", ["http://:hunter2@h", "h:6379", "redis://:hunter2@h:port/0", "", "/hunter2"])
def test_wrong_url(make: Callable[..., Any], url: str) -> None:
    """A URL that is none is one line that names the variable and quotes no password."""
    with pytest.raises(SettingsError, match=r"^WA_REDIS_URL: give redis://") as caught:
        make(load(redis_url=url))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("make", MAKERS)
def test_no_url(make: Callable[..., Any]) -> None:
    """Without a URL the line says what to set."""
    with pytest.raises(SettingsError, match=r"^WA_REDIS_URL is not set"):
        make(load())


@pytest.mark.parametrize("make", [for_worker, for_tools])
def test_url_is_used(make: Callable[..., Any], redis_url: str) -> None:
    """The clients talk to the Redis of the URL, in bytes."""
    client = make(load(redis_url=redis_url))
    client.set("key", "ä")
    assert client.get("key") == "ä".encode()
    client.close()


def test_reason_is_one_line() -> None:
    """A reason for people is the error's name and its first line."""
    assert reason(RedisConnectionError("refused\nmore")) == "ConnectionError: refused"
    assert reason(TimeoutError()) == "TimeoutError"


class OldServer:
    """A server of a version that cannot be installed here."""

    def __init__(self, version: str) -> None:
        self.version = version

    def info(self, section: str) -> dict[str, str]:
        assert section == "server"
        return {"redis_version": self.version}

    def waitaof(self, *_: int) -> list[int]:
        raise ResponseError("no append-only file")


@pytest.mark.parametrize("version", ["6.2.14", "5.0.0", "6.9"])
def test_too_old(version: str) -> None:
    """A server without script flags is refused, by version and remedy."""
    with pytest.raises(SettingsError, match=rf"^WA_REDIS_URL: the server is Redis {version[:3]}, 7\.0 or Valkey"):
        check_version(OldServer(version), load())  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["7.0.0", "7.0.15", "7.2.4", "255.255.255", "10.1.0"])
def test_new_enough(version: str) -> None:
    """Redis 7.0 and all after it will do."""
    check_version(OldServer(version), load())  # type: ignore[arg-type]


def test_fsync_needs_more() -> None:
    """WA_DURABILITY=fsync is refused where WAITAOF does not exist, and where the append-only file is off."""
    with pytest.raises(
        SettingsError, match=r"^WA_DURABILITY=fsync needs WAITAOF.* is Redis 7\.0: .*appendfsync always"
    ):
        check_version(OldServer("7.0.15"), load(durability="fsync"))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"^WA_DURABILITY=fsync needs the append-only file.*set appendonly yes"):
        check_version(OldServer("7.2.4"), load(durability="fsync"))  # type: ignore[arg-type]


@pytest.mark.parametrize("durability", ["redis", "fsync", "replicas:3"])
def test_valkey_will_do(redis: Redis, durability: str) -> None:
    """A Valkey with an append-only file is fit for every durability."""
    check_version(redis, load(durability=durability))
