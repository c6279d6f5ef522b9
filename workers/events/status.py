"""What became of a message that the business sent."""

from __future__ import annotations

from ingest import identity
from workers.events.chat import profile_name, username
from workers.events.envelope import Envelope
from workers.events.event import Event
from workers.events.values import Conversation, Fault, JsonObject, Payment, Pricing, table, tables, text


class Status(Event):
    """What became of a message: an element of `statuses`. `id` is the id that sending the message returned.

    A status of type `payment` tells of a payment that the message asked for, not of the message: its `subject` is
    `payment`, so `@handlers.status("failed")` does not get it and `@handlers.status("payment")` does.
    Source: "statuses" in the On-Premises and Cloud webhook documentation.
    """

    __slots__ = ("superseded",)
    kind = "status"
    _array = "statuses"

    superseded: bool
    """True when a later stage of the same message (sent < delivered < read < played; failed is the last one, too) was
    handled before this one."""

    def __init__(self, raw: JsonObject, envelope: Envelope) -> None:
        self.raw = raw
        self._envelope = envelope
        self.superseded = False

    @property
    def status(self) -> str | None:
        """`sent`, `delivered`, `read`, `played`, `failed`, `deleted`, `warning`: an open set, in any order. Of a
        payment: `pending`, `captured`, `failed`, …."""
        return text(self.raw, "status")

    @property
    def recipient(self) -> str | None:
        """Who got it: the wa_id without a plus or the group's id, else the business-scoped user id, else the id for the
        parent. Of a payment, who pays."""
        number, user, parent = identity.of_status(self.raw)
        return number or user or parent

    @property
    def recipient_user_id(self) -> str | None:
        """The recipient's business-scoped user id (Cloud, since 2026)."""
        return identity.of_status(self.raw)[1]

    @property
    def recipient_parent_user_id(self) -> str | None:
        """The recipient's id for the account's parent (Cloud, since 2026)."""
        return identity.of_status(self.raw)[2]

    @property
    def recipient_type(self) -> str | None:
        """`group` when the message went to a group."""
        return text(self.raw, "recipient_type")

    @property
    def participant(self) -> str | None:
        """Which member of a group: the wa_id without a plus, else the business-scoped user id, else the parent's."""
        number, user, parent = identity.of_participant(self.raw)
        return number or user or parent

    @property
    def participant_user_id(self) -> str | None:
        """The group member's business-scoped user id."""
        return identity.of_participant(self.raw)[1]

    @property
    def participant_parent_user_id(self) -> str | None:
        """The group member's id for the account's parent."""
        return identity.of_participant(self.raw)[2]

    @property
    def name(self) -> str | None:
        """The name in the profile of the recipient, or of the group's participant."""
        return profile_name(self.contact)

    @property
    def username(self) -> str | None:
        """The recipient's username, or that of the group's participant."""
        return username(self.contact)

    @property
    def type(self) -> str | None:
        """What the status is about: `message`, `payment`, …; mostly left out."""
        return text(self.raw, "type")

    @property
    def standby(self) -> bool:
        """True when another app, such as Meta's business agent, has the conversation and sent the message."""
        return self._envelope.is_standby

    @property
    def payment(self) -> Payment | None:
        """The payment, for a status of type `payment`."""
        found = table(self.raw, "payment")
        return None if found is None else Payment.read(found)

    @property
    def pricing(self) -> Pricing | None:
        """What the message costs; aggregated group statuses have it inside `conversation`."""
        found = table(self.raw, "pricing") or table(table(self.raw, "conversation") or {}, "pricing")
        return None if found is None else Pricing.read(found)

    @property
    def conversation(self) -> Conversation | None:
        """The conversation that the message was billed in."""
        found = table(self.raw, "conversation")
        return None if found is None else Conversation.read(found)

    @property
    def errors(self) -> tuple[Fault, ...]:
        """Why it failed."""
        return tuple(map(Fault.read, tables(self.raw, "errors")))

    @property
    def opaque(self) -> str | None:
        """`biz_opaque_callback_data`: up to 512 characters that the business gave when sending."""
        return text(self.raw, "biz_opaque_callback_data")

    @property
    def contact(self) -> JsonObject | None:
        """The element of the notification's `contacts` for the recipient or the group's participant (Cloud,
        since 2026); it is found as for a message."""
        value, outer = self._envelope.value, self._envelope.outer
        if not (value.get("contacts") or (outer and outer.get("contacts"))):  # nearly no status has them
            return None
        names = identity.of_participant(self.raw)
        return self._envelope.people.of(names if any(names) else identity.of_status(self.raw), self.raw, "statuses")

    @property
    def order_key(self) -> str | None:
        """The message's id: statuses of one message are handled one after another."""
        return self.id

    @property
    def subject(self) -> str | None:
        return "payment" if "type" in self.raw and self.type == "payment" else self.status

    def _contact(self) -> JsonObject | None:
        return self.contact
