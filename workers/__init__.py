"""Everything behind Redis. What your handlers module imports is here."""

from workers.dispatch.outcomes import HandlerTimeout
from workers.events import (
    Broken,
    Change,
    Conversation,
    Error,
    Event,
    Fault,
    Media,
    Message,
    Pricing,
    Profile,
    Status,
)
from workers.handlers import Discard, Handlers, Reject, RetryIn, Snooze

__all__ = [
    "Broken",
    "Change",
    "Conversation",
    "Discard",
    "Error",
    "Event",
    "Fault",
    "HandlerTimeout",
    "Handlers",
    "Media",
    "Message",
    "Pricing",
    "Profile",
    "Reject",
    "RetryIn",
    "Snooze",
    "Status",
]
