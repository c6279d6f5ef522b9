"""How fast a destination may be called that answers 429: as fast as it was seen to bear."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_WINDOW = 1.0  # seconds in which is counted what a destination took
_BELOW = 0.95  # of what it took
_SLOWER = 0.85  # of the rate at which it still says that it is too much
_FASTER = 0.001  # a second: how the rate rises while nothing is too much
_BURST = 0.05  # seconds of calls that may begin together


class Pace:
    """Of one destination in one process. Until the first 429 nothing is held up.

    A 429 stops all calls for as long as it asks. What was taken in the second before says at which rate to go on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate: float | None = None  # calls per second
        self._tokens = 0.0
        self._counted_at = 0.0
        self._held_until = 0.0
        self._taken: deque[float] = deque()  # when something was taken, in the last second
        self._since = 0.0  # the last 429
        self._taken_since = 0

    def wait(self) -> float:
        """Seconds until a call may begin; 0: now."""
        now = self._clock()
        if now < self._held_until:
            return self._held_until - now
        if self._rate is None:
            return 0.0
        seconds = max(0.0, now - self._counted_at)
        self._rate *= 1 + _FASTER * seconds
        self._tokens = min(max(1.0, self._rate * _BURST), self._tokens + self._rate * seconds)
        self._counted_at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate

    def begin(self, events: int = 1) -> None:
        """A call begins, with so many events."""
        self._tokens -= events

    def taken(self, events: int = 1) -> None:
        """The destination has taken so many."""
        now = self._clock()
        self._taken_since += events
        self._taken.extend([now] * events)
        while self._taken and now - self._taken[0] > _WINDOW:
            self._taken.popleft()

    def too_many(self, wait: float) -> None:
        """It answered 429, or asked to be left alone for so many seconds."""
        now = self._clock()
        if now < self._held_until:  # of calls that were under way then
            self._held_until = max(self._held_until, now + wait)
            return
        lately = max(1.0, sum(now - at <= _WINDOW for at in self._taken) / _WINDOW)
        if self._rate is None:
            self._rate = lately * _BELOW
        else:
            # Over the time since, with the pause, it surely bears; in the last second it may have been a burst.
            surely = self._taken_since / max(_WINDOW, now - self._since)
            self._rate = max(1.0, surely, min(self._rate * _SLOWER, lately * _BELOW))
        self._since, self._taken_since = now, 0
        self._held_until = now + wait
        self._tokens, self._counted_at = 0.0, self._held_until
