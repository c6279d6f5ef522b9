"""What an operator says of handlers (`wa-ingest pause --handler`, `limit --handler`, `retry`), as last read."""

from __future__ import annotations

from ingest.state.controls import Controls


class Steering:
    """By name: `paused` handlers are not called; `limits`: the events per second that all workers may give to one."""

    def __init__(self) -> None:
        self.paused: frozenset[str] = frozenset()
        self.limits: dict[str, float] = {}
        self._asked: dict[str, int] = {}

    def learn(self, now: Controls) -> tuple[bool, set[str]]:
        """Whether a handler that was paused may be called again; and those that are to be tried now."""
        before, self.paused, self.limits = self.paused, frozenset(now.paused), now.limits
        asked = {name for name, since in now.asked.items() if since != self._asked.get(name)}
        self._asked = now.asked
        return bool(before - self.paused), asked

    @property
    def is_used(self) -> bool:
        """True while something is paused or limited."""
        return bool(self.paused or self.limits)
