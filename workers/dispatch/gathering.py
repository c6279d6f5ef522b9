"""Events that wait for company: they are handled together."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from workers.dispatch.rate_limits import HandlerLimiter
from workers.events import Event
from workers.handler import Handler

if TYPE_CHECKING:
    from workers.dispatch.ready import Item


class Place(NamedTuple):
    """An event's place in a list, since a time by the monotonic clock. `argument` is what the handler gets of it."""

    item: Item
    argument: Event
    since: float


class Gathering:
    """The events of one lane that go to one bulk handler.

    An event that is tried again has a list of its own: should it be the one at fault, it costs its neighbours nothing.
    """

    def __init__(self, handler: Handler, lane: str, limiter: HandlerLimiter | None) -> None:
        self.handler = handler
        self.lane = lane
        self.limiter = limiter
        self.behind = 0
        """How many events wait for those that are gathered, and may be called with them."""
        self._most = handler.bulk or 1
        self._places: deque[Place] = deque()
        self._due_at = math.inf  # by the monotonic clock: then one of them has waited long enough
        self._alone: deque[Place] = deque()

    def __len__(self) -> int:
        return len(self._places) + len(self._alone)

    @property
    def items(self) -> list[Item]:
        """All that are gathered. Any thread may ask."""
        return [place.item for place in (*list(self._alone), *list(self._places))]

    def add(self, item: Item, argument: Event) -> bool:
        """Gather an event. False when it has a list of its own."""
        is_alone = item.event.attempt > 1
        (self._alone if is_alone else self._places).append(Place(item, argument, time.monotonic()))
        if not is_alone:
            self._due_at = min(self._due_at, item.since + self.handler.linger)
        return not is_alone

    def wait(self, now: float, hurried: bool) -> float | None:
        """Seconds until the next list may be called; None while nothing is gathered. When `hurried`, it does not wait
        for more events.
        """
        if self._alone:
            wait = 0.0
        elif not self._places:
            return None
        elif len(self._places) + self.behind >= self._most or hurried:
            wait = 0.0
        else:
            wait = max(0.0, self._due_at - now)
        return self.limiter.wait() if self.limiter is not None and not wait else wait

    def take(self) -> tuple[list[Place], int]:
        """The next list, and how many more events may come into it."""
        if self._alone:
            return [self._alone.popleft()], 0
        most = self._most if self.limiter is None else self.limiter.most(self._most)
        places = [self._places.popleft() for _ in range(min(most, len(self._places)))]
        self._look_when_due()
        return places, most - len(places)

    def take_one(self) -> list[Place]:
        """A list of one event."""
        place = (self._alone or self._places).popleft()
        self._look_when_due()
        return [place]

    def take_all(self) -> list[Place]:
        """All that is gathered."""
        places = [*self._alone, *self._places]
        self._alone.clear()
        self._places.clear()
        self._look_when_due()
        return places

    def take_those(self, leave: Callable[[Place], bool]) -> list[Place]:
        """Those that leave without having been called."""
        places = [place for place in (*self._alone, *self._places) if leave(place)]
        if places:
            gone = set(map(id, places))
            self._alone = deque(place for place in self._alone if id(place) not in gone)
            self._places = deque(place for place in self._places if id(place) not in gone)
            self._look_when_due()
        return places

    def _look_when_due(self) -> None:
        since = min((place.item.since for place in self._places), default=math.inf)
        self._due_at = since + self.handler.linger
