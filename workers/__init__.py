"""Everything behind Redis. What your handlers module imports is here."""

from workers.events import Change, Error, Message, Profile, Status
from workers.handlers import Discard, Handlers, Reject, RetryIn

__all__ = [
    "Change",
    "Discard",
    "Error",
    "Handlers",
    "Message",
    "Profile",
    "Reject",
    "RetryIn",
    "Status",
]
