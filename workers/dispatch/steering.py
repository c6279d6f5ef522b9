"""What an operator says of handlers (`wa-ingest pause --handler`, `limit --handler`), as this process last read it."""

from __future__ import annotations

from ingest.state.controls import Controls


class Steering:
    """By name: `paused` handlers are not called; `limits`: the events per second that all workers may give to one."""

    def __init__(self) -> None:
        self.paused: frozenset[str] = frozenset()
        self.limits: dict[str, float] = {}

    def learn(self, now: Controls) -> bool:
        """True when a handler that was paused may be called again."""
        before, self.paused, self.limits = self.paused, frozenset(now.paused), now.limits
        return bool(before - self.paused)

    @property
    def is_used(self) -> bool:
        """True while something is paused or limited."""
        return bool(self.paused or self.limits)
