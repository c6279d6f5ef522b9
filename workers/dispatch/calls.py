"""Calling the handlers of events that begin: async ones as tasks on the loop, plain ones in threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextvars import Context, copy_context
from typing import Any, TypeVar

from workers.dispatch import failures
from workers.dispatch.loop_watch import LoopWatch
from workers.dispatch.outcomes import Ended, HandlerTimeout, decided
from workers.dispatch.rate_limits import HandlerLimiter
from workers.dispatch.ready import Item, Ready
from workers.dispatch.threads import Failure, Job, Threads
from workers.dispatch.time_limit import TimeLimit
from workers.events import Event
from workers.handler import Handler

_AHEAD_SECONDS = 0.005
"""Threads have this much work at hand beside what they do: to give it out one by one would cost more than quick calls.
"""

_MOST_AHEAD = 200
_INTERRUPT_SECONDS = 0.05
_PACE = 0.05  # how much the newest duration counts in the average


Result = TypeVar("Result")


class Room:
    """Slots of one sort, and the events that wait for one."""

    __slots__ = ("free", "ready")

    def __init__(self, free: int, ready: Ready) -> None:
        self.free = free
        self.ready = ready


class Begun(Job):
    """What begins, in one slot: calls for an event or a list of events, of this lane.

    `handler` is the async one that is called now, since `began` by the monotonic clock.
    """

    __slots__ = ("began", "handler", "lane")

    def __init__(
        self, lane: str, calls: list[tuple[Handler, Any]], context: Context, failures: Sequence[Failure] = ()
    ) -> None:
        super().__init__(calls, context, failures)
        self.lane = lane
        self.handler: Handler | None = None
        self.began = 0.0


class BegunEvent(Begun):
    """An event that begins. `put_off` are handlers of it that have to wait, `limiters` learn when it has ended."""

    __slots__ = ("item", "limiters", "put_off")

    def __init__(
        self,
        item: Item,
        calls: list[tuple[Handler, Event]],
        context: Context,
        put_off: list[Ended],
        limiters: tuple[HandlerLimiter, ...],
    ) -> None:
        # Nearly all that begins is one of these: without the calls of three constructors.
        self.calls = calls
        self.context = context
        self.failures = ()
        self.ended = []
        self.lane = item.source.lane
        self.handler = None
        self.began = 0.0
        self.item = item
        self.put_off = put_off
        self.limiters = limiters


class _Part(Job):
    """A plain handler of an event that has async ones, too. What it raises goes on in that event's task."""

    __slots__ = ("done",)
    tells_failures = False

    def __init__(self, handler: Handler, argument: Any, done: asyncio.Future[Ended]) -> None:
        super().__init__([(handler, argument)], copy_context())
        self.done = done


class Calls:
    """Of one process, with slots for async handlers and for `threads`; a call may take `timeout` seconds.

    `on_errors` are called when a handler has failed, in the slot of its event.

    `ended` is called on the loop with what has ended, `interrupted` with what counts as not begun, and then `more`:
    slots are free again. `hung` is called in another thread once an async handler has blocked the loop for
    good, and counts as failed: the loop and its thread do nothing more. With `here`, plain functions are called by the
    thread that calls `run_beside`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        asynchronous: Room,
        threaded: Room,
        timeout: float,
        on_errors: Sequence[Handler],
        ended: Callable[[Begun], None],
        interrupted: Callable[[Begun], None],
        more: Callable[[], object],
        stopping: Callable[[], bool],
        hung: Callable[[], None] | None,
        here: bool,
    ) -> None:
        self._loop = loop
        self._async = asynchronous
        self._threaded = threaded
        self._timeout = timeout
        self._on_errors = on_errors
        self._ended = ended
        self._interrupted = interrupted
        self._more = more
        self._thread_count, self._ahead, self._pace = threaded.free, 0, 0.0
        self._threads = Threads(
            self._thread_count, timeout, self._thread_ended, self._wait_in_thread, stopping, on_errors, here
        )
        self._from_threads: deque[Job] = deque()
        self._context = copy_context()  # of nobody's event
        self._told = self._interrupts = self._is_over = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._running: dict[asyncio.Task[Any], Begun] = {}
        self._watch = LoopWatch(loop, timeout, self._name_of, None if hung is None else self._hangs)
        self._hung = hung

    @property
    def hangs(self) -> bool:
        """True when as many threads hang for good as there should be, or the loop does."""
        return self._is_over or self._threads.abandoned >= self._thread_count

    def new_context(self) -> Context:
        """A context for one event."""
        return self._context.copy()

    def begin(self, begun: Begun, room: Room) -> None:
        """Call the handlers, in a slot of this sort."""
        room.free -= 1
        if room is self._threaded:
            self._threads.put(begun)
        else:
            self._tasks.add(self._loop.create_task(self._call(begun), context=begun.context))
            self._watch.busy(True)

    def run_beside(
        self, coroutine: Coroutine[Any, Any, Result], meanwhile: Callable[[], Coroutine[Any, Any, None]]
    ) -> Result:
        """Run a coroutine with the loop in a thread of its own, while this one calls the handlers.

        When it has ended, `meanwhile` is run again and again until this thread has come back from its handler.
        """
        ended: Future[Result] = Future()

        async def both() -> Result:
            try:
                return await coroutine
            finally:
                self._threads.leave_here()
                while self._threads.works_here:
                    await meanwhile()

        def run() -> None:
            try:
                ended.set_result(self._loop.run_until_complete(both()))
            except BaseException as error:
                ended.set_exception(error)
                self._threads.leave_here()

        self._threads.enter_here()
        thread = threading.Thread(target=run, name="loop", daemon=True)
        thread.start()
        self._threads.work_here()
        self._loop.call_soon_threadsafe(self._more)
        thread.join()
        return ended.result()

    def watch(self) -> None:
        """To be called at least every quarter of a second: looks for calls that are over their time."""
        self._watch.busy(bool(self._tasks))
        self._threads.watch(time.monotonic())

    def now(self) -> Iterator[tuple[Begun, Handler, float]]:
        """What is called now: the handler, for what, and since when by the monotonic clock. Any thread may ask."""
        for job, handler, began in self._threads.calls():
            if isinstance(job, Begun):
                yield job, handler, began
        for begun in list(self._running.values()):
            if begun.handler is not None:
                yield begun, begun.handler, begun.began

    def full(self, handler: Handler) -> str:
        """What calls of this handler leave nothing of now, see `ingest.state.in_work`. Any thread may ask."""
        if self._watch.blocked_by == handler.name:
            return "it blocks the event loop, nothing else goes on"
        if handler.needs_loop:
            return "no async slot is free" if self._async.free <= 0 else ""
        return "no thread is free" if sum(1 for _ in self._threads.calls()) >= self._thread_count else ""

    def end_by(self, deadline: float) -> None:
        """At this time by the monotonic clock, an async handler that blocks the loop is interrupted, too."""
        self._watch.deadline = deadline

    async def interrupt(self) -> None:
        """Interrupt what has not ended: it counts as not begun, if it ends at all."""
        self._interrupts = True
        for task in list(self._tasks):
            task.cancel()
        self._threads.interrupt_all()
        await asyncio.sleep(_INTERRUPT_SECONDS)

    def close(self) -> None:
        """End the threads."""
        self._threads.close()
        self._watch.close()

    # On the loop

    async def _call(self, begun: Begun) -> None:
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        tell = self._ended
        self._running[task] = begun
        try:
            for handler, argument in begun.calls:
                begun.handler, begun.began = handler, time.monotonic()
                ended = await self._call_one(handler, argument, task)
                begun.ended.append(ended)
                if ended.broke and self._on_errors and begun.tells_failures:
                    await self._failed(argument, ended, task)
            for argument, ended in begun.failures:
                await self._failed(argument, ended, task)
        except asyncio.CancelledError:  # the worker stops
            tell = self._interrupted
        finally:
            self._tasks.discard(task)
            self._running.pop(task, None)
        # In the loop's own context: this task's is in use.
        self._loop.call_soon(self._task_ended, tell, begun, context=self._context)

    def _task_ended(self, tell: Callable[[Begun], None], begun: Begun) -> None:
        self._async.free += 1
        tell(begun)
        self._more()

    async def _failed(self, argument: Event, ended: Ended, task: asyncio.Task[Any]) -> None:
        for hook in self._on_errors:
            self._running[task].handler = hook
            failures.note(await self._call_one(hook, failures.told(argument, ended), task))

    async def _call_one(self, handler: Handler, argument: Any, task: asyncio.Task[Any]) -> Ended:
        began, error = time.monotonic(), None
        timer = TimeLimit(self._loop, self._timeout, self._watch)
        try:
            async with asyncio.timeout(None) as limit:
                timer.start(limit)
                if handler.arounds:
                    async with handler.entered(argument):
                        await self._call_inside(handler, argument)
                else:
                    await self._call_inside(handler, argument)
        except BaseException as raised:  # a handler does not end the worker
            if isinstance(raised, asyncio.CancelledError) and (self._interrupts or self._watch.is_over):
                raise
            task.uncancel()  # by itself, if at all
            error = raised
            if limit.expired() and not decided(raised):
                # What asyncio makes of it comes from its own line; its cause, from the one at which the handler waited.
                trace = (raised.__cause__ or raised).__traceback__
                error = HandlerTimeout(f"not done after {self._timeout:g} s").with_traceback(trace)
        finally:
            timer.cancel()
        return Ended(handler, time.monotonic() - began, error)

    async def _call_inside(self, handler: Handler, argument: Any) -> None:
        if handler.is_async:
            await handler.call(argument)
        else:
            await self._in_thread(handler, argument)

    def _name_of(self, task: asyncio.Task[Any]) -> str | None:
        begun = self._running.get(task)
        return None if begun is None or begun.handler is None else begun.handler.name

    def _hangs(self, task: asyncio.Task[Any]) -> None:
        """A thread calls this while the loop stands still for good."""
        begun = self._running[task]
        if begun.handler is None or self._hung is None:
            return
        self._is_over = True
        if self._watch.is_over:
            self._interrupted(begun)
        else:
            seconds = time.monotonic() - begun.began
            error = HandlerTimeout(f"blocked the event loop for {seconds:.1f} s, and could not be interrupted")
            begun.ended.append(Ended(begun.handler, seconds, error))
            self._ended(begun)
        self._hung()

    # In threads

    async def _in_thread(self, handler: Handler, argument: Any) -> None:
        done: asyncio.Future[Ended] = self._loop.create_future()
        self._threads.put(_Part(handler, argument, done))
        ended = await asyncio.shield(done)
        if ended.error is not None:
            raise ended.error

    def _thread_ended(self, job: Job) -> None:
        """A thread calls this, or `watch`."""
        self._from_threads.append(job)
        if not self._told and not self._loop.is_closed():
            self._told = True
            self._loop.call_soon_threadsafe(self._collect)

    def _wait_in_thread(self, awaitable: Any) -> None:
        """A plain function returned something to be awaited, as a decorator around an `async def` does."""

        async def wait() -> None:
            await asyncio.wait_for(awaitable, self._timeout)

        asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

    def _collect(self) -> None:
        self._told = False
        while self._from_threads:
            job = self._from_threads.popleft()
            if isinstance(job, Begun):
                self._thread_call_ended(job)
            elif isinstance(job, _Part) and job.ended and not job.done.done():
                job.done.set_result(job.ended[0])
        ahead = min(_MOST_AHEAD, int(self._thread_count * _AHEAD_SECONDS / max(self._pace, 1e-6)))
        self._threaded.free += ahead - self._ahead
        self._ahead = ahead
        self._more()

    def _thread_call_ended(self, begun: Begun) -> None:
        if self._interrupts or (begun.calls and not begun.ended):
            self._interrupted(begun)
            return
        seconds = begun.ended[0].seconds if len(begun.ended) == 1 else sum(call.seconds for call in begun.ended)
        self._pace += _PACE * (seconds - self._pace) if self._pace else seconds
        self._threaded.free += 1
        self._ended(begun)
