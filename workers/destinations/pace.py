"""How fast a destination may be called that answers 429: as fast as it was seen to bear."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from ingest.state.holds import Hold

_WINDOW = 1.0  # seconds in which servers count, or that they allow in advance
_BELOW = 0.95  # of what it took
_SEARCH = 0.1  # a second: how the rate rises while a destination has said once that it is too much
_FASTER = 0.0005  # and while what it takes is known
_BURST = 0.05  # seconds of calls that may begin together


class Pace:
    """Of one destination in one process. Until the first 429 nothing is held up.

    A 429 stops all calls for as long as it asks. What servers allow they count by the second, or it is a bucket that
    fills up all the time, and their answers are the same. So the first 429 tells only what a destination takes at
    least: from there the rate rises until the next one, and what was taken in the second before that is what it takes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate: float | None = None  # calls per second
        self._growth = _SEARCH
        self._tokens = 0.0
        self._counted_at = 0.0
        self._held_until = 0.0
        self._refused_at = 0.0  # the last 429, in seconds since the epoch
        self._taken: deque[float] = deque()  # when something was taken, in the last second
        self._since: float | None = None  # when calls could begin after the last 429, or the first one was taken
        self._taken_since = 0

    def wait(self) -> float:
        """Seconds until a call may begin; 0: now."""
        now = self._clock()
        if now < self._held_until:
            return self._held_until - now
        if self._rate is None:
            return 0.0
        seconds = max(0.0, now - self._counted_at)
        self._rate *= 1 + self._growth * min(seconds, _WINDOW)
        self._tokens = min(max(1.0, self._rate * _BURST), self._tokens + self._rate * seconds)
        self._counted_at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate

    @property
    def holds_up(self) -> bool:
        """True when a call had to wait at the last look. Any thread may ask."""
        return self._clock() < self._held_until or (self._rate is not None and self._tokens < 1)

    def hold(self, handler: str) -> Hold | None:
        """What a 429 has led to, in words for operators. Any thread may ask."""
        if (left := self._held_until - self._clock()) > 0:
            return Hold(handler, "429", at=time.time() + left)
        return None if self._rate is None else Hold(handler, "pace", round(self._rate, 3), self._refused_at)

    def begin(self, events: int = 1) -> None:
        """A call begins, with so many events."""
        self._tokens -= events

    def taken(self, events: int = 1) -> None:
        """The destination has taken so many."""
        now = self._clock()
        self._since = now if self._since is None else self._since
        self._taken_since += events
        self._taken.extend([now] * events)
        while self._taken and now - self._taken[0] > _WINDOW:
            self._taken.popleft()

    def too_many(self, wait: float) -> None:
        """It answered 429, or asked to be left alone for so many seconds."""
        now = self._clock()
        self._refused_at = time.time()
        if now < self._held_until:  # of calls that were under way then
            self._held_until = max(self._held_until, now + wait)
            return
        lately = sum(now - at <= _WINDOW for at in self._taken) / _WINDOW
        is_first = self._rate is None
        if is_first:
            active = 0.0 if self._since is None else max(0.0, now - self._since)
            self._rate = max(1.0, self._taken_since / (active + _WINDOW))
        else:
            self._rate = max(1.0, lately * _BELOW)
        self._growth = _SEARCH if is_first else _FASTER
        self._held_until = self._since = now + wait
        self._taken_since = 0
        self._tokens, self._counted_at = 0.0, self._held_until
