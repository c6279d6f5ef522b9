"""Handlers that are not to be called now: their events wait, those of other handlers go on.

Of one that always fails an event is tried from time to time; of one that an operator has paused, none.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from ingest.loggers import get_logger
from workers.dispatch.outcomes import Ended, in_logs
from workers.dispatch.steering import Steering
from workers.events import Event
from workers.handler import Handler
from workers.raised import Unreachable

log = get_logger(__name__)

FAILURES = 10
"""First tries in a row that failed, each of another notification, before a handler counts as broken down: whatever is
wrong with one notification, and however many events it has, the handler goes on for others.
"""

PAUSED_SECONDS = 1.0
"""So long an event of a paused handler waits at least; when the handler is resumed, all are due at once."""

LONGEST_SECONDS = 60.0
"""No longer than this from one try to the next."""


class Breakdown(NamedTuple):
    """A handler that always fails: its last error, when it is tried next, and since when no call has succeeded (both in
    seconds since the epoch).
    """

    handler: str
    error: str
    next_try: float
    since: float


class _State:
    __slots__ = ("asked", "error", "failures", "notification", "since", "tries", "trying", "until")

    def __init__(self) -> None:
        self.failures = self.tries = 0
        self.notification = ""  # of the last one that failed
        self.until = self.since = 0.0
        self.trying = self.asked = False
        self.error = ""


class Breakdowns:
    """What this process knows of its handlers. `tell` gets each breakdown, and the name of a handler that works again.

    It is known by this process alone, so that a process with a new version of the handler tries at once.
    """

    def __init__(self, tell: Callable[[Breakdown | str], None], steering: Steering) -> None:
        self._tell = tell
        self._steering = steering
        self.failing: dict[Handler, _State] = {}
        """Handlers whose last call failed."""
        self.inherited: dict[str, float] = {}
        """Names of those that always failed in the process that this one follows, and since when (seconds since the
        epoch), until they are called here.
        """

    def is_down(self, handler: Handler) -> bool:
        """True while it is paused, or counts as broken down."""
        if handler.name in self._steering.paused:
            return True
        return (state := self.failing.get(handler)) is not None and state.until > 0

    def wait(self, handler: Handler) -> float:
        """Seconds until the next try, 0 when the handler may be called now. That call is the one try, if it fails."""
        if handler.name in self._steering.paused:
            return PAUSED_SECONDS
        state = self.failing.get(handler)
        if state is None or not state.until:
            return 0.0
        left = state.until - time.monotonic()
        if state.trying or left > 0:
            return max(1.0, left)
        state.trying = True
        return 0.0

    def try_now(self, names: Collection[str]) -> None:
        """Call those of these handlers that always fail with the next event, as an operator asks."""
        now = time.monotonic()
        for handler, state in self.failing.items():
            if handler.name in names and state.until:
                state.until, state.asked = min(state.until, now), True

    def put_off(self, handlers: Iterable[Handler]) -> list[Ended]:
        """The single ones among them that have to wait: they always fail, or are paused."""
        waits = [(handler, self.wait(handler)) for handler in handlers if handler.bulk is None]
        return [Ended(handler, waits=seconds) for handler, seconds in waits if seconds]

    def all_down(self, handlers: Iterable[Handler]) -> float | None:
        """Seconds until one of them may be tried, when none of them is to be called; else None. There must be some.

        Not before it is resumed, when all are paused.
        """
        waits = []
        for handler in handlers:
            if handler.name in self._steering.paused:
                waits.append(math.inf)
                continue
            state = self.failing.get(handler)
            if state is None or not state.until:
                return None
            waits.append(1.0 if state.trying else max(0.0, state.until - time.monotonic()))
        return min(waits) if waits else None

    def not_called(self, handler: Handler) -> None:
        """What `wait` allowed did not happen."""
        if (state := self.failing.get(handler)) is not None:
            state.trying = False

    def note(self, call: Ended, event: Event) -> bool:
        """Note how a call ended. True when its failure is that of a broken handler, and no fault of the event."""
        if call.error is None and not self.failing and not self.inherited:  # nearly always
            return False
        state = self.failing.get(call.handler)
        if not call.broke:
            if state is not None:
                del self.failing[call.handler]
            was_down = state is not None and state.until > 0
            if was_down or call.handler.name in self.inherited:
                self.inherited.pop(call.handler.name, None)
                log.info("handler works again", handler=call.handler.name, pid=os.getpid())
                self._tell(call.handler.name)
            return False
        if state is None:
            state = self.failing[call.handler] = _State()
            state.since = self.inherited.get(call.handler.name, time.time())
        if isinstance(call.error, Unreachable):
            if not state.trying and state.until:
                return True
        elif not state.until:
            if event.attempt == 1 and event.notification != state.notification:
                state.failures, state.notification = state.failures + 1, event.notification
            if state.failures < FAILURES:
                return False
        elif not state.trying:
            return True  # it began before the handler was known to be broken
        self._wait_for_next(call, state)
        return True

    def _wait_for_next(self, call: Ended, state: _State) -> None:
        handler = call.handler
        error = call.error
        state.error = in_logs(error)
        if state.asked:  # who asks does not make the next one wait longer
            state.tries, state.asked = state.tries - 1, False
        seconds = error.seconds if isinstance(error, Unreachable) else min(LONGEST_SECONDS, 2.0**state.tries)
        what = "handler still fails"
        if not state.until:
            what = "handler always fails, its events wait"
        log.warning(what, handler=handler.name, error=state.error, next_try_seconds=round(seconds), pid=os.getpid())
        self.inherited.pop(handler.name, None)
        state.tries += 1
        state.trying = False
        state.until = time.monotonic() + seconds
        self._tell(Breakdown(handler.name, state.error, time.time() + seconds, state.since))
