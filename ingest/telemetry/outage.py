"""Logs one line when something that we need goes away, and one when it is back."""

from __future__ import annotations

import time

from ingest.loggers import get_logger

log = get_logger(__name__)


class Outage:
    """Logs `away` with the reason when an outage begins, and `back` with its length when it ends.

    `more` goes into both lines.
    """

    def __init__(self, away: str, back: str, **more: str) -> None:
        self._away = away
        self._back = back
        self._more = more
        self._since: float | None = None

    def report(self, reason: str | None) -> None:
        """What the last attempt showed: why it is away, or None when it is there."""
        if reason is None:
            self.up()
        else:
            self.down(reason)

    def down(self, reason: str) -> None:
        """It is away, for the first time or still."""
        if self._since is None:
            self._since = time.monotonic()
            log.warning(self._away, reason=reason, **self._more)

    def up(self) -> None:
        """It is there, whether it was away or not."""
        if self._since is not None:
            seconds, self._since = time.monotonic() - self._since, None
            log.info(self._back, away_seconds=round(seconds, 1), **self._more)
