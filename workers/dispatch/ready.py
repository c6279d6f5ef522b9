"""Which event or list begins next: the most urgent lane first, and of each lane the businesses in turn."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from ingest.store.constants import SPENT_MS
from ingest.store.queues import LANES
from workers.dispatch.gathering import Gathering
from workers.dispatch.outcomes import Ended, Outcome, of_fault
from workers.events import Event
from workers.handler import Handler

FAIR_SHARE = 0.1
"""Part of the work that a lower lane keeps while more urgent ones wait, so that none starves."""


class Account(Protocol):
    """What the events of a batch report to, and what may keep them from being handled.

    `admit` is called right before an event's handlers, in the event's own context; if it returns an outcome, they are
    not called. `put_off` takes `admit` back: the event has to wait for its turn. `finish` gets each event's outcome,
    and the time by the monotonic clock. `done_before` are the handlers (their digests) that need not be called. `order`
    names the strict order that an event belongs to, None for most.
    """

    def admit(self, event: Event) -> Outcome | None: ...
    def put_off(self, event: Event) -> None: ...
    def finish(self, index: int, event: Event, outcome: Outcome, now: float) -> None: ...
    def done_before(self, index: int) -> frozenset[bytes]: ...
    def order(self, event: Event) -> str | None: ...


class Source:
    """Where events come from: a queue of which this process has batches in hand.

    While it is not `open`, none of its events begins; they are `held`. Once it is `gone`, none ever will. Those that
    have not begun are `waiting`, in the order in which they came into hand.
    """

    __slots__ = ("gone", "held", "in_flight", "lane", "open", "waiting")

    def __init__(self, lane: str) -> None:
        self.lane = lane
        self.open = True
        self.gone = False
        self.held: list[Item] = []
        self.waiting: dict[Item, None] = {}
        self.in_flight = 0


_NONE: list[Ended] = []
"""Of all events that go to no bulk handler. Nothing is added to it."""


class Item:
    """An event in hand, with the number of its record in its batch. `handlers` are those that match it.

    `key` is None when it may begin in any order. With a `fault`, it ends with that at once. When it goes to bulk
    handlers, `parts` is how many of them, and of its single handlers' one call, have not `ended`. It has been in hand
    `since` a time by the monotonic clock; its `number` says which came first. Its try was due at `due_ms` (ms since the
    epoch), if it is another one; or its turn came then, after an earlier event of its key.
    """

    __slots__ = (
        "account",
        "due_ms",
        "ended",
        "event",
        "fault",
        "handlers",
        "index",
        "key",
        "number",
        "parts",
        "room",
        "since",
        "source",
    )

    def __init__(
        self,
        index: int,
        event: Event,
        account: Account,
        source: Source,
        number: int = 0,
        since: float = 0.0,
        due_ms: float = 0.0,
    ) -> None:
        self.index = index
        self.number = number
        self.since = since
        self.due_ms = due_ms
        self.event = event
        self.account = account
        self.source = source
        self.key: tuple[str, str] | None = None
        self.fault: Outcome | None = None
        self.handlers: tuple[Handler, ...] | None = None
        self.room: Any = None
        self.parts = 0
        self.ended = _NONE
        try:
            if (order_key := event.order_key) is not None:
                self.key = (event.kind, order_key)
        except Exception as error:
            self.fault = of_fault(error, "reading the event")

    @property
    def owed_since(self) -> float:
        """Since when it waits: since it arrived, was due or had its turn (ms since the epoch)."""
        return max(self.event.received_ms, self.due_ms)


class Shares:
    """How much work each lane had lately: a lower lane keeps a tenth while more urgent ones wait, so none starves."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(LANES, 0.0)
        self.order: Sequence[str] = LANES
        """The lanes, the one that goes first at the front."""

    def add(self, spent: Mapping[str, float]) -> None:
        """Seconds of handlers, by lane."""
        for lane, seconds in spent.items():
            self._spent[lane] += seconds
        total = sum(self._spent.values())
        if total > SPENT_MS / 1000:
            self._spent = {lane: seconds / 2 for lane, seconds in self._spent.items()}
            total /= 2
        starved = [lane for lane in LANES[1:] if self._spent[lane] < FAIR_SHARE * total]
        self.order = [*starved, *(lane for lane in LANES if lane not in starved)] if starved else LANES


class _Businesses:
    """The events of a lane. Whose flood it is waits behind it; others have their turn."""

    __slots__ = ("_by_business", "_turn", "count")

    def __init__(self) -> None:
        self.count = 0
        self._by_business: dict[str | None, deque[Item]] = {}
        self._turn: deque[str | None] = deque()

    def add(self, item: Item) -> None:
        self.count += 1
        business = item.event.business
        waiting = self._by_business.get(business)
        if waiting is None:
            waiting = self._by_business[business] = deque()
            self._turn.append(business)
        waiting.append(item)

    def next(self) -> Item:
        """The first one; there must be some."""
        self.count -= 1
        business = self._turn[0]
        waiting = self._by_business[business]
        item = waiting.popleft()
        if not waiting:
            del self._by_business[business]
            self._turn.popleft()
        elif len(self._turn) > 1:
            self._turn.rotate(-1)
        return item


class Ready:
    """Events that may begin as soon as there is a slot, and those that gather. In lanes that are `hurried`, these wait
    for none but those that may begin.
    """

    def __init__(self, shares: Shares, hurried: Collection[str] = ()) -> None:
        self._shares = shares
        self._hurried = hurried
        self._lanes = {lane: _Businesses() for lane in LANES}
        # Whose turn it is in a lane with bulk handlers; None: that of the single events.
        self._turns: dict[str, deque[Gathering | None]] = {}

    def __len__(self) -> int:
        return sum(map(self.count, LANES))

    def count(self, lane: str) -> int:
        gathered = sum(len(one) for one in self._turns.get(lane, ()) if one is not None)
        return self._lanes[lane].count + gathered

    def add(self, item: Item) -> None:
        self._lanes[item.source.lane].add(item)

    def gathered(self) -> Iterator[Gathering]:
        """Where events gather. Any thread may ask."""
        return (one for turns in list(self._turns.values()) for one in list(turns) if one is not None)

    def add_gathering(self, gathering: Gathering) -> None:
        """Its lists begin from here."""
        self._turns.setdefault(gathering.lane, deque([None])).append(gathering)

    def next(self, closed: Collection[str] = ()) -> Item | Gathering | None:
        """The next event, of no lane that is closed, or a list, whose events have begun before."""
        for lane in self._shares.order:
            waiting = self._lanes[lane]
            may_begin = waiting.count and lane not in closed
            if self._turns and (turns := self._turns.get(lane)):
                found = self._in_turn(turns, lane, bool(may_begin))
                if found is not None:
                    return found
            if may_begin:
                return waiting.next()
        return None

    def _in_turn(self, turns: deque[Gathering | None], lane: str, single: bool) -> Gathering | None:
        """The gathering that has its turn. None when it is that of a `single` event, or of none."""
        now, hurried = time.monotonic(), self._is_hurried(lane)
        for _ in range(len(turns)):
            gathering = turns[0]
            turns.rotate(-1)
            if gathering is None and single:
                return None
            if gathering is not None and gathering.wait(now, hurried) == 0:
                return gathering
        return None

    def waits(self, now: float) -> list[float]:
        """Seconds until lists may begin, those for which only a slot is missing apart."""
        found = [
            one.wait(now, self._is_hurried(lane))
            for lane, turns in self._turns.items()
            for one in turns
            if one is not None
        ]
        return [wait for wait in found if wait]

    def _is_hurried(self, lane: str) -> bool:
        return lane in self._hurried and not self._lanes[lane].count
