"""Typed events, made from the bytes of a notification."""

from workers.events.broken import Broken
from workers.events.call import Call
from workers.events.change import Change
from workers.events.content import Card, OrderItem, Phone, Place, Referral
from workers.events.error import Error
from workers.events.event import Event
from workers.events.handover import Handover
from workers.events.message import Message
from workers.events.preference import Preference
from workers.events.profile import Profile
from workers.events.status import Status
from workers.events.values import Conversation, Fault, Media, Payment, Pricing

__all__ = [
    "Broken",
    "Call",
    "Card",
    "Change",
    "Conversation",
    "Error",
    "Event",
    "Fault",
    "Handover",
    "Media",
    "Message",
    "OrderItem",
    "Payment",
    "Phone",
    "Place",
    "Preference",
    "Pricing",
    "Profile",
    "Referral",
    "Status",
]
