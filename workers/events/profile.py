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

    Either a message of type system says it, or what stands beside a message (`contacts[].profile`, ids, identity) is
    not what was last seen of the contact. One message gives one of these at most. `raw`, `id` and `timestamp` are the
    message's.

    Source: "system" messages, "contacts" and "identity" in the On-Premises and Cloud webhook documentation.
    """

    __slots__ = ("_after", "_before", "_message", "_told")
    kind = "profile"

    def __init__(self, message: Message) -> None:
        super().__init__(message.raw, message._envelope)
        self._message = message
        system = message.system if message.type == "system" else None
        main = _PROFILE_CHANGES.get(text(system or {}, "type") or "")
        self._before = _until_now(message, system if system and main else {})
        self._after = _from_now_on(message, system) if system and main else {}
        self._told = self._pairs(main) if main else _NOTHING

    @property
    def contact(self) -> str | None:
        """Who changed: the wa_id without a plus, else the business-scoped user id; of a system message those until
        now."""
        return self._before["number"] or self._before["user_id"]

    @property
    def changed(self) -> frozenset[str]:
        """What changed: of `name`, `username`, `number`, `user_id`, `identity`.

        A new number brings a new user id: of a system message both are named if it gives both the old and the new one.
        """
        return self._told | self._message.news

    @property
    def old(self) -> Mapping[str, str | None]:
        """For each name in `changed` the value until now, None where the sender does not say.

        Only system messages say it, of a number or a user id. What was seen before is not kept, only that it differs.
        """
        before, after, told = self._before, self._after, self._told - {"identity"}
        # A sender that already writes the new value in the message's own fields does not tell the old one.
        return {n: before[n] if n in told and before[n] != after[n] else None for n in self.changed}

    @property
    def new(self) -> Mapping[str, str | None]:
        """For each name in `changed` the value from now on, None where the sender does not say.

        A number is a wa_id without a plus, an identity the hash of the contact's key.
        """
        facts = self.facts
        return {n: facts[n] for n in self.changed}

    @property
    def facts(self) -> Mapping[str, str | None]:
        """All that the notification says of the contact, changed or not, by the names in `changed`; else None."""
        after, told = self._after, self._told
        return {n: after.get(n) or (None if n in told else value) for n, value in self._before.items()}

    @property
    def aliases(self) -> tuple[tuple[str, str], ...]:
        """What the contact can be recognised by, until now and from now on: `number` or `user_id`, and the value."""
        found = ((n, values.get(n)) for values in (self._before, self._after) for n in ("number", "user_id"))
        return tuple(dict.fromkeys((n, value) for n, value in found if value))

    def body(self) -> bytes:
        return self._message.body()

    def _pairs(self, main: str) -> frozenset[str]:
        """What changed as a system message says: what it is about, and of number and user id what it gives twice."""
        if main == "identity":
            return frozenset({main})
        pairs = ((n, self._before[n], self._after[n]) for n in ("number", "user_id"))
        return frozenset(n for n, old, new in pairs if n == main or (old and new not in (None, old)))

    @property
    def subject(self) -> str:
        return "_and_".join(sorted(self.changed))


def _until_now(message: Message, system: JsonObject) -> dict[str, str | None]:
    """What a message's own fields and its contact say: in a system message mostly the contact until now."""
    raw, contact = message.raw, message.contact or {}
    profile = table(contact, "profile") or {}
    # First what every message has: a contact's wa_id may differ from it (Brazil, Mexico, Argentina).
    number = phone(system, "customer") or phone(raw, "from") or phone(system, "user") or phone(contact, "wa_id")
    return {
        "name": text(profile, "name") or None,
        "username": text(profile, "username") or None,
        "number": number,
        "user_id": text(raw, "from_user_id") or text(contact, "user_id") or None,
        "identity": text(table(raw, "identity") or {}, "hash") or text(contact, "identity_key_hash") or None,
    }


def _from_now_on(message: Message, system: JsonObject) -> dict[str, str | None]:
    """What the content of a system message says: the contact from now on."""
    return {
        # `new_wa_id` up to webhook version 11, `wa_id` from version 12 on.
        "number": phone(system, "new_wa_id") or phone(system, "wa_id"),
        "user_id": text(system, "user_id") or None,
        "identity": text(system, "identity") or text(table(message.raw, "identity") or {}, "hash") or None,
    }
