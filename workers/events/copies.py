"""What makes an event a copy of another one: what lasts of it.

Senders repeat a notification byte for byte, relays do not: their counters move, Meta signs the address of a picture
again, ids are added while they are introduced, a contact's profile is another by then. None of that makes another
message. The id alone would not do: samples, dashboards and mocks use an id again with other content.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from workers.events.chat import ChatEvent
from workers.events.envelope import write_json
from workers.events.event import Event
from workers.events.message import MEDIA
from workers.events.status import Status
from workers.events.values import JsonObject

_WHO = frozenset(
    {
        *("from", "from_user_id", "from_bsuid", "from_parent_user_id"),
        *("to", "to_user_id", "to_parent_user_id"),
        *("identity", "_vnd"),
    }
)
"""Keys of a message that name the contact, or say what is so at the moment."""

_RECIPIENT = frozenset(
    {
        *("recipient_user_id", "parent_recipient_user_id", "recipient_parent_user_id", "parent_user_id"),
        *("recipient_participant_user_id", "recipient_participant_parent_user_id", "recipient_identity_key_hash"),
    }
)
"""Keys of a status that may be added to the number that is there."""

_WITH_MEDIA = frozenset({*MEDIA, "edit", "message"})
"""Keys under which the addresses of media may stand."""

_NOT_CONTENT = _WHO | _WITH_MEDIA

_SIGNED = frozenset({"url", "link"})
_LEVELS = 4  # at which media stand: in an edit, `edit.message.image`


_LONGEST = 64


def short(name: str | None) -> str | None:
    """The id of a business or an account, as much of it as an id has: thousands of events may share an endless one."""
    return name and name[:_LONGEST]


def lasting(event: Event) -> tuple[Any, ...]:
    """What an event has in common with its copies: its kind, business number, contact and content; that there is a
    profile of the contact, or an address of a picture, but not what it says."""
    raw = event.raw
    if isinstance(event, ChatEvent):
        content = raw.copy()
        content.pop("from", None)
        if not _NOT_CONTENT.isdisjoint(content):  # most messages name a number alone, and have no media
            content = {key: value for key, value in content.items() if key not in _WHO}
            if not _WITH_MEDIA.isdisjoint(raw):
                content = _content(content, _LEVELS)
        business = event._envelope.business  # as `event.business` of these
        contact_id = event.contact_id
        return event.kind, business and business[:_LONGEST], contact_id, _has_contact(event, contact_id), content
    if isinstance(event, Status):
        if "recipient_id" in raw and not _RECIPIENT.isdisjoint(raw):
            raw = {key: value for key, value in raw.items() if key not in _RECIPIENT}
        business = event._envelope.business
        return event.kind, business and business[:_LONGEST], event.contact is not None, raw
    return event.kind, short(event.business), raw


def identity_of(event: Event) -> str:
    """32 hex digits that are the same for an event, its copies and its retries, and others for any other event."""
    return blake2b(write_json([*lasting(event)]), digest_size=16).hexdigest()


def _has_contact(event: ChatEvent, contact_id: str | None) -> bool:
    contacts = event._envelope.value.get("contacts")
    if type(contacts) is list and len(contacts) == 1 and type(lone := contacts[0]) is dict:
        number = lone.get("wa_id")
        # Nearly always. A user id may be of digits, too, and then it is nobody's number.
        if number == contact_id == event.raw.get("from") and type(number) is str and number.isdigit():
            return True
    return event.contact is not None


def _content(table: JsonObject, levels: int) -> JsonObject:
    """Without what the addresses of media are."""
    if levels == 0 or not any(isinstance(value, dict) for value in table.values()):
        return _unsigned(table)
    return {
        key: _content(value, levels - 1) if isinstance(value, dict) else value
        for key, value in _unsigned(table).items()
    }


def _unsigned(table: JsonObject) -> JsonObject:
    if "mime_type" in table or "sha256" in table:
        return {key: "" if key in _SIGNED else value for key, value in table.items()}
    return table
