"""Caps of lanes (`wa-ingest limit`): how many events of each this process may still begin."""

from __future__ import annotations

import time
from collections.abc import Collection

from redis.exceptions import RedisError

from ingest.store import keys
from ingest.store.constants import TOKENS_SECONDS
from workers.dispatch.rate_limits import Buckets, Granted

_SOON = 1.0  # seconds
_MOST = 100


class Caps:
    """The tokens of this process. Lanes without a token are `closed`, which the dispatcher looks at."""

    def __init__(self, buckets: Buckets, closed: set[str]) -> None:
        self._buckets = buckets
        self._closed = closed
        self._tokens: dict[str, int] = {}  # of capped lanes
        self.lanes = self._tokens.keys()
        """Those that have a cap now."""
        self._ask_at: dict[str, float] = {}

    def use(self, lane: str, count: int) -> None:
        """An event of the lane begins (1), or has not begun after all (-1)."""
        if lane in self._tokens:
            self._set(lane, self._tokens[lane] - count)

    def grant(self, lane: str, tokens: int) -> None:
        """What take.lua gave with a batch; -1: the lane has no cap."""
        if tokens < 0:
            self._open(lane)
        else:
            self._set(lane, self._tokens.get(lane, 0) + tokens)

    def learn(self, lanes: Collection[str], capped: Collection[str]) -> None:
        """What settle.lua says of these lanes."""
        for lane in lanes:
            if lane not in capped:
                self._open(lane)
            elif lane not in self._tokens:
                self._set(lane, 0)

    def renew(self, lanes: Collection[str]) -> float | None:
        """Exchange tokens of these lanes that were not used in time, or used up. Returns seconds until the next time.

        Old tokens would come on top of what other workers get now.
        """
        now = time.monotonic()
        for lane in [lane for lane in self._tokens if lane in lanes and now >= self._ask_at.get(lane, 0.0)]:
            try:
                granted = self._buckets.exchange(keys.CONTROLS, lane, unused=self._tokens[lane])
            except (RedisError, OSError):  # away: nothing of it begins meanwhile
                granted = Granted(0, 1.0)
            self._ask_at[lane] = now + (granted.wait or TOKENS_SECONDS)
            if granted.tokens is None:
                self._open(lane)
            else:
                self._set(lane, granted.tokens)
        waits = [self._ask_at.get(lane, now) - now for lane in self._tokens if lane in lanes]
        return max(0.0, min(waits)) if waits else None

    def most(self, lane: str) -> int | None:
        """How many events of one batch may be in hand: what waits for a token may have to go back. None: no cap."""
        return _MOST if lane in self._tokens else None

    def waits_long(self) -> set[str]:
        """Lanes that get no token within a second."""
        soon = time.monotonic() + _SOON
        return {lane for lane, tokens in self._tokens.items() if tokens <= 0 and self._ask_at.get(lane, 0.0) > soon}

    def give_back(self, lanes: Collection[str]) -> dict[str, int]:
        """The tokens of these lanes, which go back to Redis with the next settle."""
        unused = {lane: self._tokens.pop(lane) for lane in list(self._tokens) if lane in lanes}
        for lane in unused:
            self._open(lane)
        return {lane: tokens for lane, tokens in unused.items() if tokens > 0}

    def _set(self, lane: str, tokens: int) -> None:
        self._tokens[lane] = tokens
        if tokens > 0:
            self._closed.discard(lane)
        else:
            self._closed.add(lane)

    def _open(self, lane: str) -> None:
        self._tokens.pop(lane, None)
        self._ask_at.pop(lane, None)
        self._closed.discard(lane)
