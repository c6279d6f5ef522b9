"""The time limit of one call of an async handler."""

from __future__ import annotations

import asyncio

from workers.dispatch.loop_watch import LoopWatch

_LONGEST_LOOK = 1.0  # from a block to its interruption, beyond the limit


class TimeLimit:
    """While another handler blocks the loop, this one cannot go on: that time does not count, as far as three times the
    limit: it may have been this one itself, again and again.
    """

    __slots__ = ("_due", "_handle", "_last", "_limit", "_loop", "_stood_still", "_watch")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, watch: LoopWatch) -> None:
        self._loop = loop
        self._watch = watch
        self._due = loop.time() + seconds
        self._last = self._due + 2 * seconds + _LONGEST_LOOK
        self._stood_still = watch.stood_still()
        self._limit: asyncio.Timeout
        self._handle: asyncio.TimerHandle | None = None

    def start(self, limit: asyncio.Timeout) -> None:
        """Have it expire when the time is over."""
        self._limit = limit
        self._handle = self._loop.call_at(self._due, self._is_due)

    def cancel(self) -> None:
        """The call has ended."""
        if self._handle is not None:
            self._handle.cancel()

    def _is_due(self) -> None:
        before, self._stood_still = self._stood_still, self._watch.stood_still()
        self._due = min(self._last, self._due + self._stood_still - before)
        if self._due > self._loop.time():
            self.start(self._limit)
        else:
            self._limit.reschedule(self._due)
