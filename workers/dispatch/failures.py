"""Telling the functions of `Handlers.on_error` that a handler has failed."""

from __future__ import annotations

from ingest.loggers import get_logger
from workers.dispatch.outcomes import Ended
from workers.events import Event
from workers.places import named

log = get_logger(__name__)


def told(argument: Event, ended: Ended) -> tuple[Event, BaseException | None, int]:
    """What they are called with: event, exception, attempt."""
    return argument, ended.error, argument.attempt


def note(hook: Ended) -> None:
    """One was called: what it raised is logged, and no fault of the event."""
    if hook.error is not None:
        error = named(hook.error)
        log.error("on_error failed", function=hook.handler.name, error=error)
