"""Batches in hand: what a worker has taken and not yet settled."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ingest.store.queues import lane_of
from workers.dispatch.ready import Account, Source
from workers.engine import claims, settle
from workers.engine.batch_state import BatchState
from workers.engine.profiles import Asked
from workers.events import Event


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


class Open:
    """A batch in hand."""

    def __init__(self, state: BatchState, hand: Hand) -> None:
        self.state = state
        self.hand = hand
        self.settled_at = time.monotonic()
        self.asked: Asked | None = None
        self.account: Account  # set once the claims are known
        self.busy: list[tuple[int, Event, claims.Claim]] = []


class Part(NamedTuple):
    """What is settled of a batch in hand."""

    one: Open
    settled: settle.Part


Todo = tuple[int, Event, claims.Claim | None]


def going_back(hand: Hand) -> list[tuple[Open, str]]:
    """All batches of a queue go back. The youngest first: each goes to the front."""
    return [(one, "end" if one.state.all_done else "back") for one in reversed(hand.batches)]


def batches(hands: Mapping[str, Hand]) -> Iterator[Open]:
    """All of them."""
    return (one for hand in hands.values() for one in hand.batches)
