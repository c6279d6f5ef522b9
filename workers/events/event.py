"""What all events have in common.

An event costs next to nothing until it is read: it keeps the parsed element, the notification around it, and
no copies. Every property reads from `raw` when asked. What the sender left out, or sent in a JSON type that
makes no sense there, is None; reading never raises. Treat `raw` as read-only: a retry is written from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

from ingest.store.records import notification_id
from workers.events.envelope import Envelope
from workers.events.values import EPOCH, JsonObject, moment, text

# What may stand in a repr: a word such as `text` or `failed`, or a code. If a sender puts a name or a number
# there by mistake, it is not quoted.
_PLAIN = re.compile(r"[A-Za-z_]{1,64}|[0-9]{1,7}")


class Event:
    """What all events have in common."""

    __slots__ = ("_envelope", "raw")

    kind: ClassVar[Literal["message", "status", "error", "change", "profile", "call", "handover", "preference"]]
    """What sort of event this is; it never changes for a class."""

    _array: ClassVar[str]
    """Where in a value its element stands."""

    _way: str = ""
    """Of a message `in` or `out`, of one in the history with HISTORY before it: handlers of messages ask for some."""

    raw: JsonObject
    """The element as parsed, unknown keys kept: of `messages`, `statuses`, `errors`, `calls`, … or `changes`."""

    def __init__(self, raw: JsonObject, envelope: Envelope) -> None:
        self.raw = raw
        self._envelope = envelope

    @property
    def id(self) -> str | None:
        """The sender's id; errors and changes have none. Personal: a number can be read from it."""
        return text(self.raw, "id")

    @property
    def timestamp(self) -> datetime | None:
        """When it happened, by the sender's clock: aware, UTC, whole seconds."""
        return moment(self.raw, "timestamp")

    @property
    def received_at(self) -> datetime:
        """When the notification arrived: aware, UTC, milliseconds. Retries do not change it."""
        return EPOCH + timedelta(milliseconds=self._envelope.notification.received_ms)

    @property
    def received_ms(self) -> int:
        """`received_at` as epoch milliseconds."""
        return self._envelope.notification.received_ms

    @property
    def notification(self) -> str:
        """The id of the notification that it came with, 32 hex digits: the same in log lines, dead letters and traces.

        Retries do not change it. Nothing personal can be read from it.
        """
        return notification_id(self._envelope.notification.received_ms, self.body_digest)

    @property
    def body_digest(self) -> bytes:
        """The second half of that id, 8 bytes."""
        return self._envelope.notification.body_digest

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._envelope.notification.attempt

    @property
    def source(self) -> Literal["onprem", "cloud"]:
        """The form of the notification: On-Premises (a bare object) or Cloud (`entry` and `changes`)."""
        return "onprem" if self._envelope.change is None else "cloud"

    @property
    def account(self) -> str | None:
        """The WhatsApp business account (WABA), the entry's id; None On-Premises."""
        return text(self._envelope.entry or {}, "id")

    @property
    def time(self) -> datetime | None:
        """The entry's time, where the sender gives one: aware, UTC, whole seconds."""
        return moment(self._envelope.entry or {}, "time")

    @property
    def business(self) -> str | None:
        """The business phone number's id (Cloud: `metadata.phone_number_id`); None On-Premises."""
        return self._envelope.business

    @property
    def display_number(self) -> str | None:
        """The business phone number as the notification shows it (Cloud: `metadata.display_phone_number`)."""
        return self._envelope.display or None

    @property
    def envelope(self) -> Mapping[str, Any]:
        """What surrounds the element in the notification, read-only: the keys of body, entry, change and value in one,
        without what holds events. What relays add is here, and Meta's `conversation_context`. Of what is longer than
        4 kB a retry has nothing, and of `contacts` its own only.
        """
        return self._envelope.surroundings

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's headers that WA_KEEP_HEADERS names, read-only; names are in lower case, several values of one
        are joined by a comma. Empty when none were kept.
        """
        return self._envelope.notification.headers

    @property
    def order_key(self) -> str | None:
        """Events with the same key are handled one after another; None: in any order. Personal data."""
        return None

    @property
    def _element(self) -> tuple[str, Any] | None:
        """Its element and the array of the value that it stands in. None when it cannot stand beside others there."""
        return (self._array, self.raw) if type(self).body is Event.body else None

    def body(self) -> bytes:
        """A notification in the sender's own form that holds this event alone, with its contact.

        Parsing it gives this event again. Retries and dead letters are kept in this form.
        """
        return self._envelope.around(self._array, [self.raw], self._contact())

    @property
    def subject(self) -> str | None:
        """What handlers select by: a message's type, a status's status, a change's field, a call's event, what a
        handover or a preference is; an error's code. Of a payment's status: `payment`."""
        raise NotImplementedError

    @property
    def field(self) -> str | None:
        """The field of the Cloud change that it came in: `messages`, `calls`, …; None On-Premises."""
        return text(self._envelope.change or {}, "field")

    def _alone(self) -> JsonObject:
        """The Cloud change that it came in, with this event alone."""
        return self._envelope.change_of(self._array, [self.raw], self._contact())

    def _contact(self) -> JsonObject | None:
        """The element of `contacts` to keep with it."""
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {label_of(self)}>"


def label_of(event: Event) -> str:
    """The subject, if it is a word or a code as senders use them; else `?`. Nothing personal."""
    label = event.subject or ""
    return label if _PLAIN.fullmatch(label) else "?"
