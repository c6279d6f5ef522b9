"""What handlers raise to say what is to become of an event, and what is raised when they are registered wrongly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from workers.events import Event

AnEvent = TypeVar("AnEvent", bound=Event)


class Discard(Exception):
    """Raised by a handler: drop this event, it needs no other try. The text says why."""


class Reject(Exception):
    """Raised by a handler: make this event a dead letter at once (`rejected`). The text says why."""


class _Later(Exception):
    """Says when this event is tried again."""

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            raise ValueError(f"{type(self).__name__} takes seconds, 0 or more, and not for ever")
        super().__init__(seconds)
        self.seconds = float(seconds)


class RetryIn(_Later):
    """Raised by a handler: try this event again in so many seconds. It counts as an attempt."""


class Snooze(_Later):
    """Raised by a handler: call me again for this event in so many seconds (a 429 with Retry-After). It is no failure
    and counts as no attempt; an event may be snoozed again and again, until it is older than WA_MAX_AGE.
    """


class PartialFailure(Exception):
    """Raised by a bulk handler: these events of its list failed, each with its error; the others are handled.

    What an error means is what it would mean if a handler of that event alone had raised it: an exception has the event
    tried again, and so do RetryIn and Snooze; Discard and Reject end it.
    """

    def __init__(self, errors: Mapping[AnEvent, BaseException]) -> None:
        if not isinstance(errors, Mapping) or not all(isinstance(each, BaseException) for each in errors.values()):
            raise TypeError("PartialFailure takes a dict of events and exceptions, such as {status: RetryIn(60)}")
        super().__init__(f"{len(errors)} events of the list failed")
        self.errors: Mapping[Any, BaseException] = dict(errors)


class DestinationError(Exception):
    """Raised by a destination. Its text may quote an answer; `told` may be logged."""

    def __init__(self, told: str, text: str = "") -> None:
        Exception.__init__(self, text or told)
        self.told = told


class Unreachable(DestinationError):
    """Raised by a destination that cannot be reached: what is for it waits, which uses up no try, for some seconds."""

    def __init__(self, told: str, text: str = "", seconds: float = 1.0) -> None:
        super().__init__(told, text)
        self.seconds = seconds


class HandlersError(Exception):
    """WA_HANDLERS names something that is no registry, or a handler is registered wrongly. The message is one line with
    the remedy.
    """


class WrongType(HandlersError, TypeError):
    """A decorator was given something of the wrong type."""


class WrongValue(HandlersError, ValueError):
    """A decorator was given something that means nothing."""
