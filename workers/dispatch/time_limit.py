"""The time for one event: when it is over, a sync handler is interrupted."""

from __future__ import annotations

import signal
import time

_AGAIN = 1.0  # seconds; a handler that swallows the time-out gets it again


class HandlerTimeout(TimeoutError):
    """Raised inside a sync handler when the time for its event is over."""


class TimeLimit:
    """Interrupts a sync handler with SIGALRM, even in a system call.

    Setting the timer for each event would cost two system calls. So it runs on, and if it rings too early for the event
    of that moment, it is set to the rest of that event's time.
    """

    def __init__(self) -> None:
        self._deadline: float | None = None
        self._ticking = False
        self._installed = False
        self.broken_off = False

    def begin(self, now: float, seconds: float) -> None:
        self.broken_off = False
        self._deadline = now + seconds
        if not self._ticking:
            self._set(seconds)

    def end(self) -> None:
        self._deadline = None

    def shorten(self, seconds: float) -> None:
        if self._deadline is not None and self._deadline > time.monotonic() + seconds:
            self.broken_off = True
            self._deadline = time.monotonic() + seconds
            self._set(seconds)

    def _set(self, seconds: float) -> None:
        if not self._installed:
            signal.signal(signal.SIGALRM, self._ring)
            self._installed = True
        self._ticking = seconds > 0
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)

    def _ring(self, *_: object) -> None:
        if self._deadline is None:
            self._set(0)
            return
        left = self._deadline - time.monotonic()
        if left > 0:
            self._set(left)
        else:
            raise HandlerTimeout
