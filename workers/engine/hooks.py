"""Hooks around a batch's events while they are dispatched, one idea per class.

Each is an `Account` that wraps another one, and passes on what does not concern it.
"""

from __future__ import annotations

from ingest.loggers import get_logger
from workers.dispatch.event_context import EventContext
from workers.dispatch.outcomes import Outcome
from workers.dispatch.ready import Account
from workers.engine.batch_state import BatchState
from workers.engine.caps import Caps
from workers.events import Event, Status
from workers.places import named

log = get_logger(__name__)

SUPERSEDED = Outcome("superseded")
LOST = Outcome("lost")
DUPLICATE = Outcome("duplicate")


class InContext:
    """Log lines and spans name the event in work. The innermost account: it notes in the batch how each event ended."""

    def __init__(self, opened: BatchState, context: EventContext) -> None:
        self._opened = opened
        self._context = context
        self.put_off = context.leave
        self.finish = self._finish_with_span if context.has_spans else opened.finish
        self.done_before = opened.done_before
        self.order = opened.order

    def admit(self, event: Event) -> Outcome | None:
        if self._opened.lost:
            return LOST
        self._context.begin(event)
        return None

    def _finish_with_span(self, index: int, event: Event, outcome: Outcome, now: float) -> None:
        try:
            self._context.end(event, outcome)
        except Exception as error:  # a span that cannot be told is no reason to do the event's work again
            log.error("a span cannot be ended", error=named(error))
        self._opened.finish(index, event, outcome, now)


class Capped:
    """A capped lane keeps to its rate: each event that begins takes a token."""

    def __init__(self, account: Account, lane: str, caps: Caps) -> None:
        self._account = account
        self._lane = lane
        self._caps = caps
        self.finish = account.finish
        self.done_before = account.done_before
        self.order = account.order

    def admit(self, event: Event) -> Outcome | None:
        self._caps.use(self._lane, 1)
        return self._account.admit(event)

    def put_off(self, event: Event) -> None:
        self._account.put_off(event)
        self._caps.use(self._lane, -1)


class StatusOrder:
    """WA_STATUS_ORDER: a status that comes after a later stage of its message is marked, or dropped."""

    def __init__(self, account: Account, opened: BatchState, drops: bool) -> None:
        self._account = account
        self._opened = opened
        self._drops = drops
        self.put_off = account.put_off
        self.finish = account.finish
        self.done_before = account.done_before
        self.order = account.order

    def admit(self, event: Event) -> Outcome | None:
        if isinstance(event, Status) and self._opened.is_superseded(event):
            event.superseded = True
            if self._drops:
                return SUPERSEDED
        return self._account.admit(event)
