"""A call, and what became of it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from ingest import identity
from ingest.identity import Names
from workers.events.chat import ChatEvent
from workers.events.values import Fault, JsonObject, moment, number, table, tables, text


class Call(ChatEvent):
    """A step of a call: an element of `calls`, or of `statuses` with type `call`.

    A contact's call must be accepted within 30 to 60 seconds of its `connect`. `id` is the call's, the same in all its
    steps. Source: "calls" in the Cloud webhook documentation.
    """

    __slots__ = ()
    kind = "call"
    _array = "calls"

    @property
    def event(self) -> str | None:
        """`connect`, `terminate`, …; of a status `ringing`, `accepted`, `rejected`: in small letters, an open set."""
        found = text(self.raw, "event") or text(self.raw, "status")
        return None if found is None else found.lower()

    @property
    def direction(self) -> Literal["in", "out"]:
        """`in`: the contact calls. `out`: the business does."""
        said = text(self.raw, "direction")
        is_ours = said == "BUSINESS_INITIATED" or (
            said is None and identity.is_display(self.caller, self._envelope.display)
        )
        return "out" if is_ours else "in"

    @property
    def initiator(self) -> str | None:
        """The same as Meta writes it: `USER_INITIATED`, `BUSINESS_INITIATED`."""
        return text(self.raw, "direction")

    @property
    def status(self) -> str | None:
        """How a call ended: `COMPLETED`, `FAILED`; of a status `RINGING`, `ACCEPTED`, `REJECTED`."""
        return text(self.raw, "status")

    @property
    def session(self) -> JsonObject | None:
        """`sdp_type` (`offer`, `answer`) and `sdp`, for the answer that the business gives."""
        return table(self.raw, "session")

    @property
    def connection(self) -> JsonObject | None:
        """How earlier versions of the API wrote the session."""
        return table(self.raw, "connection")

    @property
    def duration(self) -> int | None:
        """How long it was, in seconds."""
        return number(self.raw, "duration")

    @property
    def started_at(self) -> datetime | None:
        """When it was picked up: aware, UTC."""
        return moment(self.raw, "start_time")

    @property
    def ended_at(self) -> datetime | None:
        """When it ended: aware, UTC."""
        return moment(self.raw, "end_time")

    @property
    def caller(self) -> str | None:
        """`from`, as sent."""
        return text(self.raw, "from")

    @property
    def callee(self) -> str | None:
        """`to`, as sent."""
        return text(self.raw, "to")

    @property
    def opaque(self) -> str | None:
        """`biz_opaque_callback_data`: what the business gave when calling."""
        return text(self.raw, "biz_opaque_callback_data")

    @property
    def errors(self) -> tuple[Fault, ...]:
        """Why it failed. Meta writes them beside the call."""
        return tuple(map(Fault.read, (*tables(self.raw, "errors"), *self._beside)))

    @property
    def subject(self) -> str | None:
        return self.event

    @property
    def _beside(self) -> list[JsonObject]:
        return self._envelope.call_errors

    def _read_names(self) -> Names:
        return identity.of_call(self.raw, self._envelope.display)


class CallStatus(Call):
    """What became of a call of the business: an element of `statuses`."""

    __slots__ = ()
    _array = "statuses"

    @property
    def direction(self) -> Literal["in", "out"]:
        return "out"

    @property
    def _beside(self) -> list[JsonObject]:
        return []

    def _read_names(self) -> Names:
        return identity.of_status(self.raw)
