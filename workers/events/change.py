"""A Cloud change of a field other than messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from workers.events.event import Event
from workers.events.values import moment, text


class Change(Event):
    """A Cloud change of any field other than `messages`: calls, history, templates, the account, …

    Source: the field reference in the Cloud webhook documentation, a set that grows.
    """

    __slots__ = ()
    kind = "change"

    @property
    def field(self) -> str | None:
        """`calls`, `account_update`, …; None where the sender leaves it out."""
        return text(self.raw, "field")

    @property
    def value(self) -> Any:
        """What the sender says, as parsed: nearly always an object."""
        return self.raw.get("value")

    @property
    def account(self) -> str | None:
        """The entry's id: the WhatsApp business account."""
        return text(self._envelope.entry or {}, "id")

    @property
    def time(self) -> datetime | None:
        """The entry's time: aware, UTC, whole seconds."""
        return moment(self._envelope.entry or {}, "time")

    @property
    def timestamp(self) -> datetime | None:
        """The same as `time`."""
        return self.time

    def body(self) -> bytes:
        return self._envelope.around_change(self.raw)

    @property
    def subject(self) -> str | None:
        return self.field
