"""Events that wait until their handlers may be called."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator

from ingest.loggers import get_logger
from workers.dispatch.rate_limits import HandlerLimiter, RateLimits, longest_wait
from workers.dispatch.ready import Item
from workers.handler import Handler

log = get_logger(__name__)

PATIENCE_SECONDS = 0.25
"""For so long an event's other handlers wait for one that may not be called."""

CATCH_UP_SECONDS = 1.0
"""For so long an event waits in hand that comes again for a handler that lags: others catch up beside it."""

BRIEF_SECONDS = 0.05
"""Each waits so long for its turn at least, or nobody would be there when a handler may be called again."""

_SAY_AGAIN_SECONDS = 60.0


class Parked:
    """Of the same handlers, each in order of arrival. What other handlers of the event have handled before, and one has
    to catch up on, takes turns with what is new: for that, others wait.
    """

    def __init__(self) -> None:
        self._new: deque[tuple[Item, float]] = deque()
        self._catching_up: deque[tuple[Item, float]] = deque()
        self._turn = self._new

    def __len__(self) -> int:
        return len(self._new) + len(self._catching_up)

    def items(self) -> list[Item]:
        """All that wait. Any thread may ask."""
        return [item for item, _ in (*list(self._new), *list(self._catching_up))]

    def add(self, item: Item, now: float, catches_up: bool) -> None:
        (self._catching_up if catches_up else self._new).append((item, now))

    @property
    def first(self) -> tuple[Item, float]:
        """The next one, and since when it waits; there must be some."""
        return self._next[0]

    def pop(self) -> None:
        """The first one goes; the next turn is that of the others."""
        self._next.popleft()
        self._turn = self._other

    @property
    def _next(self) -> deque[tuple[Item, float]]:
        return self._turn or self._other

    @property
    def _other(self) -> deque[tuple[Item, float]]:
        return self._catching_up if self._turn is self._new else self._new


class Turns:
    """What waits for its turn, in one process. `begin` is called with an event, and True when handlers of it that may
    not be called now are to be left out; `caught_up` with the name of a handler that lagged, once nothing waits for it
    here. No event of a lane that is `closed` begins.
    """

    def __init__(
        self, begin: Callable[[Item, bool], None], closed: Collection[str], caught_up: Callable[[str], None]
    ) -> None:
        self._begin = begin
        self._closed = closed
        self._caught_up = caught_up
        self._parked: defaultdict[tuple[HandlerLimiter, ...], Parked] = defaultdict(Parked)
        self._lagging: set[Handler] = set()
        self._said_at: dict[Handler, float] = {}

    def must_wait(self, limiters: tuple[HandlerLimiter, ...]) -> bool:
        """Whether an event that these limit has to wait, because others do, or because a call may not begin."""
        return bool(limiters) and bool(self._parked[limiters] or longest_wait(limiters))

    def park(self, limiters: tuple[HandlerLimiter, ...], item: Item) -> None:
        """Have an event wait."""
        catches_up = bool(item.account.done_before(item.index))
        self._parked[limiters].add(item, time.monotonic(), catches_up)

    def waiting(self) -> Iterator[tuple[str, list[Item]]]:
        """Of each handler that may not be called now, events that wait for their turn. Any thread may ask."""
        for limiters in list(self._parked):
            if items := self._parked[limiters].items():
                for limiter in limiters:
                    if len(limiters) == 1 or limiter.holds_up:
                        yield limiter.name, items

    def begin(self, limits: RateLimits | None, gathered: Collection[HandlerLimiter] = ()) -> float | None:
        """Begin what waited. Returns the seconds until more of it may begin. `gathered` are those of handlers for which
        lists wait.

        An event is begun for all its handlers together, which keeps their order. When one of them lags, the others do
        not wait for it longer than `PATIENCE_SECONDS`: it gets the event later (docs/destinations.md).
        """
        waits: list[float] = []
        for limiters, parked in list(self._parked.items()):
            while parked:
                item, since = parked.first
                leaves_out = False
                if not item.source.gone:
                    if seconds := longest_wait(limiters):
                        if (left := patience(item, limits, since)) > 0:
                            waits.append(min(seconds, left))
                            break
                        leaves_out = True
                    if item.room.free <= 0 or item.source.lane in self._closed:  # what ends that begins it
                        break
                parked.pop()
                self._begin(item, leaves_out)
        if self._lagging:
            self._look_who_caught_up(limits, gathered)
        return min(waits, default=None)

    def _look_who_caught_up(self, limits: RateLimits | None, gathered: Collection[HandlerLimiter]) -> None:
        waiting = {limiter for limiters, parked in self._parked.items() if parked for limiter in limiters}
        waiting.update(gathered)
        for handler in list(self._lagging):
            if limits is None or limits.of(handler) not in waiting:
                self._lagging.discard(handler)
                self._caught_up(handler.name)

    def lag(self, late: Iterable[Handler]) -> None:
        """Note that these handlers lag, and log it once a minute."""
        now = time.monotonic()
        for handler in late:
            self._lagging.add(handler)
            if now >= self._said_at.get(handler, 0.0):
                self._said_at[handler] = now + _SAY_AGAIN_SECONDS
                log.warning("handler lags, its events come later and others do not wait for it", handler=handler.name)


def patience(item: Item, limits: RateLimits | None, since: float) -> float:
    """Seconds for which an event that waits for its turn `since` a time by the monotonic clock waits on until all its
    handlers may be called; infinite when no other one could be called.

    It counts from when the event came into hand: those of one contact come one after the other, and their waits would
    add up.
    """
    now = time.monotonic()
    return max(_patience(item, limits, now - item.since), BRIEF_SECONDS - (now - since))


def _patience(item: Item, limits: RateLimits | None, waited: float) -> float:
    handlers, done = item.handlers or (), item.account.done_before(item.index)
    if len(handlers) == 1 and not done:  # nearly always; who is next is asked whenever a call ends
        return math.inf
    left = (CATCH_UP_SECONDS if done else PATIENCE_SECONDS) - waited
    if left > 0:
        return left
    owed = [one for one in handlers if one.digest not in done]
    if any(one.strict_order for one in owed):  # later events would have to wait behind this one
        return math.inf
    goes_on = any(one.bulk is not None or limits is None or not limits.must_wait(one) for one in owed)
    return 0.0 if done or goes_on else math.inf
