"""What a receiver process refuses: counted for `ingest.state.refusals`, and a line in the log now and then."""

from __future__ import annotations

import math
import time
from collections import Counter

from ingest.http.answers import Refused
from ingest.loggers import get_logger
from ingest.state.refusals import ACCEPTED, CAUSES

log = get_logger(__name__)

_SECONDS = 60.0
"""Between two lines of a cause."""


class Refusals:
    """Counts; `accepted` is how many requests were answered 200."""

    def __init__(self) -> None:
        self.accepted = 0
        self._counts = Counter[str]()
        self._unsaid = Counter[str]()
        self._said: dict[str, float] = {}

    def note(self, refusal: Refused) -> None:
        """Count a refusal and log the first of its cause; later how many came, once a minute at most."""
        cause = refusal.because
        if cause not in CAUSES:
            return
        self._counts[cause] += 1
        self._unsaid[cause] += 1
        now = time.monotonic()
        if now - self._said.get(cause, -math.inf) >= _SECONDS:
            self._said[cause] = now
            log.warning(
                "requests refused",
                reason=cause,
                status=refusal.status,
                count=self._unsaid.pop(cause),
                what=CAUSES[cause].text,
                remedy=CAUSES[cause].remedy,
            )

    def take(self) -> dict[str, int]:
        """What was counted since the last call."""
        counts = +Counter({**self._counts, ACCEPTED: self.accepted})
        self._counts.clear()
        self.accepted = 0
        return dict(counts)
