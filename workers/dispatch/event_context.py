"""While an event's handlers run, each log line names the event; with tracing, the event also has a span."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ingest.store.queues import lane_of, partition_number
from ingest.telemetry.logs import in_work
from workers.dispatch.outcomes import Outcome
from workers.events import Event

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from ingest.telemetry.spans import Attributes, Spans


class EventContext:
    """For the events of one batch. `begin`, then `end` or `leave`; what `begin` sets is left with the context."""

    def __init__(self, queue: str, spans: Spans | None) -> None:
        self._lane = lane_of(queue)
        number = partition_number(queue)
        self._partition = "" if number is None else str(number)
        self._spans = spans
        self.has_spans = spans is not None
        self._open: dict[int, Span] = {}  # by id() of the event
        self._fields = self._log_fields

    def begin(self, event: Event) -> None:
        """Its handlers are called next, in this context, which is the event's own."""
        in_work.set((self._fields, event))
        if self._spans is not None:
            attributes = functools.partial(self._attributes, event)
            span = self._spans.begin(event.notification, f"process {self._lane}", attributes)
            if span is not None:
                self._open[id(event)] = span

    def leave(self, event: Event) -> None:
        """They are not called now; what began of its span is not told."""
        self._open.pop(id(event), None)

    def end(self, event: Event, outcome: Outcome) -> None:
        """They have ended, or none of them is called."""
        if self._spans is None or (span := self._open.pop(id(event), None)) is None:
            return
        error = "Reject" if outcome.name == "rejected" else outcome.error.partition(" ")[0]
        if outcome.raised is not None:
            error = type(outcome.raised).__name__
        attributes = {"wa.outcome": outcome.name}
        if outcome.handler:
            attributes["code.function.name"] = outcome.handler
        self._spans.end(span, error, attributes)

    def _log_fields(self, event: Event) -> dict[str, object]:
        return {"notification": event.notification, "lane": self._lane, "attempt": event.attempt}

    def _attributes(self, event: Event) -> Attributes:
        return {
            "messaging.system": "rq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": self._lane,
            "messaging.destination.partition.id": self._partition,
            "messaging.message.id": event.notification,
            "wa.kind": event.kind,
            "wa.attempt": event.attempt,
        }
