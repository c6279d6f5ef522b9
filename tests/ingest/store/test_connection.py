"""Connections: errors that name the setting, and the server's version."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ingest.settings import SettingsError, load
from ingest.settings import redis_url as url_of
from ingest.store import keys
from ingest.store.connection import check_version, for_receiver, for_tools, for_worker, reason

MAKERS = [for_receiver, for_worker, for_tools]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("url", ["http://:hunter2@h", "h:6379", "redis://:hunter2@h:port/0", "", "/hunter2"])
def test_wrong_url(make: Callable[..., Any], url: str) -> None:
    """A URL that is none is one line that names the variable and quotes no password."""
    with pytest.raises(SettingsError, match=r"^WA_REDIS_URL: give redis://") as caught:
        make(url_of(load(redis_url=url)))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("make", MAKERS)
def test_no_url(make: Callable[..., Any]) -> None:
    """Without a URL the line says what to set."""
    with pytest.raises(SettingsError, match=r"^WA_REDIS_URL is not set"):
        make(url_of(load()))


@pytest.mark.parametrize("make", [for_worker, for_tools])
def test_url_is_used(make: Callable[..., Any], redis_url: str) -> None:
    """The clients talk to the Redis of the URL, in bytes."""
    client = make(url_of(load(redis_url=redis_url)))
    client.set("key", "ä")
    assert client.get("key") == "ä".encode()
    client.close()


SENTINEL_URLS = {
    "redis+sentinel://one/main": ([("one", 26379)], "main", {"db": 0}),
    "redis+sentinel://one:1,two,[::1]:3/main/4": ([("one", 1), ("two", 26379), ("::1", 3)], "main", {"db": 4}),
    "redis+sentinel://:p%40ss:w@one/main": ([("one", 26379)], "main", {"db": 0, "password": "p@ss:w"}),
    "redis+sentinel://me:secret@one/a%2Fb/0": (
        [("one", 26379)],
        "a/b",
        {"db": 0, "username": "me", "password": "secret"},
    ),
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("url", SENTINEL_URLS)
def test_sentinel_url(make: Callable[..., Any], url: str) -> None:
    """A sentinel URL names sentinels and service; user, password and database are those of the primary alone."""
    hosts, service, server = SENTINEL_URLS[url]
    pool = make(url_of(load(redis_url=url))).connection_pool
    assert pool.service_name == service
    assert {k: v for k, v in pool.connection_kwargs.items() if k in ("db", "username", "password")} == server
    asked = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(kwargs["host"], kwargs["port"]) for kwargs in asked] == hosts
    assert all(kwargs["password"] is kwargs["username"] is None for kwargs in asked)
    assert all(kwargs["socket_timeout"] <= 0.5 >= kwargs["socket_connect_timeout"] for kwargs in asked)


@pytest.mark.parametrize("make", MAKERS)
def test_same_limits(make: Callable[..., Any]) -> None:
    """Time-outs and retries are the same whether the primary's address is known or asked for."""
    plain, asked = (
        make(url_of(load(redis_url=url))).connection_pool for url in ("redis://one/0", "redis+sentinel://one/main")
    )
    for name in ("socket_timeout", "socket_connect_timeout", "retry"):
        assert plain.connection_kwargs.get(name) == asked.connection_kwargs.get(name), name


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "rest",
    [
        "",
        "//",
        "//h",
        "//h/",
        "//h/main/x",
        "//h/main/0/1",
        "//h/main?db=1",
        "//h:port/main",
        "//h:99999/main",
        "//h,/main",
        "//:1/main",
        "//hunter2@h/main",
        "//:hunter2@/main",
        "//:hunter2/@h/main",
    ],
)
def test_wrong_sentinel_url(make: Callable[..., Any], rest: str) -> None:
    """A sentinel URL that is none is one line that says what to give and quotes no password."""
    with pytest.raises(SettingsError, match=r"^WA_REDIS_URL: give .* redis\+sentinel://HOST:PORT,") as caught:
        make(url_of(load(redis_url=f"redis+sentinel:{rest}")))
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "rest", ["", "//", "//h/1", "//h:port", "//h:99999", "//h,", "//:1", "//hunter2@h", "//h/main"]
)
def test_wrong_cluster_url(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, rest: str) -> None:
    """A cluster URL that is none is one line that says what to give and quotes no password."""
    monkeypatch.setattr(keys, "RQ", "{wa}")
    with pytest.raises(SettingsError, match=r"^WA_REDIS_URL: give .* redis\+cluster://HOST:PORT,") as caught:
        make(url_of(load(redis_url=f"redis+cluster:{rest}")))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("make", MAKERS)
def test_cluster_url(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """User, password and TLS of a cluster URL are those of its nodes; a wrong option is one line."""
    monkeypatch.setattr(keys, "RQ", "a{wa}b")
    (tmp_path / "ca.pem").touch()
    url = "rediss+cluster://me:p%40ss@one,two:1,[::1]:2/0?ssl_ca_certs="
    pool = make(url_of(load(redis_url=f"{url}{tmp_path}/ca.pem"))).connection_pool
    known = {"db": 0, "username": "me", "password": "p@ss", "ssl_ca_certs": f"{tmp_path}/ca.pem"}
    assert {name: pool.connection_kwargs.get(name) for name in known} == known
    with pytest.raises(SettingsError, match="WA_REDIS_URL: ssl_ca_certs: /nowhere cannot be read"):
        make(url_of(load(redis_url=f"{url}/nowhere")))
    with pytest.raises(SettingsError, match="WA_REDIS_URL: ssl_file is no option"):
        make(url_of(load(redis_url="rediss+cluster://one?ssl_file=x")))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("prefix", ["rq", "wa}{", "{}{wa}"])
def test_cluster_without_hash_tag(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    """A cluster whose slots our keys would be spread over is refused in one line with the remedy."""
    monkeypatch.setattr(keys, "RQ", prefix)
    with pytest.raises(SettingsError, match=r"^RQ_KEY_PREFIX must hold a \{hash tag\}.* set RQ_KEY_PREFIX=\{wa\}"):
        make(url_of(load(redis_url="redis+cluster://one")))


def test_sentinels_away(free_port: Callable[[], int]) -> None:
    """Sentinels that nobody reaches are a Redis that is away, told in one line without their passwords or ours."""
    url = f"redis+sentinel://:hunter2@127.0.0.1:{free_port()},127.0.0.1:{free_port()}/main"
    client = for_tools(url_of(load(redis_url=url)))
    with pytest.raises(RedisConnectionError) as caught:
        client.ping()
    assert reason(caught.value) == "MasterNotFoundError: No master found for 'main'"


class _Stop(BaseException):
    """What a signal handler may raise in the middle of anything."""


def test_interrupted_answer(own_valkey: Callable[..., Any], low_port: Callable[[], int]) -> None:
    """An answer that nobody waited for is not given to the next command, over sentinels either."""
    port = low_port()
    server = own_valkey(port=port)
    client = for_worker(url_of(load(redis_url="redis+sentinel://one/main")))
    client.connection_pool.sentinel_manager.discover_master = lambda _: ("127.0.0.1", port)
    client.set("key", "value")

    def stop(*_: object) -> None:
        raise _Stop

    before = signal.signal(signal.SIGALRM, stop)
    server.freeze()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(_Stop):
            client.ping()
    finally:
        signal.signal(signal.SIGALRM, before)
        server.thaw()
    assert client.get("key") == b"value"
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
        check_version(OldServer(version), load().durability)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["7.0.0", "7.0.15", "7.2.4", "255.255.255", "10.1.0"])
def test_new_enough(version: str) -> None:
    """Redis 7.0 and all after it will do."""
    check_version(OldServer(version), load().durability)  # type: ignore[arg-type]


def test_fsync_needs_more() -> None:
    """WA_DURABILITY=fsync is refused where WAITAOF does not exist, and where the append-only file is off."""
    with pytest.raises(
        SettingsError, match=r"^WA_DURABILITY=fsync needs WAITAOF.* is Redis 7\.0: .*appendfsync always"
    ):
        check_version(OldServer("7.0.15"), load(durability="fsync").durability)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"^WA_DURABILITY=fsync needs the append-only file.*set appendonly yes"):
        check_version(OldServer("7.2.4"), load(durability="fsync").durability)  # type: ignore[arg-type]


@pytest.mark.parametrize("durability", ["redis", "fsync", "replicas:3"])
def test_valkey_will_do(redis: Redis, durability: str) -> None:
    """A Valkey with an append-only file is fit for every durability."""
    check_version(redis, load(durability=durability).durability)
