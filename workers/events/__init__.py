"""Typed events, made from the bytes of a notification."""

from workers.events.types import Broken, Change, Error, Event, Message, Profile, Status

__all__ = ["Broken", "Change", "Error", "Event", "Message", "Profile", "Status"]
