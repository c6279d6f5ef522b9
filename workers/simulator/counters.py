"""The result of a run: counts, times, and whether the receiver is as fast as the senders demand."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

MEDIAN_SECONDS = 0.25
SLOW_SECONDS, SLOW_SHARE = 1.0, 0.01

_SMALLEST = 1e-5
_GROWTH = math.log(1.01)  # neighbouring buckets are one per cent apart


class Latencies:
    """Times of any number of answers in at most about two thousand counters, exact to one per cent."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.slow = 0
        """How many took longer than SLOW_SECONDS."""
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[max(0, math.ceil(math.log(max(seconds, _SMALLEST) / _SMALLEST) / _GROWTH))] += 1
        self.count += 1
        self.slow += seconds > SLOW_SECONDS
        self.longest = max(self.longest, seconds)

    def quantile(self, share: float) -> float | None:
        """Seconds within which that share (0 to 1) of them came; None when there are none."""
        rank, seen = math.ceil(share * self.count), 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return min(_SMALLEST * math.exp(bucket * _GROWTH), self.longest)
        return None


@dataclass
class Tally:
    """Counts of a run; they may be looked at while it goes on."""

    sent: int = 0
    """Notifications posted at least once."""
    first: int = 0
    """Of these, acknowledged (200) at the first try."""
    acknowledged: int = 0
    retried: int = 0
    """Of these, not acknowledged at the first try, however they ended."""
    given_up: int = 0
    duplicates: int = 0
    """Posted and acknowledged a second time."""
    posts: int = 0
    """Requests that ended, retries and duplicates too."""
    waiting: int = 0
    """Failed, or to be posted a second time, and not due yet."""
    began: float = 0.0
    """When the first one was posted, in seconds since the epoch."""
    seconds: float = 0.0
    """From the first post to the end."""
    stopped: bool = False
    answers: Counter[str] = field(default_factory=Counter)
    """How requests ended: a status such as `200`, or one of `workers.simulator.sender.REFUSALS`."""
    latencies: Latencies = field(default_factory=Latencies)
    """Of all that were answered or timed out; with a rate, from the moment each was due."""

    @property
    def unacknowledged(self) -> int:
        """Neither acknowledged nor given up: what a stop left."""
        return self.sent - self.acknowledged - self.given_up

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.posts / self.seconds if self.seconds else 0.0

    @property
    def over_1s(self) -> float:
        """The share of answers that took longer than a second."""
        return self.latencies.slow / self.latencies.count if self.latencies.count else 0.0

    @property
    def fast_enough(self) -> bool | None:
        """The senders' rule: a median of at most 250 ms, less than 1 % over 1 s. None: nothing was acknowledged.

        Source: "throughput" in the Cloud API documentation.
        """
        median = self.latencies.quantile(0.5)
        return (
            None if median is None or not self.acknowledged else median <= MEDIAN_SECONDS and self.over_1s < SLOW_SHARE
        )
