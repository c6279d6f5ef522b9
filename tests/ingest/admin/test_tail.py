"""`POST /actions/tail`: what a listener is sent, and that it holds up nobody."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from typing import Any

import pytest
from redis import Redis

from ingest.admin import tail
from ingest.state import listeners
from ingest.store import keys

TOKEN = "correct-horse-battery"
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "Connection": "close"}
Open = Callable[..., Any]


@pytest.fixture
def receiver(redis_url: str, start_receiver: Callable[..., Any]) -> Any:
    """A receiver with a token."""
    return start_receiver(redis_url, WA_ADMIN_TOKEN=TOKEN)


@pytest.fixture
def listen(receiver: Any) -> Iterator[Open]:
    """Begin to listen; gives the answer, whose lines can be read."""
    with ExitStack() as stack:

        def begin(**wanted: object) -> Any:
            connection = HTTPConnection("127.0.0.1", receiver.admin_port, timeout=30)
            stack.callback(connection.close)
            connection.request("POST", "/actions/tail", json.dumps(wanted), HEADERS)
            answer = connection.getresponse()
            stack.callback(answer.close)
            return answer

        yield begin


def _next(answer: Any) -> Any:
    """The next line that says something."""
    while not (line := answer.readline()).strip():
        assert line, "the stream has ended"
    return json.loads(line)


def _channel(redis: Redis, wait_for: Callable[..., None]) -> str:
    wait_for(lambda: redis.exists(keys.LISTENERS), what="the announcement")
    (name,) = listeners.read(redis)
    return keys.tail_channel(name)


def test_announced_and_passed_on(redis: Redis, listen: Open, wait_for: Callable[..., None]) -> None:
    """Workers can read what a listener wants; what they publish for it comes as it is; it is withdrawn at the end."""
    answer = listen(kinds=["message"], contacts=["15550001"], body=True)
    assert answer.status == 200
    channel = _channel(redis, wait_for)
    (wanted,) = listeners.read(redis).values()
    assert wanted == listeners.Wanted(kinds=("message",), contacts=("15550001",), body=True)
    assert 0 < redis.pttl(keys.LISTENERS) <= 10_000
    said = {"worker": "w", "events": [{"kind": "message"}], "dropped": 3}
    assert redis.publish(channel, json.dumps(said)) == 1
    assert _next(answer) == said
    answer.close()
    wait_for(lambda: not redis.exists(keys.LISTENERS), what="the withdrawal")


def test_nothing_personal_is_logged(receiver: Any, listen: Open, redis: Redis, wait_for: Callable[..., None]) -> None:
    """That somebody listens is a line in the log, whom to is not."""
    listen(contacts=["15550001"], personal=True)
    _channel(redis, wait_for)
    wait_for(lambda: "somebody listens" in receiver.log())
    assert "15550001" not in receiver.log()


@pytest.mark.parametrize(
    "wanted", [{"kinds": "message"}, {"other": 1}, {"personal": "yes"}, {"types": ["x" * 1001]}, {"contacts": [1]}]
)
def test_what_is_wrong_is_refused(listen: Open, wanted: dict[str, object]) -> None:
    """What is no such wish is 400, and the answer says where it is wrong."""
    answer = listen(**wanted)
    assert answer.status == 400
    assert next(iter(wanted)) in json.loads(answer.read())["error"]


def test_a_slow_listener_holds_up_nobody(redis: Redis, listen: Open, wait_for: Callable[..., None]) -> None:
    """What does not fit is counted, and the others are told all of it."""
    slow = listen()
    channel = _channel(redis, wait_for)
    line = json.dumps({"worker": "w", "events": ["x" * 1000] * 100, "dropped": 0})
    count = 10 * tail.MOST_BYTES // len(line)  # more than sockets hold, too
    for _ in range(count):
        redis.publish(channel, line)
    other = listen()
    wait_for(lambda: redis.zcard(keys.LISTENERS) == 2)
    name = next(name for name in listeners.read(redis) if keys.tail_channel(name) != channel)
    redis.publish(keys.tail_channel(name), '{"worker":"v","events":[],"dropped":0}')
    assert _next(other)["worker"] == "v"
    events = dropped = 0
    while events + dropped < count * 100:
        told = _next(slow)
        events += len(told.get("events", ()))
        dropped += told.get("dropped", 0)
    assert events + dropped == count * 100
    assert dropped > 0


def test_one_too_many(listen: Open) -> None:
    """So many may listen at a time; one more is told so, and may when another has gone."""
    several = [listen() for _ in range(tail.LISTENERS)]
    assert {one.status for one in several} == {200}
    refused = listen()
    assert refused.status == 503
    assert "8 listen already" in json.loads(refused.read())["error"]


def test_the_receiver_stops(receiver: Any, listen: Open) -> None:
    """A stop does not wait for listeners."""
    answer = listen()
    assert receiver.stop() == 0
    assert answer.read().strip() == b""


def test_redis_is_away_for_a_while(
    start_receiver: Callable[..., Any], own_valkey: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    """A listener is told that Redis is away, and when it listens again, and goes on."""
    server = own_valkey()
    receiver = start_receiver(server.url, WA_ADMIN_TOKEN=TOKEN)
    connection = HTTPConnection("127.0.0.1", receiver.admin_port, timeout=30)
    connection.request("POST", "/actions/tail", "{}", HEADERS)
    answer = connection.getresponse()
    channel = _channel(server.client(), wait_for)
    server.stop()
    assert "Redis is not reachable" in _next(answer)["away"]
    server.start()
    client = server.client()
    wait_for(lambda: client.publish(channel, '{"worker":"w","events":[],"dropped":0}') == 1)
    while (told := _next(answer)).keys() == {"away"}:  # each time that it has tried
        pass
    assert server.url.endswith(told["again"])
    assert _next(answer)["worker"] == "w"
    answer.close()
