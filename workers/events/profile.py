"""What is new about a contact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ingest import identity
from ingest.identity import Names
from workers.events.event import Event
from workers.events.values import JsonObject, table, text

if TYPE_CHECKING:
    from workers.events.change import Change
    from workers.events.message import Message

_PROFILE_CHANGES = {
    "user_changed_number": "number",
    "customer_changed_number": "number",
    "user_changed_user_id": "user_id",
    "user_identity_changed": "identity",
    "customer_identity_changed": "identity",
}
_NAMES = ("number", "user_id", "parent_user_id")
_NOTHING: frozenset[str] = frozenset()


class Facts(NamedTuple):
    """What an event says of a contact: as it was, or is, before the event; what changes; and what is announced."""

    before: dict[str, str | None]
    after: dict[str, str | None]
    announced: frozenset[str] = _NOTHING


class Profile(Event):
    """News of a contact, read from one message, or from an element of `user_id_update`.

    Either a message of type system announces it, or what comes with a message (`contacts[].profile`, ids, identity)
    differs from what was last seen of the contact. One message gives one of these at most. `raw`, `id` and `timestamp`
    are the message's.

    Source: "system" messages, "contacts" and "identity" in the On-Premises and Cloud webhook documentation.
    """

    __slots__ = ("_after", "_announced", "_before", "_event", "_news")
    kind = "profile"

    def __init__(self, event: Message | Change) -> None:
        super().__init__(event.raw, event._envelope)
        self._event = event
        self._before, self._after, self._announced = event._facts()
        self._news: frozenset[str] = getattr(event, "news", _NOTHING)  # of a message

    @property
    def contact(self) -> str | None:
        """Who changed: the wa_id without a plus, else the business-scoped user id, else the parent's; where a change is
        announced, as they were before."""
        before = self._before
        return before["number"] or before["user_id"] or before["parent_user_id"]

    @property
    def changed(self) -> frozenset[str]:
        """What changed: of `name`, `username`, `number`, `user_id`, `parent_user_id`, `identity`.

        A new number brings a new user id: a system message about one names both if it gives the other's old and new
        value, too.
        """
        return self._announced | self._news

    @property
    def old(self) -> Mapping[str, str | None]:
        """For each name in `changed` the old value, None where the sender does not give it.

        Only what announces a change gives it, for a number or an id. Values seen before are not kept, only digests of
        them.
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
        return self._event.body()

    @property
    def subject(self) -> str:
        return "_and_".join(sorted(self.changed))


def facts_of_message(raw: JsonObject, system: JsonObject | None, names: Names, contact: JsonObject | None) -> Facts:
    """What a message says. `system` is the content of a message of type system; `names` are the contact's, in a system
    message as they were."""
    contact = contact or {}
    profile = table(contact, "profile") or {}
    beside = identity.of_contact(contact)
    main = _PROFILE_CHANGES.get(text(system or {}, "type") or "")
    key = text(table(raw, "identity") or {}, "hash")
    before: dict[str, str | None] = {
        "name": text(profile, "name") or None,
        "username": text(profile, "username") or text(contact, "username") or None,
        # The message's own names first: a contact's wa_id may differ from them (Brazil, Mexico, Argentina). That of a
        # change may be the new one.
        **{n: mine or (None if main else its) for n, mine, its in zip(_NAMES, names, beside, strict=True)},
        "identity": key or text(contact, "identity_key_hash") or None,
    }
    if system is None or main is None:
        return Facts(before, {})
    after = dict(zip(_NAMES, identity.new_names(system), strict=True))
    after["identity"] = text(system, "identity") or key or None
    return Facts(before, after, frozenset({main}) if main == "identity" else _announced(main, before, after))


def facts_of_update(element: JsonObject, contact: JsonObject | None) -> Facts:
    """What an element of `user_id_update` says."""
    number = identity.of_contact(element)[0] or identity.of_contact(contact or {})[0]
    before: dict[str, str | None] = dict.fromkeys(("name", "username", "number", *_NAMES, "identity"))
    before["number"] = number
    after: dict[str, str | None] = {"number": number}
    for name in ("user_id", "parent_user_id"):
        change = table(element, name) or {}
        before[name], after[name] = text(change, "previous") or None, text(change, "current") or None
    return Facts(before, after, _announced("user_id", before, after))


def _announced(main: str, before: Mapping[str, str | None], after: Mapping[str, str | None]) -> frozenset[str]:
    """What is said to have changed: the subject, and a number or id of which the old and the new value are given."""
    pairs = ((n, before[n], after[n]) for n in _NAMES)
    return frozenset(n for n, old, new in pairs if n == main or (old and new not in (None, old)))
