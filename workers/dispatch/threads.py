"""Threads in which plain functions are called, and what happens to one that does not return."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any

from ingest.loggers import get_logger
from workers.dispatch import failures
from workers.dispatch.outcomes import GRACE_SECONDS, Ended, HandlerTimeout, decided
from workers.events import Event
from workers.handler import Handler
from workers.places import stack_of, trace_of

log = get_logger(__name__)

_AGAIN = 1.0  # seconds; a handler that swallows the time-out gets it again


Failure = tuple[Event, Ended]
"""An event, and the call that failed."""


class Job:
    """Calls of plain functions, one after another, in one slot. `ended` is how those ended that were begun.

    `failures`, of calls before, are told after that.
    """

    __slots__ = ("calls", "context", "ended", "failures")
    tells_failures = True

    def __init__(self, calls: list[tuple[Handler, Any]], context: Context, failures: Sequence[Failure] = ()) -> None:
        self.calls = calls
        self.context = context
        self.failures = failures
        self.ended: list[Ended] = []


class _Place:
    """One thread, and the call that it is in."""

    def __init__(self, thread: threading.Thread, timeout: float, on_errors: Sequence[Handler]) -> None:
        self._timeout = timeout
        self.on_errors = on_errors
        self.lock = threading.Lock()
        self.job: Job | None = None
        self.handler: Handler | None = None
        self.argument: Any = None
        self.began = 0.0
        self.interrupted_at: float | None = None
        self.abandoned = False
        self.thread = thread

    def call(self, job: Job, wait: Callable[[Any], None]) -> None:
        """Call the handlers of a job, one after another."""
        for handler, argument in job.calls:
            ended = self._call(handler, argument, wait)
            if self.abandoned:
                return
            job.ended.append(ended)
            if self.on_errors and job.tells_failures and ended.broke:
                self._tell(argument, ended, wait)
        for argument, ended in job.failures:
            self._tell(argument, ended, wait)

    def _tell(self, argument: Event, ended: Ended, wait: Callable[[Any], None]) -> None:
        """Call the hooks for a failed call."""
        for hook in self.on_errors:
            failures.note(self._call(hook, failures.told(argument, ended), wait))

    def _call(self, handler: Handler, argument: Any, wait: Callable[[Any], None]) -> Ended:
        """Call a handler. What `watch` raises in this thread is raised inside it, or not at all."""
        began, error = time.monotonic(), None
        try:
            with self.lock:
                self.handler, self.argument, self.began = handler, argument, began
            result = handler.call(argument)
            if result is not None and hasattr(result, "__await__"):
                wait(result)
        except BaseException as raised:
            error = raised
        while True:
            try:
                if self._leave() and error is not None and not decided(error):
                    # Also what a library made of it; and what is raised in a thread has no text.
                    late = HandlerTimeout(f"not done after {self._timeout:g} s")
                    error = late.with_traceback(error.__traceback__)
                return Ended(handler, time.monotonic() - began, error)
            except HandlerTimeout as raised:
                error = raised

    def _leave(self) -> bool:
        """The call is over. True when it was interrupted."""
        with self.lock:
            self.handler, interrupted_at, self.interrupted_at = None, self.interrupted_at, None
            if interrupted_at is not None:
                _raise_in(self.thread, None)  # it may not have been raised yet
        return interrupted_at is not None

    def interrupt(self, now: float) -> None:
        with self.lock:
            if self.handler is not None:
                self.interrupted_at = now if self.interrupted_at is None else self.interrupted_at
                _raise_in(self.thread, HandlerTimeout)


class Threads:
    """`count` threads, in which a call may take `timeout` seconds.

    `ended` is called in the thread, with each job that has ended.

    With `here`, there is no thread but the one that calls `work_here`.

    `wait` is called in the thread with what a handler returned if that is to be awaited. Once `stopping()`, no job is
    begun: it ends without a call.
    """

    def __init__(
        self,
        count: int,
        timeout: float,
        ended: Callable[[Job], None],
        wait: Callable[[Any], None],
        stopping: Callable[[], bool],
        on_errors: Sequence[Handler] = (),
        here: bool = False,
    ) -> None:
        self._timeout = timeout
        self._here = here
        self._leaves_here = False
        self.works_here = False
        self._on_errors = on_errors
        self._ended = ended
        self._stopping = stopping
        self._wait = wait
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._count = count
        self._places: list[_Place] = []
        self._again_at: dict[_Place, float] = {}
        self.abandoned = 0
        """How many threads were left to themselves."""

    def put(self, job: Job) -> None:
        """Have a job done by the next thread that is free."""
        if len(self._places) < self._count and not self._here:
            self._start()
        self._jobs.put(job)

    def enter_here(self) -> None:
        """This thread calls `work_here` next, also if `leave_here` comes before that."""
        self.works_here, self._leaves_here = True, False

    def work_here(self) -> None:
        """Do jobs in this thread, instead of one of its own, until `leave_here`."""
        if not self._places:
            self._places.append(self._place(threading.current_thread()))
        try:
            while not self._leaves_here:
                if (job := self._jobs.get()) is not None:
                    self._do(job, self._places[0])
        finally:
            self.works_here = False

    def leave_here(self) -> None:
        """Have `work_here` end after the job that it is in: then `works_here` is False."""
        self._leaves_here = True
        self._jobs.put(None)

    def watch(self, now: float) -> None:
        """Interrupt calls that are over their time; leave threads to themselves whose calls do not end even then."""
        for place in list(self._places):
            if place.handler is None or now - place.began < self._timeout:
                continue
            if place.interrupted_at is None or now >= self._again_at.get(place, 0.0):
                place.interrupt(now)
                self._again_at[place] = now + _AGAIN
            if place.interrupted_at is not None and now - place.interrupted_at >= GRACE_SECONDS:
                self._abandon(place)

    def calls(self) -> Iterator[tuple[Job, Handler, float]]:
        """What is called now: the job, the handler, and since when by the monotonic clock. Any thread may ask."""
        for place in list(self._places):
            job, handler = place.job, place.handler
            if job is not None and handler is not None:
                yield job, handler, place.began

    def interrupt_all(self) -> None:
        """Interrupt every call."""
        for place in self._places:
            place.on_errors = ()  # the event counts as not begun
            place.interrupt(time.monotonic())

    def close(self) -> None:
        """End the threads, those that wait at once."""
        for _ in self._places:
            self._jobs.put(None)

    def _start(self) -> None:
        thread = threading.Thread(target=lambda: self._work(place), name="handlers", daemon=True)
        place = self._place(thread)
        self._places.append(place)
        thread.start()

    def _place(self, thread: threading.Thread) -> _Place:
        return _Place(thread, self._timeout, self._on_errors)

    def _work(self, place: _Place) -> None:
        while not place.abandoned and (job := self._jobs.get()) is not None:
            self._do(job, place)

    def _do(self, job: Job, place: _Place) -> None:
        place.job = job
        if not self._stopping():
            job.context.run(place.call, job, self._wait)
            if place.abandoned:
                return
        place.job = None
        self._ended(job)

    def _abandon(self, place: _Place) -> None:
        with place.lock:
            handler, job = place.handler, place.job
            if handler is None or job is None:  # it has just ended
                return
            place.abandoned = True
        frame = sys._current_frames().get(place.thread.ident or 0)
        log.error(
            "handler hangs, its thread is replaced", handler=handler.name, running=stack_of(frame), pid=os.getpid()
        )
        self.abandoned += 1
        self._places.remove(place)
        self._again_at.pop(place, None)
        if not self._here:
            self._start()
        text = f"not done after {self._timeout:g} s, nor could it be interrupted"
        error = HandlerTimeout(text).with_traceback(trace_of(frame))
        job.ended.append(Ended(handler, time.monotonic() - place.began, error))
        self._ended(job)
        if self._on_errors and job.tells_failures and not self._here:
            self.put(Job([], copy_context(), [(place.argument, job.ended[-1])]))


def _raise_in(thread: threading.Thread, error: type[BaseException] | None) -> None:
    """Raise an exception in a thread, before its next line of Python; None takes back what was not raised yet."""
    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, None if error is None else ctypes.py_object(error))
