"""Typed events, made from the bytes of a notification."""

from workers.events.broken import Broken
from workers.events.change import Change
from workers.events.error import Error
from workers.events.event import Event
from workers.events.message import Message
from workers.events.profile import Profile
from workers.events.status import Status
from workers.events.values import Conversation, Fault, Media, Pricing

__all__ = [
    "Broken",
    "Change",
    "Conversation",
    "Error",
    "Event",
    "Fault",
    "Media",
    "Message",
    "Pricing",
    "Profile",
    "Status",
]
