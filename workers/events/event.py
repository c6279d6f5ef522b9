"""What all events have in common.

An event costs next to nothing until it is read: it keeps the parsed element, the notification around it, and
no copies. Every property reads from `raw` when asked. What the sender left out, or sent in a JSON type that
makes no sense there, is None; reading never raises. Treat `raw` as read-only: a retry is written from it.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import ClassVar, Literal

from ingest.store.records import digest, notification_id
from workers.events.envelope import Envelope
from workers.events.values import EPOCH, JsonObject, moment, text

# What may stand in a repr: a word such as `text` or `failed`, or a code. If a sender puts a name or a number
# there by mistake, it is not quoted.
_PLAIN = re.compile(r"[A-Za-z_]{1,64}|[0-9]{1,7}")


class Event:
    """What all events have in common."""

    __slots__ = ("_envelope", "raw")

    kind: ClassVar[Literal["message", "status", "error", "change", "profile"]]
    """What sort of event this is; it never changes for a class."""

    raw: JsonObject
    """The element as parsed, unknown keys kept: of `messages`, `statuses`, `errors` or `changes`."""

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
        return EPOCH + timedelta(milliseconds=self._envelope.received_ms)

    @property
    def received_ms(self) -> int:
        """`received_at` as epoch milliseconds."""
        return self._envelope.received_ms

    @property
    def notification(self) -> str:
        """The id of the notification that it came with, 32 hex digits: the same in log lines, dead letters and traces.

        Retries do not change it. Nothing personal can be read from it.
        """
        return notification_id(self._envelope.received_ms, self.body_digest)

    @property
    def body_digest(self) -> bytes:
        """The second half of that id, 8 bytes."""
        return self._envelope.body_digest or digest(self._envelope.text)

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._envelope.attempt

    @property
    def source(self) -> Literal["onprem", "cloud"]:
        """The form of the notification: On-Premises (a bare object) or Cloud (`entry` and `changes`)."""
        return "onprem" if self._envelope.change is None else "cloud"

    @property
    def business(self) -> str | None:
        """The business phone number's id (Cloud: `metadata.phone_number_id`); None On-Premises."""
        return self._envelope.business

    @property
    def order_key(self) -> str | None:
        """Events with the same key are handled one after another; None: in any order. Personal data."""
        return None

    def body(self) -> bytes:
        """A notification in the sender's own form that holds this event alone, with its contact.

        Parsing it gives this event again. Retries and dead letters are kept in this form.
        """
        raise NotImplementedError

    @property
    def subject(self) -> str | None:
        """What handlers select by: a message's type, a status's status, a change's field; an error's code."""
        raise NotImplementedError

    def __repr__(self) -> str:
        label = self.subject or ""
        return f"<{type(self).__name__} {label if _PLAIN.fullmatch(label) else '?'}>"
