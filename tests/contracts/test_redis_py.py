"""What ingest/store relies on inside redis-py, beyond its documentation."""

from __future__ import annotations

import asyncio
import select
from typing import Any

import pytest
import redis.asyncio.sentinel
import redis.sentinel
from redis import Redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.cluster import parse_cluster_slots
from redis.connection import parse_url
from redis.crc import key_slot
from redis.exceptions import ConnectionError, ResponseError
from redis.retry import Retry


def test_commands_before_answers(redis: Redis) -> None:
    """A pool's connection sends any number of packed commands, then reads their answers one by one; an answer that is
    an error is raised, and the next one can be read."""
    pool = redis.connection_pool
    connection = pool.get_connection()
    try:
        packed = connection.pack_commands([("ECHO", "a"), ("LPOP",), ("ECHO", "b")])
        connection.send_packed_command(packed, check_health=False)
        assert connection.read_response() == b"a"
        with pytest.raises(ResponseError):
            connection.read_response()
        connection.send_command("ECHO", "c", check_health=False)
        assert [connection.read_response(), connection.read_response()] == [b"b", b"c"]
    finally:
        connection.disconnect()
        pool.release(connection)
    assert pool.get_connection() is connection


def test_a_connection_can_be_waited_for(redis: Redis) -> None:
    """A connection's socket is `_sock`, which can be read once an answer is there; `can_read` says the same without
    waiting, and True as well when the first of several answers was read and the others came with it."""
    pool = redis.connection_pool
    connection: Any = pool.get_connection()
    try:
        assert not connection.can_read(0)
        connection.send_packed_command(connection.pack_commands([("ECHO", "a"), ("ECHO", "b")]), check_health=False)
        readable, _, _ = select.select([connection._sock.fileno()], [], [], 10)
        assert readable
        assert connection.can_read(0)
        assert connection.read_response() == b"a"
        while not connection.can_read(1):
            pass
        assert connection.read_response() == b"b"
        assert not connection.can_read(0)
    finally:
        connection.disconnect()
        pool.release(connection)


def test_retry() -> None:
    """`Retry.call_with_retry` tries once more than it is told, gives the second function each failure, and raises the
    last."""
    errors = [ConnectionError("1"), ConnectionError("2"), ConnectionError("3")]
    left, told = iter(errors), list[Exception]()

    def fail() -> None:
        raise next(left)

    with pytest.raises(ConnectionError, match="3"):
        Retry(NoBackoff(), 2).call_with_retry(fail, told.append)
    assert told == errors


def test_what_a_pipeline_holds(redis: Redis) -> None:
    """A pipeline keeps its commands as words and options in `command_stack`, says in `watching` if it watches a key,
    and raises with `raise_first_error` the first answer that is an error."""
    pipe = Pipeline(redis.connection_pool, redis.response_callbacks, True, None)
    pipe.set("a", "1").hgetall("b")
    assert [words for words, _ in pipe.command_stack] == [("SET", "a", "1"), ("HGETALL", "b")]
    assert all(isinstance(options, dict) for _, options in pipe.command_stack)
    assert pipe.watching is False
    with pytest.raises(ResponseError, match="broken"):
        pipe.raise_first_error(pipe.command_stack, [True, ResponseError("broken")])
    pipe.reset()
    pipe.watch("a")
    assert pipe.watching is True
    pipe.reset()


def test_response_callbacks(redis: Redis) -> None:
    """`response_callbacks` makes of an answer what the client's own method returns."""
    assert redis.response_callbacks["SET"](b"OK") is redis.set("a", "1") is True
    assert redis.response_callbacks.get("no such command") is None


class Nowhere:
    """Knows no primary, and counts who asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def discover_master(self, service: str) -> tuple[str, int]:
        self.asked.append(service)
        raise ConnectionError("nobody is")


class AsyncNowhere(Nowhere):
    async def discover_master(self, service: str) -> tuple[str, int]:  # type: ignore[override]
        return super().discover_master(service)


def test_a_pool_for_sentinels_asks_whoever_knows() -> None:
    """A pool for sentinels asks `discover_master` of the object that it is given, by the service's name, at every
    connect."""
    nowhere = Nowhere()
    pool: Any = redis.sentinel.SentinelConnectionPool("the slot", nowhere, retry=Retry(NoBackoff(), 0))
    for times in (1, 2):
        with pytest.raises(ConnectionError, match="nobody is"):
            pool.get_connection()
        assert nowhere.asked == ["the slot"] * times


def test_an_async_pool_for_sentinels_asks_whoever_knows() -> None:
    """The same for asyncio, where it is awaited."""

    async def run() -> None:
        nowhere = AsyncNowhere()
        pool: Any = redis.asyncio.sentinel.SentinelConnectionPool("the slot", nowhere, retry=AsyncRetry(NoBackoff(), 0))
        for times in (1, 2):
            with pytest.raises(ConnectionError, match="nobody is"):
                await pool.get_connection()
            assert nowhere.asked == ["the slot"] * times

    asyncio.run(run())


def test_cluster_slots() -> None:
    """CLUSTER SLOTS is read into ranges, each with its primary and replicas; a node without an address is the one that
    was asked."""
    reply = [[0, 99, [b"", 7000, b"id"], [b"10.0.0.2", 7001, b"id"]], [100, 16383, [b"10.0.0.3", 7002, b"id"]]]
    found = parse_cluster_slots(reply, current_host="10.0.0.1")
    assert {slots: (one["primary"], list(one["replicas"])) for slots, one in found.items()} == {
        (0, 99): (("10.0.0.1", 7000), [("10.0.0.2", 7001)]),
        (100, 16383): (("10.0.0.3", 7002), []),
    }
    assert key_slot(b"{wa}:ledger") == key_slot(b"{wa}") == key_slot(b"wa")


def test_urls() -> None:
    """`parse_url` makes the options of a connection of a URL, those of TLS by a class."""
    found: Any = parse_url("rediss://me:pw@h:7000/0?ssl_ca_certs=/ca.pem")
    assert found.pop("connection_class") is redis.SSLConnection
    assert found == {"username": "me", "password": "pw", "host": "h", "port": 7000, "db": 0, "ssl_ca_certs": "/ca.pem"}
