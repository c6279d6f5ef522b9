"""While an event's handlers run, each log line names the event; with tracing, the event also has a span."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ingest.store.queues import lane_of, partition_number
from ingest.telemetry.logs import in_work
from workers.dispatch.outcomes import Outcome
from workers.events import Event

if TYPE_CHECKING:
    from ingest.telemetry.spans import Attributes, Running, Spans

_running: ContextVar[Running | None] = ContextVar("running", default=None)


class EventContext:
    """For the events of one batch. `begin`, then `end` or `leave`, are called in the context of the handlers."""

    def __init__(self, queue: str, spans: Spans | None) -> None:
        self._lane = lane_of(queue)
        number = partition_number(queue)
        self._partition = "" if number is None else str(number)
        self._spans = spans
        self._fields = self._log_fields

    def begin(self, event: Event) -> None:
        """Its handlers are called next."""
        in_work.set((self._fields, event))
        if self._spans is not None:
            attributes = functools.partial(self._attributes, event)
            _running.set(self._spans.begin(event.notification, f"process {self._lane}", attributes))

    def leave(self) -> None:
        """They are not called now."""
        in_work.set(None)
        if self._spans is not None and (running := _running.get()):
            _running.set(None)
            self._spans.leave(running)

    def end(self, outcome: Outcome) -> None:
        """They have ended, or none of them is called."""
        if self._spans is None:  # nearly always, and for each event
            in_work.set(None)
            return
        running = _running.get()
        self.leave()
        if running is not None and running.span is not None:
            error = "Reject" if outcome.name == "rejected" else outcome.error.partition(" ")[0]
            attributes = {"wa.outcome": outcome.name}
            if outcome.handler:
                attributes["code.function.name"] = outcome.handler
            self._spans.end(running.span, error, attributes)

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
