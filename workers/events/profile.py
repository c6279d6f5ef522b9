"""What is new about a contact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workers.events.event import Event
from workers.events.values import JsonObject, phone, table, text

if TYPE_CHECKING:
    from workers.events.message import Message

_PROFILE_CHANGES = {
    "user_changed_number": "number",
    "customer_changed_number": "number",
    "user_changed_user_id": "user_id",
    "user_identity_changed": "identity",
    "customer_identity_changed": "identity",
}
_NOTHING: frozenset[str] = frozenset()


class Profile(Event):
    """News of a contact, read from one message.

    Either a message of type system announces it, or what comes with a message (`contacts[].profile`, ids, identity)
    differs from what was last seen of the contact. One message gives one of these at most. `raw`, `id` and `timestamp`
    are the message's.

    Source: "system" messages, "contacts" and "identity" in the On-Premises and Cloud webhook documentation.
    """

    __slots__ = ("_after", "_announced", "_before", "_message")
    kind = "profile"

    def __init__(self, message: Message) -> None:
        super().__init__(message.raw, message._envelope)
        self._message = message
        system = message.system if message.type == "system" else None
        main = _PROFILE_CHANGES.get(text(system or {}, "type") or "")
        self._before = _until_now(message, system if system and main else {})
        self._after = _from_now_on(message, system) if system and main else {}
        self._announced = self._pairs(main) if main else _NOTHING

    @property
    def contact(self) -> str | None:
        """Who changed: the wa_id without a plus, else the business-scoped user id; for a system message, as they were
        before."""
        return self._before["number"] or self._before["user_id"]

    @property
    def changed(self) -> frozenset[str]:
        """What changed: of `name`, `username`, `number`, `user_id`, `identity`.

        A new number brings a new user id: a system message about one names both if it gives the other's old and new
        value, too.
        """
        return self._announced | self._message.news

    @property
    def old(self) -> Mapping[str, str | None]:
        """For each name in `changed` the old value, None where the sender does not give it.

        Only system messages give it, for a number or a user id. Values seen before are not kept, only digests of them.
        """
        before, after, announced = self._before, self._after, self._announced - {"identity"}
        # A sender that already writes the new value in the message's own fields does not give the old one.
        return {n: before[n] if n in announced and before[n] != after[n] else None for n in self.changed}

    @property
    def new(self) -> Mapping[str, str | None]:
        """For each name in `changed` the new value, None where the sender does not give it.

        A number is a wa_id without a plus, an identity the hash of the contact's key.
        """
        facts = self.facts
        return {n: facts[n] for n in self.changed}

    @property
    def facts(self) -> Mapping[str, str | None]:
        """All that the notification says of the contact, changed or not, by the names in `changed`; None: nothing."""
        after, announced = self._after, self._announced
        return {n: after.get(n) or (None if n in announced else value) for n, value in self._before.items()}

    @property
    def aliases(self) -> tuple[tuple[str, str], ...]:
        """What the contact can be recognised by, before and after: `number` or `user_id`, and the value."""
        found = ((n, values.get(n)) for values in (self._before, self._after) for n in ("number", "user_id"))
        return tuple(dict.fromkeys((n, value) for n, value in found if value))

    def body(self) -> bytes:
        return self._message.body()

    def _pairs(self, main: str) -> frozenset[str]:
        """What a system message says changed: its subject, and a number or user id of which it gives old and new."""
        if main == "identity":
            return frozenset({main})
        pairs = ((n, self._before[n], self._after[n]) for n in ("number", "user_id"))
        return frozenset(n for n, old, new in pairs if n == main or (old and new not in (None, old)))

    @property
    def subject(self) -> str:
        return "_and_".join(sorted(self.changed))


def _until_now(message: Message, system: JsonObject) -> dict[str, str | None]:
    """The contact by a message's own fields and `contacts`: in a system message mostly as it was before."""
    raw, contact = message.raw, message.contact or {}
    profile = table(contact, "profile") or {}
    # The message's own fields first: a contact's wa_id may differ from them (Brazil, Mexico, Argentina).
    number = phone(system, "customer") or phone(raw, "from") or phone(system, "user") or phone(contact, "wa_id")
    return {
        "name": text(profile, "name") or None,
        "username": text(profile, "username") or None,
        "number": number,
        "user_id": text(raw, "from_user_id") or text(contact, "user_id") or None,
        "identity": text(table(raw, "identity") or {}, "hash") or text(contact, "identity_key_hash") or None,
    }


def _from_now_on(message: Message, system: JsonObject) -> dict[str, str | None]:
    """The contact by the content of a system message: as it is from now on."""
    return {
        # `new_wa_id` up to webhook version 11, `wa_id` from version 12 on.
        "number": phone(system, "new_wa_id") or phone(system, "wa_id"),
        "user_id": text(system, "user_id") or None,
        "identity": text(system, "identity") or text(table(message.raw, "identity") or {}, "hash") or None,
    }
