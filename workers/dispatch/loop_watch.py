"""Notices an async handler that blocks the event loop: names it in the log, and interrupts it when its time is over."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from ingest.loggers import get_logger
from workers.dispatch.outcomes import GRACE_SECONDS, HandlerTimeout
from workers.places import stack_of

log = get_logger(__name__)

BLOCKED_SECONDS = 1.0
"""A loop that does not turn for so long is blocked."""

_LOOK_EVERY = 0.5
_LATE_SECONDS = 0.25  # a loop that turns that late stood still, perhaps since the look before
_SIGNAL = signal.SIGVTALRM
"""It interrupts even a system call of the main thread. Handlers may use SIGALRM themselves."""


class LoopWatch:
    """A thread that looks at a loop while async handlers are in flight.

    `name_of` says whose task is running: the name of its handler, or None when it is no handler's. `hung` is called in
    that thread, once, with a task that goes on blocking the loop after it was interrupted, as a call in C may; whatever
    that task does next waits for ever.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        name_of: Callable[[asyncio.Task[object]], str | None],
        hung: Callable[[asyncio.Task[object]], None] | None,
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._name_of = name_of
        self._hung = hung
        self._busy = threading.Event()
        self._over = threading.Event()
        self._watched: threading.Thread | None = None  # in which the loop runs
        self._raises: BaseException | None = None  # in the task that is running
        self._task: asyncio.Task[object] | None = None  # that blocks the loop
        self._since = 0.0
        self._asked: float | None = None  # when the loop was asked to turn, until it does
        self._stood_still = 0.0
        self._gives_up = False
        self.blocked_by = ""
        """The handler that blocks the loop now; empty: none does. Any thread may ask."""
        self.deadline = math.inf
        """At this time by the monotonic clock, a task that blocks the loop is cancelled, whatever its limit."""

    @property
    def is_over(self) -> bool:
        """True after the deadline."""
        return time.monotonic() >= self.deadline

    def busy(self, busy: bool) -> None:
        """To be called on the loop. While nothing is in flight, nobody looks."""
        if busy is self._busy.is_set():
            return
        if not busy:
            self._busy.clear()
            return
        if self._watched is None:
            self._watched = threading.current_thread()
            if self._watched is threading.main_thread():
                signal.signal(_SIGNAL, self._interrupt)
            threading.Thread(target=self._watch, name="loop-watch", daemon=True).start()
        self._busy.set()

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._busy.set()

    def _watch(self) -> None:
        while not self._over.is_set():
            self._busy.wait()
            asked, turned = time.monotonic(), threading.Event()
            self._asked = asked
            try:
                self._loop.call_soon_threadsafe(self._turns, turned)
            except RuntimeError:  # it is closed
                return
            self._since, told = asked, ""
            while not turned.wait(_LOOK_EVERY) and not self._over.is_set():
                told = self.blocked_by = self._look(told)
            self.blocked_by = ""
            self._raises = self._task = None
            self._over.wait(_LOOK_EVERY)

    def stood_still(self) -> float:
        """Seconds for which the loop has stood still so far, as far as was seen. To be asked on the loop."""
        return self._stood_still + self._late()

    def _late(self) -> float:
        late = 0.0 if self._asked is None else time.monotonic() - self._asked
        return late + _LOOK_EVERY if late > _LATE_SECONDS else 0.0

    def _turns(self, turned: threading.Event) -> None:
        self._stood_still += self._late()
        self._asked = None
        turned.set()

    def _look(self, told: str) -> str:
        """The loop is blocked. `told`: who was named. Returns who is named now."""
        now, task = time.monotonic(), asyncio.current_task(self._loop)
        if task is not self._task:
            if self._task is not None:  # one after another blocks it: each has its own time
                self._since, told = now, ""
            self._raises, self._task = None, task
        blocked = now - self._since
        name = None if task is None else self._name_of(task)
        if task is None or name is None or blocked < BLOCKED_SECONDS or self._watched is None:
            return told
        running = stack_of(sys._current_frames().get(self._watched.ident or 0))[-10:]
        if name != told:
            log.warning(
                "async handler blocks the event loop: all others stand still",
                handler=name,
                running=running,
                pid=os.getpid(),
            )
        late = max(blocked - self._timeout, time.monotonic() - self.deadline)
        if late >= 0 and self._watched is threading.main_thread():
            self._raises = (
                asyncio.CancelledError()
                if self.is_over
                else HandlerTimeout(f"blocked the event loop for {blocked:.1f} s")
            )
            if self._hung is not None and late >= GRACE_SECONDS:
                log.error("handler hangs, this process is replaced", handler=name, running=running, pid=os.getpid())
                self._gives_up = True
            signal.pthread_kill(self._watched.ident or 0, _SIGNAL)
            if self._gives_up and self._hung is not None:
                self._hung(task)
        return name

    def _interrupt(self, _: int, frame: FrameType | None) -> None:
        if self._gives_up:
            threading.Event().wait()
        try:
            task = asyncio.current_task()
        except RuntimeError:  # the loop does not run
            return
        if self._raises is not None and task is self._task:
            raise self._raises
