"""Commands that are carried out although Redis is full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from ingest.settings import load
from ingest.settings import redis_url as url_of
from ingest.store import append, connection, keys, scripts
from ingest.store.allow_oom import AllowOom
from ingest.store.append import APPEND_KEYS, append_arguments, append_head
from ingest.store.jobs import job_template
from ingest.store.records import pack

COMMANDS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("hset", ("hash", "field", b"\xff\x00"), {}),
    ("hset", ("hash",), {"mapping": {"other": "ä", "number": 1.5}}),
    ("hsetnx", ("hash", "field", "no"), {}),
    ("hget", ("hash", "field"), {}),
    ("hgetall", ("none",), {}),
    ("hexists", ("hash", "field"), {}),
    ("set", ("string", "value"), {}),
    ("set", ("string", "value"), {"nx": True, "ex": 10}),
    ("set", ("fresh", "value"), {"nx": True}),
    ("incrbyfloat", ("float", 0.25), {}),
    ("zadd", ("scores", {"one": 1.0, "two": 2.0}), {}),
    ("zscore", ("scores", "none"), {}),
    ("sadd", ("members", "one", "two"), {}),
    ("rpush", ("list", 1), {}),
    ("lrange", ("list", 0, -1), {}),
    ("expire", ("list", 100), {}),
    ("expire", ("none", 100), {}),
]
"""Each beside the others, as workers and operators use them: method, arguments, options."""


def full(redis: Redis) -> None:
    redis.flushall()
    redis.config_set("maxmemory", 1)


def one_by_one(client: Redis) -> list[Any]:
    return [getattr(client, name)(*arguments, **options) for name, arguments, options in COMMANDS]


def together(client: Redis) -> list[Any]:
    with client.pipeline() as pipe:
        for name, arguments, options in COMMANDS:
            getattr(pipe, name)(*arguments, **options)
        return pipe.execute()


@pytest.fixture
def client(redis: Redis) -> Iterator[AllowOom]:
    """The client that workers and tools have."""
    made = connection.for_tools(url_of(load()))
    assert isinstance(made, AllowOom)
    yield made
    made.close()


def test_a_full_redis_refuses_others(redis: Redis) -> None:
    """What the tests below rely on: it is full, also for transactions."""
    full(redis)
    with pytest.raises(OutOfMemoryError):
        one_by_one(redis)
    with pytest.raises(OutOfMemoryError):
        together(redis)


def test_as_if_it_were_not_full(redis: Redis, client: AllowOom) -> None:
    """Commands and transactions are carried out and answered as by a Redis that has room."""
    redis.flushall()
    wanted = one_by_one(redis)
    for way in (one_by_one, together):
        full(redis)
        assert way(client) == wanted
        assert redis.hget("hash", "other") == "ä".encode()
        assert redis.lrange("list", 0, -1) == [b"1"]


def test_errors_stay_errors(redis: Redis, client: AllowOom) -> None:
    """A command that fails for another reason says so, and the others of its pipeline are carried out."""
    full(redis)
    client.set("string", "value")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        client.rpush("string", 1)
    with client.pipeline() as pipe:
        pipe.rpush("string", 1).rpush("list", 1)
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            pipe.execute()
        pipe.rpush("string", 1).rpush("list", 1)
        error, length = pipe.execute(raise_on_error=False)
    assert "WRONGTYPE" in str(error)
    assert length == 2


def test_a_transaction_is_one(redis: Redis, client: AllowOom) -> None:
    """Its commands are carried out in their order, each once, also those that a full Redis would not have refused."""
    redis.rpush("list", *range(10))
    redis.config_set("maxmemory", 1)
    with client.pipeline() as pipe:
        assert pipe.lpop("list").rpush("list", "new").lpop("list").execute() == [b"0", 10, b"1"]


def test_what_brings_in_data_is_refused(redis: Redis, client: AllowOom) -> None:
    """Scripts say themselves what they may: append.lua may not, alone or in a pipeline."""
    full(redis)
    script = client.register_script(scripts.lua(append.__file__, "append.lua"))
    args = append_arguments(append_head("f", job_template(), load().batch), {"statuses": [pack(b"{}", 1)]})
    with pytest.raises(OutOfMemoryError):
        script(keys=APPEND_KEYS, args=args)
    with client.pipeline() as pipe:
        script(keys=APPEND_KEYS, args=args, client=pipe)
        pipe.hset("hash", "field", 1)
        with pytest.raises(OutOfMemoryError):
            pipe.execute()
    assert not redis.exists(keys.LEDGER, "hash")
