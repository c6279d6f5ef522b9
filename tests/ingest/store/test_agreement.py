"""What processes must agree on: who says it, and who is told of a difference."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from ingest.settings import load
from ingest.store import agreement, keys
from ingest.store.agreement import OF_RECEIVERS, OF_WORKERS, Agreement, said
from ingest.store.connection import for_tools


def test_those_that_agree_say_nothing(redis: Redis, logged: list[Any]) -> None:
    """Receivers and workers with the same values log no line, however often they say it."""
    for fields in (OF_RECEIVERS, OF_WORKERS, OF_WORKERS):
        one = Agreement(redis, load(), fields)
        one.say()
        one.say()
    assert logged == []
    assert said(redis) == {
        "WA_PARTITIONS": ["32"],
        "WA_BUSINESS_PARTITIONS": ["all"],
        "WA_HANDLER_TIMEOUT": ["30s"],
        "WA_DEDUP_WINDOW": ["25h"],
    }


def test_who_differs_says_so_once(redis: Redis, logged: list[Any]) -> None:
    """The line names the variable, both values and what to do; it comes at the start, and from nobody else."""
    receiver = Agreement(redis, load(partitions=16, handler_timeout=60), OF_RECEIVERS)
    worker = Agreement(redis, load(partitions=8), OF_WORKERS)
    receiver.say()
    worker.say()
    worker.say()
    receiver.say()
    (line,) = logged
    assert (line["setting"], line["here"], line["elsewhere"]) == ("WA_PARTITIONS", "8", "16")
    assert line["log_level"] == "warning"
    assert line["remedy"] == agreement.REMEDY


def test_a_receiver_does_not_know_what_workers_have(redis: Redis, logged: list[Any]) -> None:
    """A setting that only workers use may differ in the environment of a receiver."""
    Agreement(redis, load(handler_timeout=60, dedup_window=60), OF_WORKERS).say()
    Agreement(redis, load(), OF_RECEIVERS).say()
    assert logged == []


def test_what_nobody_says_any_more_is_forgotten(redis: Redis, logged: list[Any]) -> None:
    """The value of a process that ended counts for two and a half minutes."""
    Agreement(redis, load(partitions=16), OF_RECEIVERS).say()
    for member in redis.zrange(keys.AGREED, 0, -1):  # type: ignore[union-attr]
        redis.zincrby(keys.AGREED, -agreement.KEPT_SECONDS - 5, member)
    Agreement(redis, load(partitions=8), OF_RECEIVERS).say()
    assert logged == []
    assert said(redis)["WA_PARTITIONS"] == ["8"]
    assert redis.zcard(keys.AGREED) == len(OF_RECEIVERS)


def test_users_without_the_right_go_on(own_valkey: Callable[..., Any]) -> None:
    """Redis users of before may not write this: a process starts all the same."""
    redis = own_valkey().client()
    redis.execute_command("ACL SETUSER", "old", "on", "nopass", "~*", "+@all", "-zadd")
    old = Redis(connection_pool=redis.connection_pool)
    old.execute_command("AUTH", "old", "any")
    Agreement(old, load(), OF_WORKERS).say()


def test_it_is_said_when_redis_is_full(redis_url: str) -> None:
    """A process says it although Redis takes no data."""
    with for_tools(redis_url) as client:
        client.config_set("maxmemory", 1)
        Agreement(client, load(), OF_WORKERS).say()
        assert said(client)["WA_PARTITIONS"] == ["32"]


def test_processes_say_it(
    redis: Redis,
    redis_url: str,
    start_receiver: Callable[..., Any],
    run_module: Callable[..., Any],
    wait_for: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A receiver says its values when it starts; a worker that starts with others logs the line."""
    start_receiver(redis_url, WA_PARTITIONS=16)
    wait_for(lambda: "WA_PARTITIONS" in said(redis), what="the receiver's values")
    monkeypatch.setenv("WA_PARTITIONS", "8")
    worker = run_module("workers.engine.worker", "--burst")
    assert worker.wait(60) == 0
    lines = map(json.loads, worker.stdout.read().splitlines())
    (line,) = [line for line in lines if line.get("setting")]
    assert (line["setting"], line["here"], line["elsewhere"]) == ("WA_PARTITIONS", "8", "16")
