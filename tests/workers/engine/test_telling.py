"""What a worker tells those who listen, and that it is bounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from redis import Redis

from ingest.state.listeners import Wanted
from ingest.store import keys
from tests.workers.conftest import message_body, status_body
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.outcomes import HANDLED, Ended, Outcome
from workers.engine import telling
from workers.engine.telling import Telling, described, masked
from workers.events import Event
from workers.events.parsing import parse
from workers.handler import Handler
from workers.handlers import Handlers
from workers.raised import Snooze


def event(body: bytes) -> Event:
    (found,) = parse(body, 1_700_000_000_000)
    assert isinstance(found, Event)
    return found


@pytest.fixture
def dispatcher() -> Any:
    found = Dispatcher(Handlers(), 1, 1, 1.0)
    yield found
    found.close()


@pytest.fixture
def listen(redis: Redis) -> Callable[..., Any]:
    """Announce a listener, as an admin listener does; its channel."""

    def announce(name: str = "a", wanted: Wanted = Wanted()) -> Any:  # noqa: B008 - it is never changed
        redis.zadd(keys.LISTENERS, {orjson.dumps((name, wanted._asdict())): 1})
        channel = redis.pubsub(ignore_subscribe_messages=True)
        channel.subscribe(keys.tail_channel(name))
        channel.get_message(timeout=10)
        return channel

    return announce


def told(channel: Any, count: int) -> list[Any]:
    """So many messages."""
    found: list[Any] = []
    while len(found) < count:
        if (message := channel.get_message(timeout=10)) is not None:
            found.append(json.loads(message["data"]))
    return found


def test_nobody_listens(redis: Redis, dispatcher: Dispatcher, listen: Callable[..., Any]) -> None:
    """While nobody listens, the dispatcher calls nothing and there is no thread; so again when nobody does any more."""
    one = Telling(redis, "w1", dispatcher, 8)
    one.look()
    assert dispatcher.watcher is None
    assert one._thread is None
    channel = listen()
    one.look()
    assert dispatcher.watcher is not None
    assert told(channel, 1)
    redis.delete(keys.LISTENERS)
    one.look()
    assert dispatcher.watcher is None
    assert one._thread is not None
    one._thread.join(timeout=30)
    assert not one._thread.is_alive()


def test_each_listener_is_told_what_it_wants(redis: Redis, dispatcher: Dispatcher, listen: Callable[..., Any]) -> None:
    """The first message says that the worker tells; then come the events that fit, the last ones at the end."""
    every, statuses = listen("a"), listen("b", Wanted(kinds=("status",)))
    one = Telling(redis, "w1", dispatcher, 8)
    one.look()
    for channel in (every, statuses):
        assert told(channel, 1) == [{"worker": "w1", "dropped": 0, "events": []}]
    assert dispatcher.watcher
    for body in (message_body(), status_body(status="read")):
        dispatcher.watcher(event(body), HANDLED, ())
    dispatcher.watcher(event(status_body()), Outcome("lost"), ())
    one.close()
    kinds = [[shown["kind"] for shown in told(channel, 1)[0]["events"]] for channel in (every, statuses)]
    assert kinds == [["message", "status"], ["status"]]


def test_one_that_comes_back_is_told_what_it_missed(
    redis: Redis,
    dispatcher: Dispatcher,
    listen: Callable[..., Any],
    wait_for: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What nobody heard, as when Redis has come back and the listener has not yet, is told to it once when it is there,
    also when Redis has forgotten it; one that does not come back within seconds is forgotten.
    """
    channel = listen()
    one = Telling(redis, "w1", dispatcher, 8)
    one.look()
    assert told(channel, 1)
    channel.close()
    assert dispatcher.watcher
    (kept,) = one._told.values()
    dispatcher.watcher(event(message_body("1")), HANDLED, ())
    wait_for(lambda: kept.unheard_at > 0)
    dispatcher.watcher(event(status_body()), HANDLED, ())
    redis.delete(keys.LISTENERS)
    one.look()
    assert dispatcher.watcher
    first, second = told(listen(), 2)
    assert [shown["kind"] for shown in (*first["events"], *second["events"])] == ["message", "status"]
    redis.delete(keys.LISTENERS)
    wait_for(lambda: kept.unheard_at < 0)
    monkeypatch.setattr(telling, "_GAP_SECONDS", -1.0)  # as if Redis had been away since the last look
    one.look()
    assert dispatcher.watcher
    monkeypatch.undo()
    kept.unheard_at -= telling._KEPT_SECONDS
    one.look()
    assert dispatcher.watcher is None
    one.close()


@pytest.mark.parametrize(("events", "bytes"), [(5, 1_000_000), (1_000_000, 2000)])
def test_bounds(
    redis: Redis,
    dispatcher: Dispatcher,
    listen: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    events: int,
    bytes: int,
) -> None:
    """What is beyond the events or the bytes of a second is counted, and costs and keeps nothing."""
    monkeypatch.setattr(telling, "MOST_EVENTS", events)
    monkeypatch.setattr(telling, "MOST_BYTES", bytes)
    channel = listen()
    one = Telling(redis, "w1", dispatcher, 8)
    one.look()
    one.close()  # its thread would renew the bounds
    assert dispatcher.watcher
    (kept,) = one._told.values()
    described_of: list[Event] = []

    def describe(event: Event, *more: Any) -> Any:
        described_of.append(event)
        return described(event, *more)

    monkeypatch.setattr(telling, "described", describe)
    for n in range(100):
        dispatcher.watcher(event(message_body(str(n))), HANDLED, ())
    shown = len(kept._events)
    assert 1 <= shown <= 10
    assert len(described_of) == shown + (bytes == 2000)
    assert sum(map(len, kept._events)) <= bytes
    message = json.loads(kept.take() or b"")
    assert (len(message["events"]), message["dropped"]) == (shown, 100 - shown)
    channel.close()


def test_failures_have_room_of_their_own(
    redis: Redis, dispatcher: Dispatcher, listen: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one event that failed among many that did not is told, and even a flood of failures is bounded."""
    monkeypatch.setattr(telling, "MOST_EVENTS", 10)
    channel = listen()
    one = Telling(redis, "w1", dispatcher, 8)
    one.look()
    one.close()  # its thread would renew the bounds
    assert dispatcher.watcher
    (kept,) = one._told.values()
    for n in range(100):
        dispatcher.watcher(event(message_body(str(n))), HANDLED, ())
    dispatcher.watcher(event(message_body("odd")), Outcome("failed", "", "KeyError at bot.py:1", "bot.f"), ())
    told = json.loads(kept.take() or b"")["events"]
    assert [one["outcome"] for one in told] == ["handled"] * 10 + ["failed"]
    kept.heard()
    for n in range(100):
        dispatcher.watcher(event(message_body(f"f{n}")), Outcome("failed", "", "KeyError at bot.py:1", "bot.f"), ())
    assert len(json.loads(kept.take() or b"")["events"]) == telling.MOST_FAILURES - 1
    channel.close()


def test_what_cannot_be_described_ends_nothing(
    redis: Redis, dispatcher: Dispatcher, listen: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    """An event that cannot be told is a line in the log: it was handled all the same."""

    def fail(*_: object) -> None:
        raise ValueError("15550001")

    listen()
    monkeypatch.setattr(telling, "described", fail)
    one = Telling(redis, "w1", dispatcher, 8)
    one.look()
    assert dispatcher.watcher
    dispatcher.watcher(event(message_body()), HANDLED, ())
    one.close()
    (line,) = [line for line in logged if line["event"] == "an event cannot be told to listeners"]
    assert line["error"].startswith("ValueError at ")
    assert "15550001" not in str(line)


@pytest.mark.parametrize(
    ("contact", "shown"),
    [("4915550001234", "…1234"), ("US.13491208655302741918", "…1918"), ("1234567", "…"), ("", ""), (None, None)],
)
def test_masked(contact: str | None, shown: str | None) -> None:
    """Of a contact the last four characters are shown, and none of one that is hardly longer."""
    assert masked(contact) == shown


def test_nothing_personal_that_is_not_wanted() -> None:
    """A name where senders write a word is not shown; the body is given as it would be posted."""
    one = event(message_body("wamid.1", type="Ada Lovelace"))
    usual = described(one, HANDLED, (), Wanted())
    assert usual["type"] == "?"
    assert not [word for word in ("Ada", "15550001", "wamid", "Hello") if word in orjson.dumps(usual).decode()]
    wanted = described(one, HANDLED, (), Wanted(body=True, personal=True))
    assert (wanted["type"], wanted["contact"], wanted["id"]) == ("Ada Lovelace", "15550001", "wamid.1")
    assert wanted["body"] == one.body().decode()


def test_which_handler_failed() -> None:
    """Of several handlers those that failed are named, each with what logs may say; not those that worked or wait."""
    names = ("works", "fails", "snoozes", "waits")
    works, fails, snoozes, waits = (Handler(print, "message", frozenset(), False, name) for name in names)
    calls = (
        Ended(works),
        Ended(fails, error=KeyError("Ada")),
        Ended(snoozes, error=Snooze(1)),
        Ended(waits, waits=1.0),
    )
    found = described(event(message_body("wamid.1")), Outcome("failed"), calls, Wanted())
    assert (found["failed"], found["waits_for"]) == ({"fails": "KeyError"}, ["waits"])


@pytest.mark.parametrize(
    ("attempts", "outcome", "dead"), [(1, "failed", True), (2, "failed", None), (1, "handled", None)]
)
def test_the_last_try(
    attempts: int, outcome: str, dead: bool | None, redis: Redis, dispatcher: Dispatcher, listen: Callable[..., Any]
) -> None:
    """Of an event that has failed and is not tried again, it is told that it is dead."""
    channel = listen()
    one = Telling(redis, "w1", dispatcher, attempts)
    one.look()
    told(channel, 1)
    assert dispatcher.watcher
    dispatcher.watcher(event(message_body()), Outcome(outcome), ())
    one.close()
    (found,) = told(channel, 1)[0]["events"]
    assert found.get("dead") is dead
