"""Calls the handlers of a batch's events: one after another, or many async ones at a time.

Events with the same `order_key` (one contact's messages, one message's statuses) never overlap and keep their order.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple, Protocol

from ingest.state import counters
from workers.dispatch.rate_limits import HandlerLimiter, RateLimited, RateLimits, longest_wait
from workers.dispatch.time_limit import HandlerTimeout, TimeLimit
from workers.events import Event
from workers.handlers import Discard, Handler, Handlers, Reject, RetryIn

STOP_SECONDS = 6.0
"""How long running handlers may still take once the worker is told to stop; then they are interrupted."""

_TICK = 0.25
_SLICE = 0.05  # how soon an event sees that it may begin after all


class Outcome(NamedTuple):
    """What became of an event.

    `name`: handled, unhandled, discarded, rejected or failed. `detail` may quote the event: it goes to the dead
    letter, never to a log; `error` and `handler` may be logged. `delay` is what RetryIn asked for, in seconds.
    """

    name: str
    detail: str = ""
    error: str = ""
    handler: str = ""
    delay: float | None = None

    @property
    def happened(self) -> bool:
        """True when nothing is left to do: it was handled or discarded, or no handler matched."""
        return self.name in ("handled", "unhandled", "discarded")


HANDLED = Outcome("handled")
UNHANDLED = Outcome("unhandled")


class Account(Protocol):
    """What a run reports to, and what may hold it up.

    `admit` is called right before an event's handlers; if it returns an outcome, they are not called. `put_off` takes
    `admit` back: the event has to wait for its turn. `finish` gets each event's outcome. `tick` is called often while
    handlers run. While `halted` is True, no event begins. `now` is the time by the monotonic clock, passed on because
    reading that costs more than most steps here.
    """

    def admit(self, event: Event) -> Outcome | None: ...
    def put_off(self) -> None: ...
    def finish(self, index: int, event: Event, outcome: Outcome, now: float) -> None: ...
    def tick(self, now: float) -> None: ...
    def halted(self) -> bool: ...


class Dispatcher:
    """Runs events through handlers.

    `timeout` is in seconds for one event. Once `stopping()` is True, no event begins. Without `rate_limits`, handlers'
    own rate and concurrency have no effect.
    """

    def __init__(
        self,
        handlers: Handlers,
        concurrency: int,
        timeout: float,
        stopping: Callable[[], bool],
        rate_limits: RateLimits | None = None,
    ) -> None:
        self._handlers = handlers
        self._concurrency = concurrency
        self._timeout = timeout
        self._stopping = stopping
        self._rate_limits = rate_limits
        self._time_limit = TimeLimit()
        self._took: defaultdict[str, list[float]] = defaultdict(list)  # seconds, by handler
        self._failures: Counter[str] = Counter()
        self._runner: asyncio.Runner | None = None
        if handlers.any_async:
            import uvloop  # only where it is needed: sync handlers need no loop

            # One loop for the life of the process, so that the handlers' connection pools live on.
            self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def run(self, events: Iterable[tuple[int, Event]], account: Account) -> None:
        """Handle events, given with the number of their record. Returns when every event that began has ended.

        An exception of `account` ends the run; handlers in flight are cancelled.
        """
        if self._runner:
            self._runner.run(self._run_async(events, account))
            return
        for index, event in events:
            outcome = None
            while outcome is None:
                if self._stopping() or account.halted():
                    return
                try:
                    outcome = account.admit(event)
                    outcome, now = (outcome, time.monotonic()) if outcome else self._handle(event)
                except RateLimited as turn:
                    account.put_off()
                    time.sleep(min(turn.seconds, _TICK))
                    account.tick(time.monotonic())
            account.finish(index, event, outcome, now)
            account.tick(now)

    def tally(self) -> dict[str, int]:
        """Handlers' times and failures since the last call, as fields of `ingest.state.counters`."""
        fields = {f"{counters.HANDLER}|{name}|failed": count for name, count in self._failures.items()}
        for name, seconds in self._took.items():
            fields |= counters.observed(counters.HANDLER, name, seconds)
        self._took.clear()
        self._failures.clear()
        return fields

    def stop_soon(self) -> None:
        """The worker was told to stop: give a running sync handler STOP_SECONDS, no more."""
        self._time_limit.shorten(STOP_SECONDS)

    def close(self) -> None:
        if self._runner:
            self._runner.close()

    def _handle(self, event: Event) -> tuple[Outcome | None, float]:
        """The outcome and its time. Raises RateLimited.

        None: the handler was interrupted because the worker stops, and the event counts as not begun.
        """
        calls = self._handlers.calls(event)
        if not calls:
            return UNHANDLED, time.monotonic()
        limiters = self._rate_limits.begin(calls) if self._handlers.any_throttled and self._rate_limits else ()
        began = time.monotonic()
        handler = calls[0][0]
        try:
            try:
                self._time_limit.begin(began, self._timeout)
                for handler, argument in calls:
                    handler.call(argument)
                    ended = time.monotonic()
                    self._took[handler.name].append(ended - began)
                    began = ended
            finally:
                self._time_limit.end()
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # a handler does not end the worker
            self._time_limit.end()  # the alarm may have come inside the `end` above
            if self._time_limit.broken_off and self._stopping():
                return None, began
            return self._outcome(error, handler, began)
        finally:
            for limiter in limiters:
                limiter.end()
        return HANDLED, began

    async def _handle_async(self, event: Event) -> tuple[Outcome, float]:
        """Raises RateLimited, before it waits for anything."""
        calls = self._handlers.calls(event)
        if not calls:
            return UNHANDLED, time.monotonic()
        limiters = self._rate_limits.begin(calls) if self._handlers.any_throttled and self._rate_limits else ()
        began = time.monotonic()
        handler = calls[0][0]
        try:
            async with asyncio.timeout(self._timeout):
                for handler, argument in calls:
                    if handler.is_async:
                        await handler.call(argument)
                    else:
                        try:
                            self._time_limit.begin(began, self._timeout)
                            handler.call(argument)
                        finally:
                            self._time_limit.end()
                    ended = time.monotonic()
                    self._took[handler.name].append(ended - began)
                    began = ended
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            self._time_limit.end()
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the run cancels it, not the handler
            return self._outcome(error, handler, began)
        finally:
            for limiter in limiters:
                limiter.end()
        return HANDLED, began

    def _outcome(self, error: BaseException, handler: Handler, began: float) -> tuple[Outcome, float]:
        now = time.monotonic()
        self._took[handler.name].append(now - began)
        outcome = _outcome(error, handler, self._timeout)
        if outcome.name == "failed" and outcome.delay is None:  # RetryIn is the handler's decision, not a breakdown
            self._failures[handler.name] += 1
        return outcome, now

    async def _run_async(self, events: Iterable[tuple[int, Event]], account: Account) -> None:
        groups = _Groups(events)
        in_flight = 0

        async def work() -> None:
            nonlocal in_flight
            while True:
                group = groups.next()
                if group is None:
                    if self._stopping() or not groups.waits or (account.halted() and not in_flight):
                        return
                    await asyncio.sleep(min(groups.waits, _TICK))
                    continue
                for index, event in group:
                    while account.halted():
                        if self._stopping() or not in_flight:
                            return
                        await asyncio.sleep(_SLICE)  # the batch waits for what is in flight anyway
                    if self._stopping():
                        return
                    try:
                        outcome = account.admit(event)
                        if outcome is None:
                            in_flight += 1
                            try:
                                outcome, now = await self._handle_async(event)
                            finally:
                                in_flight -= 1
                        else:
                            now = time.monotonic()
                    except RateLimited as turn:
                        account.put_off()
                        groups.put_back(turn.limiters, chain([(index, event)], group))
                        break
                    account.finish(index, event, outcome, now)
                    account.tick(now)

        tasks = {asyncio.create_task(work()) for _ in range(self._concurrency)}
        deadline: float | None = None
        loop = asyncio.get_running_loop()
        try:
            while tasks:
                done, tasks = await asyncio.wait(tasks, timeout=_TICK, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
                account.tick(time.monotonic())
                if self._stopping():
                    deadline = deadline or loop.time() + STOP_SECONDS
                    if loop.time() > deadline:
                        return  # what is still in flight counts as not begun
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _by_order_key(events: Iterable[tuple[int, Event]]) -> list[list[tuple[int, Event]]]:
    """Groups that may run side by side, in order of their first event."""
    groups: list[list[tuple[int, Event]]] = []
    by_key: dict[tuple[str, str], list[tuple[int, Event]]] = {}
    for item in events:
        key = item[1].order_key
        group = by_key.get((item[1].kind, key)) if key is not None else None
        if group is None:
            group = []
            groups.append(group)
            if key is not None:
                by_key[item[1].kind, key] = group
        group.append(item)
    return groups


class _Groups:
    """Groups that may run side by side: first those whose turn has come, then others in order of their first event."""

    def __init__(self, events: Iterable[tuple[int, Event]]) -> None:
        self._fresh = iter(_by_order_key(events))
        self._waiting: dict[tuple[HandlerLimiter, ...], deque[Iterator[tuple[int, Event]]]] = {}
        self.waits = 0.0
        """Set when `next` returns None: seconds until a waiting group may go on; 0: no group waits."""

    def next(self) -> Iterator[tuple[int, Event]] | None:
        """The next group to go on with. Groups that wait for the same limiters keep their order."""
        self.waits = 0.0
        for limiters, waiting in self._waiting.items():
            if waiting:
                seconds = longest_wait(limiters)
                if not seconds:
                    return waiting.popleft()
                self.waits = min(self.waits or seconds, seconds)
        group = next(self._fresh, None)
        return None if group is None else iter(group)

    def put_back(self, limiters: tuple[HandlerLimiter, ...], group: Iterator[tuple[int, Event]]) -> None:
        """Keep a group whose first event has to wait for one of these limiters."""
        self._waiting.setdefault(limiters, deque()).append(group)


def _outcome(error: BaseException, handler: Handler, timeout: float) -> Outcome:
    if isinstance(error, Discard):
        return Outcome("discarded")
    if isinstance(error, Reject):
        return Outcome("rejected", str(error), handler=handler.name)
    if isinstance(error, RetryIn):
        return Outcome("failed", f"asked for a retry in {error.seconds:g} s", "RetryIn", handler.name, error.seconds)
    if isinstance(error, TimeoutError) and not str(error):
        error = HandlerTimeout(f"not done after {timeout:g} s")
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    detail = f"{type(error).__name__}: {error} ({where})"
    return Outcome("failed", detail, f"{type(error).__name__} at {where}", handler.name)
