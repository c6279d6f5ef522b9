"""How much a worker takes: what it can begin soon, by its free slots and its rate lately; never a backlog."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from ingest.store.constants import PUT_OFF_PART
from ingest.store.queues import MESSAGES
from workers.dispatch.dispatcher import Dispatcher
from workers.engine.hand import Hands
from workers.engine.results import PUT_OFF

SOON_SECONDS = 1.0
"""A worker takes what it can begin within this time, by its rate lately."""

MOST_READY = 2000
"""Events of a lane, at most, that are taken because they can begin soon."""

LEAST_MESSAGES = 1000
"""Messages that are taken even if they cannot begin soon: so that businesses have their turn, whoever posts a flood."""

MOST_IN_HAND = 5000
"""Events of a lane in hand at most, with those that wait for an earlier one of their contact."""

MOST_PUT_OFF = 600
"""Events in hand at most of what was put off, about: what is new is taken beside them, and waits behind few of them."""

MOST_BYTES = 16 * 1024 * 1024
"""Bytes of records in hand at most."""

_MEASURE_SECONDS = 0.25
_REFILL_SECONDS = 0.25  # another business, in a partition of which nothing is in hand, waits no longer than this
_SOME = 50  # to take less would divide batches into small parts
_KINDS = {
    MESSAGES: ("message", "profile", "call", "handover", "preference"),
    "statuses": ("status",),
    "other": ("error", "change"),
}


class Demand:
    """Of one worker, for these lanes."""

    def __init__(self, dispatcher: Dispatcher, hands: Hands, lanes: Iterable[str]) -> None:
        self._dispatcher = dispatcher
        self._hands = hands
        self._lanes = list(lanes)
        self._ended: Counter[str] = Counter()
        self._rates: Counter[str] = Counter()  # events a second lately, by lane
        self._measured_at = time.monotonic()
        self._refill_at: dict[str, float] = {}
        self._weights = dict.fromkeys(self._lanes, (1.0, 1.0))  # events and records lately, by lane

    def asked(self, rooms: Mapping[str, int]) -> None:
        """So much is asked for: a lane of which there is much in hand does so again after some time."""
        again_at = time.monotonic() + _REFILL_SECONDS
        self._refill_at |= {lane: again_at for lane, room in rooms.items() if room}

    def is_left(self, lanes: Iterable[str]) -> None:
        """Of these lanes more is waiting than may be in hand: no event of them waits for company."""
        self._dispatcher.hurried.clear()
        self._dispatcher.hurried.update(lanes)

    def tries(self) -> list[float]:
        """Of each lane whose handlers all fail, the seconds until one of them is tried again."""
        waits = (self._dispatcher.all_down(*_KINDS[lane]) for lane in self._lanes)
        return [wait for wait in waits if wait is not None]

    def is_paused(self, lane: str) -> bool:
        """True while all handlers of a lane are paused."""
        return self._dispatcher.all_down(*_KINDS[lane]) == math.inf

    def rooms(self) -> dict[str, int]:
        """How many records of each lane to take: what can begin soon, within what may be in hand."""
        self._measure()
        size = sum(one.state.size for one in self._hands.batches)
        return {lane: self._room(lane) if size < MOST_BYTES else 0 for lane in self._lanes}

    def put_off_parts(self) -> int:
        """How many parts of what was put off to take."""
        in_hand = sum(one.state.undone for one in self._hands.batches if one.state.batch.startswith(PUT_OFF))
        return max(0, MOST_PUT_OFF - in_hand) // PUT_OFF_PART

    def is_more_than_soon(self, lane: str) -> bool:
        """True when events of a lane wait here for longer than a second."""
        return self._dispatcher.is_full and self._dispatcher.ready(lane) > self._rates[lane] * SOON_SECONDS

    def most(self, lane: str) -> int:
        """How many events of one batch may be in hand at once: more of them could not begin soon."""
        return max(MOST_READY, self._rates[lane])

    def weigh(self, lane: str, records: int, events: int) -> None:
        """A batch was taken that has so many. A notification may hold a thousand events, and there is room for so many
        events.
        """
        before, of = self._weights[lane]
        self._weights[lane] = before / 2 + events, of / 2 + records

    def _room(self, lane: str) -> int:
        """How many records of a lane to take."""
        events = self._events(lane)
        in_records, records = self._weights[lane]
        return math.ceil(events * min(1.0, records / max(1.0, in_records)))

    def _events(self, lane: str) -> int:
        if (wait := self._dispatcher.all_down(*_KINDS[lane])) is not None:
            return 0 if wait else 1
        ahead = self._ahead(lane)
        ready = self._dispatcher.ready(lane)
        in_hand = sum(len(hand.source.waiting) for hand in self._hands if hand.lane == lane)
        room = min(MOST_READY, self._dispatcher.free(*_KINDS[lane]) + ahead) - ready
        room = max(0, min(room, MOST_IN_HAND - in_hand))
        has_enough = ready > ahead // 2 or in_hand > MOST_IN_HAND // 2  # much of that may wait for a handler's rate
        if has_enough and (room < _SOME or time.monotonic() < self._refill_at.get(lane, 0.0)):
            return 0
        return room

    def _ahead(self, lane: str) -> int:
        """How many events of a lane may wait for a slot here."""
        return max(round(self._rates[lane] * SOON_SECONDS), LEAST_MESSAGES if lane == MESSAGES else 0)

    def _measure(self) -> None:
        now = time.monotonic()
        seconds = now - self._measured_at
        if seconds < _MEASURE_SECONDS:
            return
        for lane in self._lanes:
            rate = (self._dispatcher.ended[lane] - self._ended[lane]) / seconds
            self._rates[lane] = round(rate if rate > self._rates[lane] else (self._rates[lane] + rate) / 2)
        self._ended = self._dispatcher.ended.copy()
        self._measured_at = now
