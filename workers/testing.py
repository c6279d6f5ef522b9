"""Runs your handlers without Redis: for your tests, and for `wa-ingest call`.

from workers.testing import call

def test_answer():
    (called,) = call(bot.handlers, {"messages": [{"from": "15550001", "id": "m1", "type": "text",
                                                  "text": {"body": "Hello"}}]})
    assert called.outcome == "handled"
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from ingest.settings import load
from ingest.store.headers import write as write_headers
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.loops import close_loop, new_loop
from workers.dispatch.outcomes import Outcome
from workers.events import Broken, Event
from workers.events.parsing import parse
from workers.handlers import Handlers

__all__ = ["Called", "call"]

_CONCURRENCY, _THREADS = 100, 8  # as a worker's defaults

_started: dict[Handlers, Dispatcher] = {}
"""Registries whose startup functions were called, each with what calls its shutdown functions."""


class Called(NamedTuple):
    """How one event of a notification ended.

    `handlers` are the names of those that match it, in the order in which they are called. `outcome` is handled,
    unhandled, discarded, rejected, snoozed or failed; for a part that is no event and would be a dead letter it is
    unreadable, unknown_form or malformed; for a notification of another platform, such as Instagram, foreign; and where
    wa-ingest itself failed at it, fault. `detail` says why, and for an exception also where; `handler` is the one that
    raised it. `retry_in` is what RetryIn or Snooze asked for, in seconds.
    """

    event: Event | Broken
    handlers: tuple[str, ...]
    outcome: str
    detail: str
    handler: str
    retry_in: float | None


def call(
    handlers: Handlers,
    notification: bytes | Mapping[str, Any],
    *,
    timeout: float = 30.0,
    attempt: int = 1,
    headers: Mapping[str, str] | None = None,
) -> list[Called]:
    """Parse a notification and call the handlers of each event, as a worker does on try `attempt`, from 1.

    `notification` is a body of either sender's form, as bytes or parsed. Its events go to bulk handlers together.
    `timeout` is in seconds for one call of a handler; `headers` are those of the request that were kept
    (`event.headers`). The order of what is returned is that of the body. An exception of a handler is an outcome, as in
    a worker. Plain handlers are called in threads, async ones on one loop, the same for all calls of this process
    (`WA_LOOP` says of which kind): a client that was opened in one call works in the next. A registry's `startup`
    functions are called before its first event, its `shutdown` functions when the process ends. What a worker learns
    from Redis is missing: copies are handled again, no status is superseded, only system messages bring news of a
    profile, and handlers' rate and concurrency have no effect. It cannot be called inside a running event loop.
    """
    body = notification if isinstance(notification, bytes) else orjson.dumps(notification)
    kept = write_headers({name.lower(): value for name, value in (headers or {}).items()})
    items = parse(body, time.time_ns() // 1_000_000, attempt, headers=kept)
    account = _Account()
    dispatcher = Dispatcher(handlers, _CONCURRENCY, _THREADS, timeout, loop=_loop())
    try:
        if handlers.startups and handlers not in _started:
            dispatcher.start()
            _started[handlers] = dispatcher
        dispatcher.run(((n, item) for n, item in enumerate(items) if isinstance(item, Event)), account)
    finally:
        dispatcher.close()
    return [
        Called(item, (), item.reason, item.detail, "", None)
        if isinstance(item, Broken)
        else _called(handlers, item, account.outcomes[n])
        for n, item in enumerate(items)
    ]


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = new_loop(with_uvloop=load().loop == "uvloop", threads=_CONCURRENCY)
    atexit.register(_end, loop)
    return loop


def _end(loop: asyncio.AbstractEventLoop) -> None:
    for dispatcher in _started.values():
        dispatcher.shut_down()
    close_loop(loop)


def _called(handlers: Handlers, item: Event, outcome: Outcome) -> Called:
    names = tuple(handler.name for handler, _ in handlers.calls(item))
    return Called(item, names, outcome.name, outcome.detail, outcome.handler, outcome.delay)


class _Account:
    """Remembers how each event ended."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}

    def admit(self, event: Event) -> Outcome | None:
        return None

    def put_off(self, event: Event) -> None:
        pass

    def finish(self, index: int, event: Event, outcome: Outcome, now: float) -> None:
        self.outcomes[index] = outcome

    def done_before(self, index: int) -> frozenset[bytes]:
        return frozenset()

    def order(self, event: Event) -> str | None:
        return None
