"""Whatever is raised in our own code at one event ends that event alone: a dead letter, and the worker goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from workers import Handlers, Message
from workers.dispatch import outcomes
from workers.dispatch.event_context import EventContext
from workers.engine import batch_state, claims, profiles
from workers.handlers import Handlers as Registry

Breaks = Callable[[pytest.MonkeyPatch], None]


def _breaks(owner: Any, name: str, position: int = 0) -> Breaks:
    """Have a function raise when it is called with the event or the body of m1."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        real = getattr(owner, name)

        def maybe(*args: Any, **named: Any) -> Any:
            what = args[position]
            if (b'"m1"' in what) if isinstance(what, bytes) else getattr(what, "id", None) == "m1":
                raise KeyError("nobody foresaw this")
            return real(*args, **named)

        patch.setattr(owner, name, maybe)

    return apply


def _order_key_breaks(patch: pytest.MonkeyPatch) -> None:
    real = Message.order_key

    def maybe(self: Message) -> Any:
        if self.id == "m1":
            raise KeyError("nobody foresaw this")
        return real.fget(self)  # type: ignore[attr-defined]

    patch.setattr(Message, "order_key", property(maybe))


PLACES: dict[str, Breaks] = {
    "parsing": _breaks(batch_state, "parse"),
    "the claim": _breaks(claims, "of"),
    "the order key": _order_key_breaks,
    "choosing handlers": _breaks(Registry, "matching", 1),
    "the event's context": _breaks(EventContext, "begin", 1),
    "what is known of the contact": _breaks(profiles, "said"),
}


@pytest.mark.parametrize("place", PLACES)
def test_one_event_ends(
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    commit: Any,
    take: Any,
    runner: Any,
    message: Any,
    dead: Any,
    nothing_left: Any,
    logged: Any,
) -> None:
    """The event is a dead letter that names the place; those before and after it, of the same contact, are handled."""
    handlers, seen = Handlers(), []

    @handlers.message()
    def handle(event: Any) -> None:
        seen.append(event.id)

    @handlers.profile()
    def contact(event: Any) -> None: ...

    commit(*[message(f"m{n}") for n in range(3)])
    PLACES[place](monkeypatch)
    made = runner(handlers)
    made.run(*take())
    assert seen == ["m0", "m2"]
    (letter,) = dead("messages")
    assert letter["reason"] == "fault"
    assert letter["detail"].startswith("KeyError at ")
    assert "foresaw" not in letter["detail"]
    assert '"m1"' in letter["body"]
    assert any(line.get("reason") == "fault" for line in logged)
    nothing_left()


def test_what_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, commit: Any, take: Any, runner: Any, message: Any, dead: Any, redis: Redis
) -> None:
    """A failed event that cannot be written for its retry becomes a dead letter with the whole notification."""
    handlers = Handlers()

    @handlers.message()
    def handle(event: Any) -> None:
        raise ValueError

    commit(*[message(f"m{n}") for n in range(2)])
    _breaks(Message, "body")(monkeypatch)
    runner(handlers).run(*take())
    (letter,) = dead("messages")
    assert (letter["reason"], letter["kind"]) == ("fault", "message")
    assert '"m1"' in letter["body"]
    assert len(redis.keys("*batch:*")) == 1, "m0 waits for its retry"


def test_what_a_handler_raises_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, commit: Any, take: Any, runner: Any, message: Any, dead: Any
) -> None:
    """An exception that makes reading it fail costs its event alone."""
    handlers, seen = Handlers(), []

    @handlers.message()
    def handle(event: Any) -> None:
        seen.append(event.id)
        if event.id == "m1":
            raise ValueError

    def broken(*_: Any) -> Any:
        raise KeyError

    monkeypatch.setattr(outcomes, "_of_failure", broken)
    commit(*[message(f"m{n}") for n in range(3)])
    runner(handlers).run(*take())
    assert seen == ["m0", "m1", "m2"]
    assert [letter["reason"] for letter in dead("messages")] == ["fault"]
