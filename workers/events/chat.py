"""What the events of one contact have in common: messages, calls, handovers, preferences."""

from __future__ import annotations

from ingest import identity, routing
from ingest.identity import Names
from workers.events.envelope import Envelope
from workers.events.event import Event
from workers.events.values import JsonObject, table, text


class ChatEvent(Event):
    """An event of one contact, in order with the others of that contact."""

    __slots__ = ("_known",)

    _known: Names | None
    """What it names the contact, once that was read: claims, order and partition each ask for it."""

    def __init__(self, raw: JsonObject, envelope: Envelope) -> None:
        self.raw = raw
        self._envelope = envelope
        self._known = None

    @property
    def contact(self) -> JsonObject | None:
        """The element of the notification's `contacts` for this contact: `profile`, `wa_id`, `user_id`, ….

        It is found by number, else by user id, else by parent id; numbers of Brazil, Mexico and Argentina match in all
        their forms. A lone contact, or the one at the same place of as many, is taken unless its number or id is
        somebody else's.
        """
        people = self._envelope.people
        return people.of(self._names(), self.raw, self._array) if people else None

    @property
    def contact_id(self) -> str | None:
        """Who the contact is: the number without a plus, else the business-scoped user id, else the parent's id."""
        number, user, parent = self._known or self._names()
        return number or user or parent

    @property
    def wa_id(self) -> str | None:
        """The contact's WhatsApp id, a number without a plus: from `contacts`, else as the element names it. It may
        differ from the number that the element names (Brazil, Mexico, Argentina)."""
        return self._from_contact("wa_id", 0)

    @property
    def user_id(self) -> str | None:
        """The contact's business-scoped user id, such as `US.13491208655302741918` (Cloud, since 2026)."""
        return self._names()[1] or self._from_contact("user_id", 1)

    @property
    def parent_user_id(self) -> str | None:
        """The contact's id for the account's parent, such as `US.ENT.11815799212886844830` (Cloud, since 2026)."""
        return self._names()[2] or self._from_contact("parent_user_id", 2)

    @property
    def name(self) -> str | None:
        """The name in the contact's own profile."""
        return profile_name(self.contact)

    @property
    def username(self) -> str | None:
        """The contact's username (Cloud, since 2026)."""
        return username(self.contact)

    @property
    def order_key(self) -> str | None:
        """A checksum of the contact: what one contact does is handled in order, whether the sender names the number or
        a user id that came with this number before."""
        envelope = self._envelope
        return routing.order_key(envelope.notification.shares, envelope.business, self.contact_id)

    def _names(self) -> Names:
        if self._known is None:
            self._known = self._read_names()
        return self._known

    def _read_names(self) -> Names:
        raise NotImplementedError

    def _contact(self) -> JsonObject | None:
        return self.contact

    def _from_contact(self, key: str, place: int) -> str | None:
        contact = self.contact
        return (identity.of_contact(contact)[place] if contact else None) or self._names()[place]


def profile_name(contact: JsonObject | None) -> str | None:
    """The name in a contact's own profile."""
    return text(table(contact or {}, "profile") or {}, "name")


def username(contact: JsonObject | None) -> str | None:
    """A contact's username; senders write it into the profile, or beside it."""
    contact = contact or {}
    return text(table(contact, "profile") or {}, "username") or text(contact, "username")


def shares_of(event: Event) -> bytes:
    """What the record of an event's retry says of its contact, see `ingest.routing`."""
    shares = event._envelope.notification.shares
    if not shares or not isinstance(event, ChatEvent):
        return b""
    return routing.share_of(shares, event.business, event.contact_id)
