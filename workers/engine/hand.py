"""Batches in hand: what a worker has taken and not yet settled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator
from typing import NamedTuple

from ingest.store.queues import MESSAGES, Member, lane_of
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.ready import Account, Source
from workers.engine import claims
from workers.engine.batch_state import BatchState
from workers.engine.profiles import Asked
from workers.engine.results import Results
from workers.events import Event, Message

BUSY_SECONDS = 0.05
"""Until a status asks again whose message another batch has in work."""

_RELEASE_SECONDS = 10.0  # a partition that others want is kept after all if its handlers take longer


class Taken(NamedTuple):
    """A batch as take.lua gives it."""

    queue: str
    batch: str
    token: str
    records: list[bytes]
    tokens: int


class Hand:
    """A queue of which there are batches in hand, the oldest first."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.lane = lane_of(queue)
        self.source = Source(self.lane)
        self.batches: list[Open] = []
        self.release_at: float | None = None  # since when it is to go back
        self.paused = False
        self.is_crowded = False  # one of the batches has too many events: it goes back divided, with those after it


class Open:
    """A batch in hand. One that is not opened goes back as it is, or divided."""

    def __init__(self, state: BatchState, hand: Hand, is_opened: bool) -> None:
        self.state = state
        self.is_opened = is_opened
        self.hand = hand
        self.settled_at = time.monotonic()
        self.is_large = False  # all is done, but was too much for one settle
        self.asked: Asked | None = None
        self.account: Account  # set once the claims are known
        self.due_ms = Member(state.queue, state.batch).due_ms(time.time() * 1000)
        self.busy: list[tuple[int, Event, claims.Claim]] = []
        self.copies: list[tuple[int, Message, claims.Claim]] = []  # that may bring news of their contact


class Part(NamedTuple):
    """What is settled of a batch in hand. `how`: more, end or back, see settle.lua."""

    one: Open
    results: Results
    how: str


Todo = tuple[int, Event, claims.Claim]


class Hands:
    """What one worker has in hand: what it was `given`, what RQ has `admitted`, and the open batches of each queue."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._by_queue: dict[str, Hand] = {}
        self.given: deque[Taken] = deque()
        self.admitted: list[Taken] = []

    def __iter__(self) -> Iterator[Hand]:
        return iter(list(self._by_queue.values()))

    def __bool__(self) -> bool:
        return bool(self._by_queue or self.admitted or self.given)

    def get(self, queue: str) -> Hand | None:
        """The open batches of a queue, if there are some."""
        return self._by_queue.get(queue)

    def of(self, queue: str) -> Hand:
        """The open batches of a queue, to which one is added."""
        hand = self._by_queue.get(queue)
        if hand is None:
            hand = self._by_queue[queue] = Hand(queue)
        return hand

    def leaves(self, one: Open) -> None:
        """The batch is not in hand any more."""
        one.hand.batches.remove(one)
        if not one.hand.batches:
            del self._by_queue[one.hand.queue]

    @property
    def batches(self) -> Iterator[Open]:
        """All open ones."""
        return (one for hand in self._by_queue.values() for one in hand.batches)

    @property
    def lanes(self) -> set[str]:
        """The lanes of the open ones."""
        return {hand.lane for hand in self._by_queue.values()}

    def give_back(self, lanes: Collection[str]) -> None:
        """Begin nothing more of these lanes, and give back what is in hand."""
        for hand in self._by_queue.values() if lanes else ():
            if hand.lane in lanes and not hand.paused:
                hand.source.open, hand.release_at, hand.paused = False, time.monotonic(), True

    def share(self, count: int) -> None:
        """Others have nothing to do: give them partitions of which events wait for a slot here."""
        if count <= 0 or not self._dispatcher.is_full:
            return
        hands = [hand for hand in self._by_queue.values() if hand.lane == MESSAGES and hand.release_at is None]
        for hand in sorted(hands, key=lambda one: one.source.in_flight)[:count]:
            hand.source.open, hand.release_at = False, time.monotonic()

    def keep_what_takes_long(self) -> None:
        """A partition is not given away after all while an event of it goes on and on: others of it would wait."""
        for hand in self._by_queue.values():
            if hand.release_at is None or hand.paused or time.monotonic() - hand.release_at < _RELEASE_SECONDS:
                continue
            hand.release_at = None
            self._dispatcher.reopen(hand.source)


def told_first(hand: Hand) -> list[tuple[Open, str]]:
    """Batches with events that wait in a strict order, the oldest first: Redis keeps them as it hears of them."""
    return [(one, "more") for one in hand.batches if one.state.untold]


def dividing(hand: Hand) -> list[tuple[Open, str]]:
    """What is not opened goes back, the youngest first: of a partition that is crowded."""
    return [(one, "back") for one in reversed(hand.batches) if not one.is_opened]


def going_back(hand: Hand) -> list[tuple[Open, str]]:
    """All batches of a queue go back. The youngest first: each goes to the front."""
    return [(one, "end" if one.state.all_done else "back") for one in reversed(hand.batches)]
