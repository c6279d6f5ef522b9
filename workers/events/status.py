"""What became of a message that the business sent."""

from __future__ import annotations

from workers.events.envelope import Envelope
from workers.events.event import Event
from workers.events.values import Conversation, Fault, JsonObject, Pricing, phone, table, tables, text


class Status(Event):
    """What became of a message: an element of `statuses`. `id` is the id that sending the message returned.

    Source: "statuses" in the On-Premises and Cloud webhook documentation.
    """

    __slots__ = ("superseded",)
    kind = "status"

    superseded: bool
    """True when a later stage of the same message (sent < delivered < read < played) was handled before this one."""

    def __init__(self, raw: JsonObject, envelope: Envelope) -> None:
        self.raw = raw
        self._envelope = envelope
        self.superseded = False

    @property
    def status(self) -> str | None:
        """`sent`, `delivered`, `read`, `played`, `failed`, `deleted`, `warning`: an open set, in any order."""
        return text(self.raw, "status")

    @property
    def recipient(self) -> str | None:
        """Who got it: the wa_id without a plus or the group's id, else the business-scoped user id."""
        return (
            phone(self.raw, "recipient_id")
            or phone(table(self.raw, "message") or {}, "recipient_id")
            or self.recipient_user_id
        )

    @property
    def recipient_user_id(self) -> str | None:
        """The recipient's business-scoped user id (Cloud, since 2026)."""
        return text(self.raw, "recipient_user_id") or None

    @property
    def participant(self) -> str | None:
        """Which member of a group: the wa_id without a plus, else the business-scoped user id."""
        return self._participant_number() or text(self.raw, "recipient_participant_user_id") or None

    @property
    def type(self) -> str | None:
        """What the status is about: `message`, `payment`, …; older clients leave it out."""
        return text(self.raw, "type")

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
        if not self._envelope.value.get("contacts"):  # nearly no status has them
            return None
        raw = self.raw
        return self._envelope.contact(
            (self.recipient, self._participant_number()),
            (self.recipient_user_id, text(raw, "recipient_participant_user_id")),
        )

    @property
    def order_key(self) -> str | None:
        """The message's id: statuses of one message are handled one after another."""
        return self.id

    def body(self) -> bytes:
        return self._envelope.around("statuses", [self.raw], [] if (contact := self.contact) is None else [contact])

    def _participant_number(self) -> str | None:
        # Meta's documentation prints both spellings.
        return phone(self.raw, "recipient_participant_id") or phone(self.raw, "participant_recipient_id")

    @property
    def subject(self) -> str | None:
        return self.status
