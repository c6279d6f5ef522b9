"""A Cloud change of a field other than messages, and what nobody knows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ingest import identity
from workers.events.envelope import Envelope
from workers.events.event import Event
from workers.events.message import Historic
from workers.events.profile import Facts, Profile, facts_of_update
from workers.events.values import JsonObject, moment, number, table, tables, text

USER_ID_UPDATE = "user_id_update"
"""The field in which news of a contact comes."""

_TIMES = ("timestamp", "updated_timestamp", "created_timestamp", "category_update_timestamp", "start_time")


class Change(Event):
    """A Cloud change of any field other than `messages`: templates, the account, groups, …; and whatever else is not
    known, wherever it stands.

    Calls, handovers, preferences, echoes, standby and history are events of their own; handlers of changes get each of
    them, too, as a change that holds it alone.

    Source: the field reference in the Cloud webhook documentation, a set that grows.
    """

    __slots__ = ()
    kind = "change"

    @property
    def field(self) -> str | None:
        """`account_update`, …; None where the sender leaves it out. Of what is not known in field `messages`, the key
        at which it stands, such as `user_actions`."""
        return text(self.raw, "field")

    @property
    def value(self) -> Any:
        """What the sender says, as parsed: nearly always an object."""
        return self.raw.get("value")

    @property
    def path(self) -> str:
        """Where it stands in the notification: `entry[].changes[].value`, `entry[].changes[].value.user_actions[]`."""
        return "entry[].changes[].value"

    @property
    def timestamp(self) -> datetime | None:
        """When it happened, as the value or its first element says, else the entry's time: aware, UTC."""
        return next(self._times(), None) or self.time

    @property
    def business(self) -> str | None:
        """The business phone number's id, where the value says it: `metadata`, `recipient` or `phone_number_id`."""
        return self._envelope.business or text(self._object, "phone_number_id")

    @property
    def profile(self) -> Profile | None:
        """The news of a contact in field `user_id_update`; None in any other."""
        return None if self._update is None else Profile(self)

    def _facts(self) -> Facts:
        """What it says of a contact, see `Profile`."""
        update = self._update or {}
        return facts_of_update(update, self._envelope.people.called(identity.of_contact(update)))

    def body(self) -> bytes:
        return self._envelope.around_change(self.raw)

    @property
    def subject(self) -> str | None:
        return self.field

    @property
    def _object(self) -> JsonObject:
        return table(self.raw, "value") or {}

    @property
    def _update(self) -> JsonObject | None:
        if self.field != USER_ID_UPDATE:
            return None
        return next(iter(tables(self._object, USER_ID_UPDATE)), None) or (
            self._object if "user_id" in self._object else None
        )

    def _times(self) -> Iterator[datetime]:
        """What is a time in the value, in its first elements, and in what these say of themselves."""
        value = self._object
        firsts = [item[0] for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        for one in (value, *firsts, *(table(first, "metadata") or {} for first in firsts)):
            for key in _TIMES:
                if number(one, key) is not None and (found := moment(one, key)) is not None:
                    yield found


class Part(Change):
    """A part of a notification that nobody knows: what stands at a key of a value, or one element of that."""

    __slots__ = ("_content", "_key")

    def __init__(self, key: str, content: Any, envelope: Envelope, is_element: bool) -> None:
        super().__init__({"field": key, "value": content}, envelope)
        self._key = key
        self._content = [content] if is_element else content

    @property
    def path(self) -> str:
        around = "" if self._envelope.change is None else "entry[].changes[].value."
        return f"{around}{self._key}{'[]' if isinstance(self._content, list) else ''}"

    @property
    def _element(self) -> tuple[str, Any] | None:
        return (self._key, self._content[0]) if isinstance(self._content, list) else None

    def body(self) -> bytes:
        return self._envelope.around(self._key, self._content)


def field_of(event: Event) -> str | None:
    """The field for which handlers of changes get an event of another kind; None if they do not: what comes in field
    `messages` or in the On-Premises form, and messages in threads of the history, the parts of which are changes.
    """
    envelope = event._envelope
    if envelope.in_messages:
        return None
    if isinstance(event, Historic) and event.thread is not None:
        return None
    return text(envelope.change, "field") or ""


def as_change(event: Event) -> Change | None:
    """The change that an event of another kind came in, with that event alone."""
    return None if field_of(event) is None else Change(event._alone(), event._envelope)
