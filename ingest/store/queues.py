"""Lanes, the RQ queues of each, and the batches in them, by name (queues.lua has the same for scripts)."""

from __future__ import annotations

import re
from typing import NamedTuple

from ingest.store.constants import SLOTS_PER_SECOND

MESSAGES, STATUSES, OTHER = LANES = ("messages", "statuses", "other")
"""The lanes, most urgent first."""

_PARKED = re.compile(r"[rw](\d+)(?:h([0-9a-f]+))?-")


def queue_names(lane: str, partitions: int) -> list[str]:
    """The RQ queue names of a lane: `messages.0` … for messages, else the lane itself."""
    return [f"{lane}.{n}" for n in range(partitions)] if lane == MESSAGES else [lane]


def lane_of(queue: str) -> str:
    """The lane of an RQ queue name."""
    return queue.partition(".")[0]


def partition_number(queue: str) -> int | None:
    """Which partition of its lane a queue is; None for a lane that has none."""
    number = queue.partition(".")[2]
    return int(number) if number else None


def is_head(batch: str) -> bool:
    """True for a batch that is next in a strict order; its id names the order."""
    return "-o" in batch


class Member(NamedTuple):
    """A batch and its queue. As text, `QUEUE|ID`, it is a member of the ledger."""

    queue: str
    batch: str

    @classmethod
    def parse(cls, text: bytes) -> Member:
        queue, _, batch = text.decode().partition("|")
        return cls(queue, batch)

    def due_ms(self, now_ms: float) -> float:
        """When a batch was due that had been parked for its next try: that is in its name. 0 for others, and for one
        that was made due before that time: it is owed since it arrived.
        """
        found = _PARKED.match(self.batch)
        due_ms = int(found[1]) * 1000 / SLOTS_PER_SECOND if found else 0.0
        return due_ms if due_ms <= now_ms else 0.0

    @property
    def owed(self) -> str:
        """The digest of the handlers that what is tried again here is owed to (`keys.OWED`); empty: not known."""
        found = _PARKED.match(self.batch)
        return (found and found[2]) or ""

    @property
    def is_put_off(self) -> bool:
        """True when its events were not tried: a handler lags, is paused, or always fails."""
        return self.batch.startswith("w")

    def __str__(self) -> str:
        return f"{self.queue}|{self.batch}"
