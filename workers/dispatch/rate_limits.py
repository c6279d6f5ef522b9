"""Which events may begin now, given the rate and concurrency of their handlers and the caps of lanes.

Tokens lie in Redis (bucket.lua). A worker takes at most a quarter of a second's worth, and exchanges what it has not
used by then: tokens that it kept would come on top of what others get.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from redis.exceptions import RedisError

from ingest.state.holds import RECENT_SECONDS, By, Hold
from ingest.store import keys, scripts
from ingest.store.constants import TOKENS_SECONDS
from ingest.store.pipelined import PipelinedConnection
from workers.dispatch.steering import Steering
from workers.events import Event
from workers.handler import Handler


class Granted(NamedTuple):
    """`tokens`, or None when there is no cap any more. If they are 0, `wait` is the seconds until there may be some."""

    tokens: int | None
    wait: float


class Buckets:
    """Takes tokens out of buckets in Redis."""

    def __init__(self, connection: PipelinedConnection) -> None:
        self._script = connection.script(scripts.lua(__file__, "tokens.lua"))

    def exchange(self, hash_: str, name: str, rate: float | None = None, unused: int = 0) -> Granted:
        """Give unused tokens back and take what there is. Without a `rate`, the hash has it in `limit.NAME`."""
        tokens, wait = self._script([hash_], [name, "" if rate is None else repr(rate), unused])
        return Granted(None if tokens < 0 else tokens, wait / 1000)


class RateLimited(Exception):
    """An event has to wait for its turn at these."""

    def __init__(self, limiters: tuple[HandlerLimiter, ...]) -> None:
        super().__init__()
        self.limiters = limiters


class _Tokens:
    """What this process has of one bucket. The rate is in events per second, None: there is none."""

    def __init__(self, buckets: Buckets, name: str) -> None:
        self._buckets = buckets
        self._name = name
        self._rate: float | None = None
        self._ask_at = 0.0  # when tokens are exchanged, or there are some again
        self._left = 0

    def wait(self, rate: float | None) -> float:
        """Seconds until it is worth asking again; 0: there are some now, or none is needed."""
        if rate != self._rate:
            self._rate, self._ask_at = rate, 0.0
        if rate is None:
            return 0.0
        now = time.monotonic()
        if now >= self._ask_at:
            try:
                granted = self._buckets.exchange(keys.RATES, self._name, rate, self._left)
            except (RedisError, OSError):  # away: nothing that has a rate begins meanwhile
                granted = Granted(0, 1.0)
            self._left = granted.tokens or 0
            self._ask_at = now + (TOKENS_SECONDS if self._left else granted.wait)
        return 0.0 if self._left else max(0.001, self._ask_at - now)

    @property
    def are_spent(self) -> bool:
        return self._rate is not None and not self._left

    def most(self, events: int) -> int:
        return events if self._rate is None else min(events, self._left)

    def use(self, events: int) -> None:
        if self._rate is not None:
            self._left -= events
            if not self._left:
                self._ask_at = 0.0


class HandlerLimiter:
    """Lets calls of one handler begin, in this process. `of_operator` are the tokens of the limit that an operator may
    set by the handler's name.
    """

    def __init__(self, buckets: Buckets, handler: Handler, steering: Steering, of_operator: _Tokens) -> None:
        self._rate = handler.rate
        self._concurrency = handler.concurrency
        self._pace = handler.pace
        self.name = handler.name
        self._steering = steering
        self._own = _Tokens(buckets, " ".join((handler.kind, *sorted(handler.wants), handler.name)))
        self._of_operator = of_operator
        self._in_flight = 0
        self._by: By = "rate"  # what the last call waited for that had to, and when
        self._held_at = -math.inf

    def wait(self) -> float:
        """Seconds until it is worth asking again; 0: a call may begin now, or wait without tokens: it is paused.

        Infinite while as many calls are in flight as may be: the next one begins when one of them ends.
        """
        if self.name in self._steering.paused:
            return 0.0
        if self._is_full:
            return self._held("concurrency", math.inf)
        if self._pace is not None and (seconds := self._pace.wait()):
            return self._held("pace", seconds)
        if seconds := self._own.wait(self._rate):
            return self._held("rate", seconds)
        if seconds := self._of_operator.wait(self._steering.limits.get(self.name)):
            return self._held("limit", seconds)
        return 0.0

    def _held(self, by: By, seconds: float) -> float:
        self._by, self._held_at = by, time.monotonic()
        return seconds

    def hold(self) -> Hold | None:
        """What held up the last call that had to wait, if that was lately. Any thread may ask."""
        paced = self._pace.hold(self.name) if self._pace is not None else None
        if paced is not None and paced.by == "429":
            return paced
        if time.monotonic() - self._held_at > RECENT_SECONDS:
            return None
        if self._by == "pace":
            return paced
        figures = {
            "concurrency": self._concurrency,
            "rate": self._rate,
            "limit": self._steering.limits.get(self.name),
        }
        figure = figures[self._by]
        return None if figure is None else Hold(self.name, self._by, figure)

    @property
    def holds_up(self) -> bool:
        """True when a call had to wait at the last look. Any thread may ask."""
        paced = self._pace is not None and self._pace.holds_up
        return self._is_full or paced or self._own.are_spent or self._of_operator.are_spent

    @property
    def _is_full(self) -> bool:
        return self._concurrency is not None and self._in_flight >= self._concurrency

    def most(self, events: int) -> int:
        """How many of so many events one list may hold now, once there is nothing to wait for."""
        return self._of_operator.most(self._own.most(events))

    def begin(self, events: int = 1) -> None:
        self._in_flight += 1
        if self._pace is not None:
            self._pace.begin(events)
        self._own.use(events)
        self._of_operator.use(events)

    def end(self) -> None:
        self._in_flight -= 1


class RateLimits:
    """The limiters of this process, one for each handler that has a rate or concurrency, or had a limit."""

    def __init__(self, connection: PipelinedConnection, steering: Steering | None = None) -> None:
        self._buckets = Buckets(connection)
        self._steering = steering or Steering()
        self._of_operator: dict[str, _Tokens] = {}  # by name, which several handlers may have
        self._limiters: dict[int, HandlerLimiter] = {}  # by id() of the handler, which its registry keeps

    def begin(self, calls: Iterable[tuple[Handler, Event]]) -> tuple[HandlerLimiter, ...]:
        """Begin all the calls of an event, or raise RateLimited. Call `end` of each returned limiter afterwards."""
        limiters = self.of_all(handler for handler, _ in calls)
        if longest_wait(limiters):
            raise RateLimited(limiters)
        for limiter in limiters:
            limiter.begin()
        return limiters

    def holds(self) -> Iterator[Hold]:
        """What holds handlers back. Any thread may ask."""
        return (hold for limiter in list(self._limiters.values()) if (hold := limiter.hold()) is not None)

    def must_wait(self, handler: Handler) -> bool:
        """True while a call of this handler may not begin."""
        return self._is_throttled(handler) and self.of(handler).wait() > 0

    def of_all(self, handlers: Iterable[Handler]) -> tuple[HandlerLimiter, ...]:
        """The limiters of those that are throttled, or that an operator limits."""
        return tuple(self.of(handler) for handler in handlers if self._is_throttled(handler))

    def of(self, handler: Handler) -> HandlerLimiter:
        """The limiter of a handler."""
        if id(handler) not in self._limiters:
            name = handler.name
            tokens = self._of_operator.setdefault(name, _Tokens(self._buckets, f"limit {name}"))
            self._limiters[id(handler)] = HandlerLimiter(self._buckets, handler, self._steering, tokens)
        return self._limiters[id(handler)]

    def _is_throttled(self, handler: Handler) -> bool:
        return handler.is_throttled or handler.name in self._steering.limits


def longest_wait(limiters: Iterable[HandlerLimiter]) -> float:
    """Seconds until all of them may let a call begin. Each is asked: it keeps the tokens it gets for a while."""
    return max([limiter.wait() for limiter in limiters], default=0.0)
