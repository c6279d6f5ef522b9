"""Of which contact an event is."""

from __future__ import annotations

from workers.events.broken import Broken
from workers.events.chat import ChatEvent
from workers.events.event import Event
from workers.events.status import Status


def contact_of(event: Event) -> str | None:
    """The number of an event's contact, else an id; None when it has no contact."""
    if isinstance(event, ChatEvent):
        return event.contact_id
    return event.recipient if isinstance(event, Status) else None


def names_of(event: Event | Broken) -> set[str | None]:
    """All that an event calls its contact: number and user ids. Empty when it has none."""
    if isinstance(event, ChatEvent):
        return {event.contact_id, event.wa_id, event.user_id, event.parent_user_id}
    if isinstance(event, Status):
        return {event.recipient, event.recipient_user_id, event.participant, event.participant_user_id}
    return set()
