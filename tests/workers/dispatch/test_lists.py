"""Bulk handlers of both kinds, with the events of one notification."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from ingest.telemetry.logs import in_work
from workers import Discard, Event, Handlers, Message, PartialFailure, Reject, RetryIn, Snooze, Status
from workers.testing import Called, call

both = pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])


def texts(*ids: str, sender: str | None = None) -> dict[str, Any]:
    """Messages, each of a contact of its own or all of one."""
    return {
        "messages": [{"from": sender or f"1555{id}", "id": id, "type": "text", "text": {"body": "Hello"}} for id in ids]
    }


def numbered(count: int) -> list[str]:
    return [f"{n:03}" for n in range(count)]


def bulk(handlers: Handlers, is_async: bool, does: Callable[[list[Message]], object], **options: Any) -> None:
    """Register a handler of lists, of one kind or the other."""
    if is_async:

        @handlers.message(bulk=options.pop("bulk", 500), **options)
        async def on_messages(messages: list[Message]) -> None:
            await asyncio.sleep(0)
            does(messages)

    else:
        handlers.message(bulk=options.pop("bulk", 500), **options)(does)


def outcomes(called: Sequence[Called]) -> dict[str, str]:
    return {one.event.id: one.outcome for one in called if isinstance(one.event, Event) and one.event.id}


@both
def test_events_come_in_lists(is_async: bool) -> None:
    """Each event is in one list of up to N, in order of arrival, and handled when the function returns."""
    handlers, lists = Handlers(), []
    bulk(handlers, is_async, lambda messages: lists.append([one.id for one in messages]), bulk=20, linger=60)
    called = call(handlers, texts(*numbered(50)))
    assert set(outcomes(called).values()) == {"handled"}
    assert sorted(lists) == [numbered(50)[:20], numbered(50)[20:40], numbered(50)[40:]]


def test_one_contact_fills_a_list() -> None:
    """Several events of one contact are in one list, in order; while it is in flight, no other one has any of them."""
    handlers, lists, running = Handlers(), [], threading.Lock()

    @handlers.message(bulk=20)
    def on_messages(messages: list[Message]) -> None:
        assert running.acquire(blocking=False)
        time.sleep(0.01)
        lists.append([one.id for one in messages])
        running.release()

    assert set(outcomes(call(handlers, texts(*numbered(50), sender="15550001"))).values()) == {"handled"}
    assert lists == [numbered(50)[:20], numbered(50)[20:40], numbered(50)[40:]]


def test_a_contact_keeps_its_order_beside_single_handlers() -> None:
    """An event that goes to another handler, too, waits for those before it, and those after it for both."""
    handlers, seen = Handlers(), []
    handlers.message(bulk=20)(lambda messages: seen.append([one.id for one in messages]))

    @handlers.message("image")
    async def on_image(message: Message) -> None:
        await asyncio.sleep(0.05)
        seen.append([f"image {message.id}"])

    body = texts("1", "2", "3", "4", "5", sender="15550001")
    body["messages"][2] |= {"type": "image", "image": {"id": "i"}}
    assert set(outcomes(call(handlers, body)).values()) == {"handled"}
    assert seen == [["1", "2"], ["3"], ["image 3"], ["4", "5"]]


def test_two_lists_and_a_single_handler() -> None:
    """An event ends when all its handlers have ended, each by itself."""
    handlers, seen = Handlers(), []
    handlers.message(bulk=10, linger=60)(lambda messages: seen.extend(f"a{one.id}" for one in messages))
    handlers.message(bulk=2, linger=60)(lambda messages: seen.extend(f"b{one.id}" for one in messages))
    handlers.message()(lambda message: seen.append(f"c{message.id}"))

    @handlers.message(bulk=10, linger=60)
    def fails(messages: list[Message]) -> None:
        raise PartialFailure({messages[1]: ValueError("why")})

    called = call(handlers, texts("1", "2", "3"))
    assert outcomes(called) == {"1": "handled", "2": "failed", "3": "handled"}
    assert sorted(seen) == sorted(f"{handler}{n}" for handler in "abc" for n in range(1, 4))
    assert called[1].handler.endswith("fails")


@both
@pytest.mark.parametrize("place", [0, 1, 250, 498, 499])
def test_one_event_at_fault(is_async: bool, place: int) -> None:
    """It alone has failed, all others were handled in their order, with ten calls more at most."""
    handlers, calls, handled = Handlers(), [], []

    def does(messages: list[Message]) -> None:
        calls.append(len(messages))
        if f"{place:03}" in [one.id for one in messages]:
            raise ValueError("why")
        handled.extend(one.id for one in messages)

    bulk(handlers, is_async, does)
    called = call(handlers, texts(*numbered(500)))
    assert [one.event.id for one in called if one.outcome != "handled"] == [f"{place:03}"]  # type: ignore[union-attr]
    assert "ValueError: why" in called[place].detail
    assert handled == [id for id in numbered(500) if id != f"{place:03}"]
    assert calls[0] == 500
    assert len(calls) <= 11


def test_everything_fails() -> None:
    """When nothing works, the list is not taken apart into single calls."""
    handlers, calls = Handlers(), []

    @handlers.message(bulk=500)
    def fails(messages: list[Message]) -> None:
        calls.append(len(messages))
        raise ConnectionError

    assert set(outcomes(call(handlers, texts(*numbered(500)))).values()) == {"failed"}
    assert len(calls) <= 11


@both
def test_partial_failure(is_async: bool) -> None:
    """Each event ends as if its error had been raised for it alone; the others are handled, without other calls."""
    handlers, calls = Handlers(), []
    errors = {"1": Discard("d"), "2": Reject("r"), "3": RetryIn(7), "4": Snooze(8), "5": ValueError("v")}

    def does(messages: list[Message]) -> None:
        calls.append(len(messages))
        raise PartialFailure({one: errors[one.id] for one in messages if one.id in errors})

    bulk(handlers, is_async, does)
    called = call(handlers, texts("0", "1", "2", "3", "4", "5", "6"))
    names = ["handled", "discarded", "rejected", "failed", "snoozed", "failed", "handled"]
    assert [one.outcome for one in called] == names
    assert [one.retry_in for one in called] == [None, None, None, 7, 8, None, None]
    assert called[5].detail.startswith("ValueError: v")
    assert calls == [7]


@pytest.mark.parametrize(
    ("error", "name"), [(Discard("why"), "discarded"), (Reject("why"), "rejected"), (RetryIn(7), "failed")]
)
def test_what_is_decided_for_a_list(error: Exception, name: str) -> None:
    """Discard, Reject, RetryIn and Snooze are for each event of the list, and no reason to call it again."""
    handlers, calls = Handlers(), []

    @handlers.message(bulk=10)
    def decides(messages: list[Message]) -> None:
        calls.append(len(messages))
        raise error

    assert set(outcomes(call(handlers, texts("1", "2", "3"))).values()) == {name}
    assert calls == [3]


def test_partial_failure_of_a_stranger() -> None:
    """An event that is not in the list fails all of it, with an error that says so."""
    handlers, before = Handlers(), []

    @handlers.message(bulk=10)
    def mistaken(messages: list[Message]) -> None:
        before.extend(messages)
        raise PartialFailure({before[0]: ValueError()})

    call(handlers, texts("1"))
    (called,) = call(handlers, texts("2"))
    assert (called.outcome, called.detail.partition(" (")[0]) == (
        "failed",
        "ValueError: PartialFailure names an event that is not in the list",
    )


@pytest.mark.parametrize("errors", [None, ["a"], {"a": "b"}, {"a": ValueError}])
def test_partial_failure_takes_events_and_errors(errors: Any) -> None:
    """Anything else is refused where it is written."""
    with pytest.raises(TypeError, match="takes a dict of events and exceptions"):
        PartialFailure(errors)


@both
def test_the_time_limit_is_for_the_list(is_async: bool) -> None:
    """A list that takes too long has failed as a whole, and is not called again in parts."""
    handlers, calls = Handlers(), []

    @handlers.message(bulk=10)
    def slow(messages: list[Message]) -> None:
        calls.append(len(messages))
        until = time.monotonic() + 60
        while time.monotonic() < until:
            time.sleep(0.01)

    @handlers.status(bulk=10)
    async def slow_async(statuses: list[Status]) -> None:
        calls.append(len(statuses))
        await asyncio.sleep(60)

    statuses = [{"id": f"{n}", "recipient_id": "1", "status": "read", "timestamp": "1700000000"} for n in range(3)]
    began = time.monotonic()
    called = call(handlers, {"statuses": statuses} if is_async else texts("1", "2", "3"), timeout=0.2)
    assert {one.detail.partition(" (")[0] for one in called} == {"HandlerTimeout: not done after 0.2 s"}
    assert time.monotonic() - began < 30
    assert calls == [3]


def test_a_list_that_blocks_the_loop() -> None:
    """An async one is interrupted at its limit."""
    handlers = Handlers()

    @handlers.message(bulk=10)
    async def blocks(messages: list[Message]) -> None:
        time.sleep(60)  # noqa: ASYNC251

    began = time.monotonic()
    assert set(outcomes(call(handlers, texts("1", "2"), timeout=1)).values()) == {"failed"}
    assert time.monotonic() - began < 30


def test_halves_have_the_time_of_one_list() -> None:
    """No part is called any more when the parts before it took as long as a list may: the rest has failed."""
    handlers, calls = Handlers(), []

    @handlers.message(bulk=500)
    def slow(messages: list[Message]) -> None:
        calls.append(len(messages))
        time.sleep(0.3)
        raise ConnectionError

    assert set(outcomes(call(handlers, texts(*numbered(100)), timeout=0.5)).values()) == {"failed"}
    assert calls == [100, 50]


@both
def test_a_try_again_comes_alone(is_async: bool) -> None:
    """An event that is tried again has a list of its own, so it costs others nothing."""
    handlers, calls = Handlers(), []
    bulk(handlers, is_async, lambda messages: calls.append(len(messages)))
    call(handlers, texts("1", "2", "3"), attempt=2)
    assert calls == [1, 1, 1]


@both
def test_hooks(is_async: bool) -> None:
    """`around` is given the list; `on_error` each event that failed, once, with its own error."""
    handlers, around, told = Handlers(), [], []

    @handlers.around
    def note(messages: list[Message]) -> Iterator[None]:
        around.append(len(messages))
        yield

    @handlers.on_error
    def on_error(event: Event, error: BaseException, attempt: int) -> None:
        told.append((event.id, str(error), attempt))

    def does(messages: list[Message]) -> None:
        if "2" in [one.id for one in messages]:
            raise ValueError("why")

    bulk(handlers, is_async, does)
    call(handlers, texts("1", "2", "3", "4"))
    assert told == [("2", "why", 1)]
    assert around[0] == 4


@both
def test_log_lines(is_async: bool) -> None:
    """What a list logs says which lane it is of, and how many events it has."""
    handlers, fields = Handlers(), []

    def does(messages: list[Message]) -> None:
        found = in_work.get()
        assert found is not None
        fields.append(found[0](found[1]))

    bulk(handlers, is_async, does)
    call(handlers, texts("1", "2"))
    assert fields == [{"lane": "messages", "events": 2}]
    assert in_work.get() is None


def test_an_async_hook_of_a_plain_list() -> None:
    """`on_error` may be `async`, and is called for each event of PartialFailure."""
    handlers, told = Handlers(), []

    @handlers.on_error
    async def on_error(event: Event, error: BaseException, attempt: int) -> None:
        told.append((event.id, str(error)))

    @handlers.message(bulk=10)
    def fails(messages: list[Message]) -> None:
        raise PartialFailure({one: ValueError(one.id) for one in messages})

    call(handlers, texts("1", "2"))
    assert told == [("1", "1"), ("2", "2")]


def test_a_list_that_cannot_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it has failed, its thread is replaced, and each event is told once."""
    monkeypatch.setattr("workers.dispatch.threads.GRACE_SECONDS", 0.1)
    handlers, go, told = Handlers(), threading.Event(), []

    @handlers.on_error
    def on_error(event: Event, error: BaseException, attempt: int) -> None:
        told.append(event.id)

    @handlers.message(bulk=10)
    def hangs(messages: list[Message]) -> None:
        go.wait(60)

    called = call(handlers, texts("1", "2"), timeout=0.1)
    go.set()
    assert {"nor could it be interrupted" in one.detail for one in called} == {True}
    assert told == ["1", "2"]


def test_statuses_of_one_message() -> None:
    """They are in lists of their own, one after another."""
    handlers, lists = Handlers(), []
    handlers.status(bulk=10)(lambda statuses: lists.append([(one.id, one.status) for one in statuses]))
    stages = ("read", "delivered")
    call(handlers, {"statuses": [{"id": id, "status": stage} for stage in stages for id in ("a", "b")]})
    assert lists == [[("a", "read"), ("b", "read")], [("a", "delivered"), ("b", "delivered")]]
