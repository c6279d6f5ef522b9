"""Notices an async handler that blocks the event loop: names it in the log, and interrupts it when its time is over."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from ingest.loggers import get_logger
from workers.dispatch.outcomes import HandlerTimeout, stack_of

log = get_logger(__name__)

BLOCKED_SECONDS = 1.0
"""A loop that does not turn for so long is blocked."""

_LOOK_EVERY = 0.5


class LoopWatch:
    """Looks at the loop of the main thread with SIGALRM, which interrupts even a system call.

    `name_of` says whose task is running: the name of its handler, or None when it is no handler's. `turned` is to be
    called at every turn of the loop that somebody takes notice of, at least every quarter of a second.
    """

    def __init__(self, timeout: float, name_of: Callable[[asyncio.Task[object]], str | None]) -> None:
        self._timeout = timeout
        self._name_of = name_of
        self._turned_at = time.monotonic()
        self._told: str | None = None
        self._running = False

    def turned(self, busy: bool) -> None:
        """The loop turns. While nothing is in flight (`busy`), nobody needs to look."""
        self._turned_at = time.monotonic()
        self._told = None
        if busy is not self._running and threading.current_thread() is threading.main_thread():
            self._running = busy
            if busy:
                signal.signal(signal.SIGALRM, self._look)
            signal.setitimer(signal.ITIMER_REAL, _LOOK_EVERY if busy else 0, _LOOK_EVERY)

    def _look(self, _: int, frame: FrameType | None) -> None:
        blocked = time.monotonic() - self._turned_at
        if blocked < BLOCKED_SECONDS or not self._running:
            return
        try:
            task = asyncio.current_task()
        except RuntimeError:  # the loop does not run
            return
        name = None if task is None else self._name_of(task)
        if name is None:
            return
        if name != self._told:
            self._told = name
            lines = stack_of(frame)[-10:]
            log.warning("async handler blocks the event loop: all others stand still", handler=name, running=lines)
        if blocked >= self._timeout:
            raise HandlerTimeout(f"blocked the event loop for {blocked:.1f} s")
