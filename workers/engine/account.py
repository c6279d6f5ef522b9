"""What the events of a batch report to while they are dispatched."""

from __future__ import annotations

from ingest.loggers import get_logger
from workers.dispatch.event_context import EventContext
from workers.dispatch.outcomes import Outcome
from workers.engine.batch_state import BatchState
from workers.engine.caps import Caps
from workers.events import Event, Status
from workers.places import named

log = get_logger(__name__)

SUPERSEDED = Outcome("superseded")
LOST = Outcome("lost")
DUPLICATE = Outcome("duplicate")


class BatchAccount:
    """The `Account` of one batch: which of its events may begin, and how each of them ended.

    A status that comes after a later stage of its message is marked, or with `drops` not handled (WA_STATUS_ORDER).
    Each event that begins takes a token of its `lane`, if that is capped. Log lines and spans name the event in work.
    """

    def __init__(self, state: BatchState, lane: str, context: EventContext, caps: Caps, drops: bool) -> None:
        self._state = state
        self._lane = lane
        self._context = context
        self._caps = caps
        self._drops = drops
        self.finish = self._finish_with_span if context.has_spans else state.finish
        self.done_before = state.done_before
        self.order = state.order

    def admit(self, event: Event) -> Outcome | None:
        if self._state.lost:
            return LOST
        if isinstance(event, Status) and self._state.is_superseded(event):
            event.superseded = True
            if self._drops:
                return SUPERSEDED
        if self._lane in self._caps.lanes:
            self._caps.use(self._lane, 1)
        self._context.begin(event)
        return None

    def put_off(self, event: Event) -> None:
        self._context.leave(event)
        self._caps.use(self._lane, -1)

    def _finish_with_span(self, index: int, event: Event, outcome: Outcome, now: float) -> None:
        try:
            self._context.end(event, outcome)
        except Exception as error:  # a span that cannot be told is no reason to do the event's work again
            log.error("a span cannot be ended", error=named(error))
        self._state.finish(index, event, outcome, now)
