"""Threads in which plain functions are called, and what happens to one that does not return."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Any

from ingest.loggers import get_logger
from workers.dispatch.outcomes import Ended, HandlerTimeout, stack_of
from workers.events import Event
from workers.handlers import Handler

log = get_logger(__name__)

GRACE_SECONDS = 3.0
"""A call that does not end this long after it was interrupted counts as failed, and its thread is left to itself."""

_AGAIN = 1.0  # seconds; a handler that swallows the time-out gets it again


class Job:
    """Calls of plain functions, one after another, for one event. `ended` is how those ended that were begun."""

    __slots__ = ("calls", "context", "ended")

    def __init__(self, calls: list[tuple[Handler, Event]], context: Context) -> None:
        self.calls = calls
        self.context = context
        self.ended: list[Ended] = []


class _Place:
    """One thread, and the call that it is in."""

    def __init__(self, run: Callable[[_Place], None], name: str, timeout: float) -> None:
        self._timeout = timeout
        self.lock = threading.Lock()
        self.job: Job | None = None
        self.handler: Handler | None = None
        self.began = 0.0
        self.interrupted_at: float | None = None
        self.abandoned = False
        self.thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)

    def call(self, job: Job, wait: Callable[[Any], None]) -> None:
        """Call the handlers of a job, one after another."""
        for handler, argument in job.calls:
            ended = self._call(handler, argument, wait)
            if self.abandoned:
                return
            job.ended.append(ended if ended.error is None else self._told(ended))

    def _call(self, handler: Handler, argument: Event, wait: Callable[[Any], None]) -> Ended:
        """Call a handler. What `watch` raises in this thread is raised inside it, or not at all."""
        began, error = time.monotonic(), None
        try:
            with self.lock:
                self.handler, self.began = handler, began
            result = handler.call(argument)
            if result is not None and hasattr(result, "__await__"):
                wait(result)
        except BaseException as raised:
            error = raised
        while True:
            try:
                return Ended(handler, self._leave() - began, error)
            except HandlerTimeout as late:
                error = late

    def _told(self, ended: Ended) -> Ended:
        """The call, with a text for the time-out: what is raised in a thread has none."""
        if not isinstance(ended.error, HandlerTimeout):
            return ended
        error = HandlerTimeout(f"not done after {self._timeout:g} s").with_traceback(ended.error.__traceback__)
        return ended._replace(error=error)

    def _leave(self) -> float:
        with self.lock:
            self.handler = None
            if self.interrupted_at is not None:
                self.interrupted_at = None
                _raise_in(self.thread, None)  # it may not have been raised yet
        return time.monotonic()

    def interrupt(self, now: float) -> None:
        with self.lock:
            if self.handler is not None:
                self.interrupted_at = now if self.interrupted_at is None else self.interrupted_at
                _raise_in(self.thread, HandlerTimeout)


class Threads:
    """`count` threads, in which a call may take `timeout` seconds.

    `ended` is called in the thread, with each job that has ended.

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
    ) -> None:
        self._timeout = timeout
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
        if len(self._places) < self._count:
            self._start()
        self._jobs.put(job)

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

    def interrupt_all(self) -> None:
        """Interrupt every call."""
        for place in self._places:
            place.interrupt(time.monotonic())

    def close(self) -> None:
        """End the threads, those that wait at once."""
        for _ in self._places:
            self._jobs.put(None)

    def _start(self) -> None:
        place = _Place(self._work, "handlers", self._timeout)
        self._places.append(place)
        place.thread.start()

    def _work(self, place: _Place) -> None:
        while (job := self._jobs.get()) is not None:
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
        stack = stack_of(sys._current_frames().get(place.thread.ident or 0))
        log.error("handler hangs, its thread is replaced", handler=handler.name, running=stack)
        self.abandoned += 1
        self._places.remove(place)
        self._again_at.pop(place, None)
        self._start()
        error = HandlerTimeout(f"not done after {self._timeout:g} s, nor could it be interrupted")
        job.ended.append(Ended(handler, time.monotonic() - place.began, error))
        self._ended(job)


def _raise_in(thread: threading.Thread, error: type[BaseException] | None) -> None:
    """Raise an exception in a thread, before its next line of Python; None takes back what was not raised yet."""
    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, None if error is None else ctypes.py_object(error))
