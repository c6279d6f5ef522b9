"""Calls the handlers of events: async ones on the loop, plain ones in threads, each as soon as there is a slot.

Events with the same `order_key` (one contact's messages, one message's statuses) never overlap and keep their order.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import Any

import structlog

from ingest.state import counters
from ingest.store.queues import LANES
from workers.dispatch import outcomes
from workers.dispatch.breakdowns import Breakdown, Breakdowns
from workers.dispatch.loop_watch import LoopWatch
from workers.dispatch.outcomes import UNHANDLED, Ended, HandlerTimeout, Outcome
from workers.dispatch.rate_limits import HandlerLimiter, RateLimited, RateLimits, longest_wait
from workers.dispatch.ready import Account, Item, Ready, Shares, Source
from workers.dispatch.threads import Job, Threads
from workers.events import Event
from workers.handlers import Handler, Handlers

log = structlog.get_logger()

_AHEAD_SECONDS = 0.005
"""Threads have this much work at hand beside what they do: to give it out one by one would cost more than quick calls.
"""

_MOST_AHEAD = 200
_NO_SLOT = 1 << 62  # events that no handler matches need none
_INTERRUPT_SECONDS = 0.05
_PACE = 0.05  # how much the newest duration counts in the average


class _Room:
    """Slots of one sort, and the events that wait for one."""

    __slots__ = ("free", "ready")

    def __init__(self, free: int, ready: Ready) -> None:
        self.free = free
        self.ready = ready


class Dispatcher:
    """Runs events through handlers, for one process. Everything but the handlers in threads happens on its loop.

    `timeout` is in seconds for one call of a handler. Without `rate_limits`, handlers' own rate and concurrency have no
    effect; without `tell`, a handler that always fails is called all the same. `changed` is called when events have
    ended. With a `loop`, that one is used, and not closed. Once `stopping()`, no event begins; nor does one while
    `may_begin()` is False, or of a lane that is `closed`.
    """

    def __init__(
        self,
        handlers: Handlers,
        concurrency: int,
        threads: int,
        timeout: float,
        *,
        rate_limits: RateLimits | None = None,
        tell: Callable[[Breakdown | str], None] | None = None,
        changed: Callable[[], None] = lambda: None,
        stopping: Callable[[], bool] = lambda: False,
        may_begin: Callable[[], bool] = lambda: True,
        full_errors: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._handlers = handlers
        self._timeout = timeout
        self._rate_limits = rate_limits
        self._changed = changed
        self._stopping = stopping
        self._may_begin = may_begin
        self._full_errors = full_errors
        self.breakdowns = Breakdowns(tell) if tell else None
        self.closed: set[str] = set()
        self.held = False
        """While True, no event begins."""
        self.loop = loop or new_loop(handlers.any_async)
        self._owns_loop = loop is None
        self._shares = Shares()
        self._no_slot, self._async, self._thread = self._rooms = [
            _Room(free, Ready(self._shares)) for free in (_NO_SLOT, concurrency, threads)
        ]
        self._threads = Threads(threads, timeout, self._thread_ended, self._wait_in_thread, stopping)
        self._thread_count, self._ahead, self._pace = threads, 0, 0.0
        self._from_threads: deque[Job] = deque()
        self._started = False
        self._context = copy_context()  # of nobody's event
        self._told = self._interrupts = False
        self._behind: dict[tuple[str, str], deque[Item]] = {}
        self._parked: dict[tuple[HandlerLimiter, ...], deque[Item]] = {}
        self._tasks: dict[asyncio.Task[Any], Item] = {}
        self._running: dict[asyncio.Task[Any], str] = {}
        self._watch = LoopWatch(timeout, self._running.get)
        self._took: defaultdict[str, list[float]] = defaultdict(list)  # seconds, by handler
        self._failures: Counter[str] = Counter()
        self._spent: defaultdict[str, float] = defaultdict(float)
        self.in_flight = 0
        self.ended: Counter[str] = Counter()
        """How many events ended, by lane; it only rises."""
        self.crash: BaseException | None = None
        """What went wrong beside the handlers, if something did."""

    def add(self, events: Iterable[tuple[int, Event]], account: Account, source: Source) -> None:
        """Have events handled, given with the number of their record, in this order for each order key."""
        for index, event in events:
            item = Item(index, event, account, source)
            source.waiting += 1
            if item.key is not None:
                behind = self._behind.get(item.key)
                if behind is not None:
                    behind.append(item)
                    continue
                self._behind[item.key] = deque()
            self._make_ready(item)

    def reopen(self, source: Source) -> None:
        """What a source held may begin again."""
        source.open = True
        held, source.held = source.held, []
        for item in held:
            self._make_ready(item)

    def begin(self) -> float | None:
        """Begin what can begin. Returns the seconds until something that waits for its turn may, if anything does."""
        if self._stopping() or self.held or not self._may_begin():
            return None
        try:
            wait = self._begin_parked()
            for room in self._rooms:
                while room.free > 0 and (item := room.ready.next(self.closed)) is not None:
                    self._begin(item, room)
        except Exception as error:
            self._fail(error)
            return None
        return wait

    def watch(self) -> None:
        """To be called at least every quarter of a second: looks for calls that are over their time."""
        self._watch.turned(bool(self._tasks))
        self._threads.watch(time.monotonic())

    @property
    def hangs(self) -> bool:
        """True when as many threads hang for good as there should be."""
        return self._threads.abandoned >= self._thread_count

    @property
    def is_full(self) -> bool:
        """True while events wait for a slot."""
        return any(room.free <= 0 and len(room.ready) for room in self._rooms)

    def all_down(self, *kinds: str) -> float | None:
        """Seconds until a handler of these kinds is tried again, when all of them always fail; else None."""
        return self.breakdowns.all_down(self._handlers.of_kinds(*kinds)) if self.breakdowns else None

    def free(self, *kinds: str) -> int:
        """How many events of these kinds could begin now, if none waited."""
        found = self._handlers.of_kinds(*kinds)
        rooms = {self._async if handler.is_async else self._thread for handler in found}
        return max(0, sum(room.free for room in rooms)) if rooms else _NO_SLOT

    def ready(self, lane: str) -> int:
        """How many events of a lane may begin as soon as there is a slot."""
        return sum(room.ready.count(lane) for room in self._rooms)

    def tally(self) -> dict[str, int]:
        """Handlers' times and failures since the last call, as fields of `ingest.state.counters`."""
        fields = {f"{counters.HANDLER}|{name}|failed": count for name, count in self._failures.items()}
        for name, seconds in self._took.items():
            fields |= counters.observed(counters.HANDLER, name, seconds)
        self._took.clear()
        self._failures.clear()
        return fields

    def spent(self) -> dict[str, int]:
        """Milliseconds of handlers since the last call, by lane."""
        spent = {lane: round(seconds * 1000) for lane, seconds in self._spent.items()}
        self._spent.clear()
        return spent

    def run(self, events: Iterable[tuple[int, Event]], account: Account) -> None:
        """Handle these events and return when all have ended."""
        source = Source(LANES[0])
        self.add(events, account, source)
        self.loop.run_until_complete(self._until_done(source))

    async def _until_done(self, source: Source) -> None:
        while source.waiting or source.in_flight:
            wait = self.begin()
            self.watch()
            if self.crash is not None:
                raise self.crash
            if self._stopping() and not source.in_flight:
                return
            await asyncio.sleep(min(0.01 if wait is None else wait, 0.01))

    async def interrupt(self) -> None:
        """Interrupt what has not ended: it counts as not begun, if it ends at all."""
        for task in list(self._tasks):
            task.cancel()
        if self.in_flight:
            self._interrupts = True
            self._threads.interrupt_all()
            await asyncio.sleep(_INTERRUPT_SECONDS)

    def start(self) -> None:
        """Call the user's `startup` functions. Raises what one of them raises."""
        for function in self._handlers.startups:
            self.loop.run_until_complete(_await(function))
        self._started = True

    def shut_down(self) -> None:
        """Call the user's `shutdown` functions; what one of them raises is logged."""
        for function in self._handlers.shutdowns if self._started else ():
            try:
                self.loop.run_until_complete(_await(function))
            except Exception as error:
                log.error("shutdown failed", error=f"{type(error).__name__} at {outcomes.place(error)}")
        self._started = False

    def close(self) -> None:
        """End the threads and the loop."""
        self._threads.close()
        self._watch.turned(busy=False)
        if self._owns_loop:
            close_loop(self.loop)

    def _make_ready(self, item: Item) -> None:
        needs = self._handlers.needs(item.event)
        item.room = self._no_slot if needs is None else self._async if needs else self._thread
        item.room.ready.add(item)

    def _begin_parked(self) -> float | None:
        """Begin what waited for its turn. Returns the seconds until more of it may begin."""
        waits: list[float] = []
        for limiters, parked in self._parked.items():
            while parked:
                seconds = longest_wait(limiters)
                if seconds or parked[0].room.free <= 0 or parked[0].source.lane in self.closed:
                    waits.append(seconds or _AHEAD_SECONDS)
                    break
                item = parked.popleft()
                self._begin(item, item.room)
        return min(waits, default=None)

    def _begin(self, item: Item, room: _Room) -> None:
        source = item.source
        if source.gone:
            self._next_of(item)
            return
        if not source.open:
            source.held.append(item)
            return
        context = item.context = self._context.copy()
        outcome = context.run(item.account.admit, item.event)
        if outcome is not None:
            self._begun(item)
            self._finish(item, outcome, time.monotonic())
            return
        calls, put_off = self._calls(item)
        try:
            limiters = self._rate_limits.begin(calls) if self._rate_limits and self._handlers.any_throttled else ()
        except RateLimited as turn:
            context.run(item.account.put_off)
            for handler, _ in calls:
                self._not_called(handler)
            self._parked.setdefault(turn.limiters, deque()).append(item)
            return
        self._begun(item)
        if not calls:
            self._finish(item, self._outcome(item, put_off) if put_off else UNHANDLED, time.monotonic())
            return
        room.free -= 1
        if room is self._thread:
            self._threads.put(Job(calls, context, (item, limiters, put_off)))
        else:
            task = self.loop.create_task(self._call(item, calls, limiters, put_off), context=context)
            self._tasks[task] = item
            self._watch.turned(busy=True)  # it may block before anybody else has a turn

    def _calls(self, item: Item) -> tuple[list[tuple[Handler, Event]], list[Ended]]:
        """The handlers to call, and those that have to wait because they always fail."""
        calls = self._handlers.calls(item.event)
        if before := item.account.done_before(item.index):
            calls = [call for call in calls if call[0].digest not in before]
        if self.breakdowns is None:
            return calls, []
        put_off = []
        for call in calls:
            if seconds := self.breakdowns.wait(call[0]):
                put_off.append(Ended(call[0], waits=seconds))
        if put_off:
            waiting = {call.handler for call in put_off}
            calls = [call for call in calls if call[0] not in waiting]
        return calls, put_off

    def _not_called(self, handler: Handler) -> None:
        if self.breakdowns is not None:
            self.breakdowns.not_called(handler)

    async def _call(
        self, item: Item, calls: list[tuple[Handler, Event]], limiters: tuple[HandlerLimiter, ...], ended: list[Ended]
    ) -> None:
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        try:
            for handler, argument in calls:
                self._running[task] = handler.name
                ended.append(await self._call_one(handler, argument, task))
        except asyncio.CancelledError:  # the worker stops
            ended.clear()
        finally:
            self._tasks.pop(task, None)
            self._running.pop(task, None)
        # In the loop's own context: this task's is in use.
        self.loop.call_soon(self._task_ended, item, ended, limiters, context=self._context)

    def _task_ended(self, item: Item, ended: list[Ended], limiters: tuple[HandlerLimiter, ...]) -> None:
        self._async.free += 1
        if ended:
            self._ended(item, ended, limiters)
        else:
            self._end_limiters(limiters)
            self._not_begun(item)
        self.begin()

    async def _call_one(self, handler: Handler, argument: Event, task: asyncio.Task[Any]) -> Ended:
        began, error = time.monotonic(), None
        try:
            async with asyncio.timeout(self._timeout) as limit:
                if handler.is_async:
                    await handler.call(argument)
                else:
                    await self._in_thread(handler, argument)
        except BaseException as raised:  # a handler does not end the worker
            if isinstance(raised, asyncio.CancelledError) and task.cancelling():
                raise
            error = raised
            if isinstance(raised, TimeoutError) and limit.expired():
                error = HandlerTimeout(f"not done after {self._timeout:g} s").with_traceback(raised.__traceback__)
        return Ended(handler, time.monotonic() - began, error)

    async def _in_thread(self, handler: Handler, argument: Event) -> None:
        """Call a plain handler of an event that has async ones, too."""
        done: asyncio.Future[Ended] = self.loop.create_future()
        self._threads.put(Job([(handler, argument)], copy_context(), done))
        ended = await asyncio.shield(done)
        if ended.error is not None:
            raise ended.error

    def _thread_ended(self, job: Job) -> None:
        """A thread calls this, or `watch`."""
        self._from_threads.append(job)
        if not self._told and not self.loop.is_closed():
            self._told = True
            self.loop.call_soon_threadsafe(self._collect)

    def _wait_in_thread(self, awaitable: Any) -> None:
        """A plain function returned something to be awaited, as a decorator around an `async def` does."""

        async def wait() -> None:
            await asyncio.wait_for(awaitable, self._timeout)

        asyncio.run_coroutine_threadsafe(wait(), self.loop).result()

    def _collect(self) -> None:
        self._told = False
        while self._from_threads:
            job = self._from_threads.popleft()
            if isinstance(job.note, asyncio.Future):
                if not job.note.done() and job.ended:
                    job.note.set_result(job.ended[0])
                continue
            item, limiters, put_off = job.note
            if job.hangs:
                item.context = job.context.copy()
            if self._interrupts or not job.ended:
                self._not_begun(item)
                continue
            seconds = sum(call.seconds for call in job.ended)
            self._pace += _PACE * (seconds - self._pace) if self._pace else seconds
            self._thread.free += 1
            self._ended(item, [*job.ended, *put_off], limiters)
        ahead = min(_MOST_AHEAD, int(self._thread_count * _AHEAD_SECONDS / max(self._pace, 1e-6)))
        self._thread.free += ahead - self._ahead
        self._ahead = ahead
        self.begin()

    def _ended(self, item: Item, ended: list[Ended], limiters: tuple[HandlerLimiter, ...]) -> None:
        self._end_limiters(limiters)
        now = time.monotonic()
        lane = item.source.lane
        for number, call in enumerate(ended):
            if call.waits is not None:
                continue
            self._took[call.handler.name].append(call.seconds)
            self._spent[lane] += call.seconds
            self._shares.add(lane, call.seconds)
            self._failures[call.handler.name] += call.broke
            if self.breakdowns is not None and self.breakdowns.note(call, item.event.attempt == 1):
                ended[number] = Ended(call.handler, waits=self.breakdowns.wait(call.handler) or 1.0)
        self._finish(item, self._outcome(item, ended), now)

    def _outcome(self, item: Item, ended: list[Ended]) -> Outcome:
        return outcomes.of_event(ended, item.account.done_before(item.index), self._full_errors)

    def _finish(self, item: Item, outcome: Outcome, now: float) -> None:
        self.in_flight -= 1
        item.source.in_flight -= 1
        self.ended[item.source.lane] += 1
        try:
            item.context.run(item.account.finish, item.index, item.event, outcome, now)
        except Exception as error:
            self._fail(error)
        self._next_of(item)
        self._changed()

    def _begun(self, item: Item) -> None:
        self.in_flight += 1
        item.source.in_flight += 1
        item.source.waiting -= 1

    def _not_begun(self, item: Item) -> None:
        self.in_flight -= 1
        item.source.in_flight -= 1
        item.context.run(item.account.put_off)
        self._changed()

    def _next_of(self, item: Item) -> None:
        """The next event of this order key may begin."""
        if item.key is None:
            return
        behind = self._behind[item.key]
        if behind:
            self._make_ready(behind.popleft())
        else:
            del self._behind[item.key]

    def _end_limiters(self, limiters: tuple[HandlerLimiter, ...]) -> None:
        for limiter in limiters:
            limiter.end()

    def _fail(self, error: BaseException) -> None:
        self.crash = self.crash or error
        self._changed()


async def _await(function: Callable[[], object]) -> None:
    result = function()
    if inspect.isawaitable(result):
        await result


def new_loop(any_async: bool) -> asyncio.AbstractEventLoop:
    """The loop on which handlers run."""
    if not any_async:
        return asyncio.new_event_loop()
    import uvloop  # only where it is needed: without async handlers the loop has little to do

    return uvloop.new_event_loop()


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop in order, as `asyncio.Runner` does."""
    if loop.is_closed():
        return
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
