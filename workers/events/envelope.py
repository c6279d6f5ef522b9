"""The notification around events, and how a part of it is written as a notification of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import orjson

from ingest import identity
from ingest.store import headers
from ingest.store.records import digest
from workers.events.people import People
from workers.events.values import JsonObject

SURROUNDING = frozenset({"messaging_product", "metadata", "contacts", "recipient", "conversation_context"})
"""What surrounds the elements of a value and is none itself."""

ELEMENTS = frozenset(
    {
        "messages",
        "message_echoes",
        "statuses",
        "calls",
        "user_preferences",
        "user_id_update",
        "errors",
        "history",
        "standby",
    }
)
"""The keys of a value that are known to hold elements."""

OF_ELEMENTS = frozenset(
    {"messages", "calls", "history", "message_echoes", "smb_message_echoes", "standby", "user_preferences"}
)
"""Fields in which errors are events. In others they belong to what stands beside them, unless that is elements."""

# Bytes of the objects around an event, each, with which it is kept when it is written alone: thousands of events may
# share what is around them, and each is written with it. Together they add about as much as the notification has.
_AROUND = 4096
_LEAST_AROUND = 128
_FEW = 8
_LEAST_OF_CONTACT = 1024
_LARGE, _OBJECTS = 16_384, 8  # a larger notification may have an event for so many objects
_FIRST = ("metadata", "id", "field", "time", "wa_id", "user_id", "parent_user_id")  # what is kept before all else


_NUMBER = ("phone_number_id", "display_phone_number")  # what is kept of metadata that is too long
_LONGEST_NUMBER = 64


class Notification:
    """What all events of one body share: the body as parsed, and what its record says.

    `text` holds the bytes that were parsed. `shares` and `kept_headers` are the record's.
    """

    _kept: dict[int, JsonObject] | None = None

    def __init__(
        self,
        body: JsonObject,
        received_ms: int,
        attempt: int,
        text: bytes,
        body_digest: bytes,
        shares: bytes,
        kept_headers: bytes,
    ) -> None:
        self.body = body
        self.received_ms = received_ms
        self.attempt = attempt
        self.text = text
        self.shares = shares
        self._headers = kept_headers
        self._digest = body_digest
        self.count = max(1, text.count(b"{") // _OBJECTS) if len(text) > _LARGE else 1
        """How many events it has, or may have."""

    @property
    def body_digest(self) -> bytes:
        """The digest of the body as it was received."""
        if not self._digest:
            self._digest = digest(self.text)
        return self._digest

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The headers of its request that were kept."""
        return MappingProxyType(headers.read(self._headers))

    @cached_property
    def headers_of_part(self) -> bytes:
        """Those that are kept with a part of it, as JSON: all, unless they are long and there may be many parts."""
        if self.count <= _FEW:
            return self._headers
        return headers.within(self._headers, max(headers.PART_BYTES, len(self.text) // (2 * self.count)))

    def small(self, table: JsonObject, least: int = _LEAST_AROUND) -> JsonObject:
        """The keys of an object around events that fit into what is kept of it."""
        # A few events keep all of it. So does one that is alone: what was kept once is kept at each further try.
        room = _AROUND if self.count <= _FEW else min(_AROUND, max(least, len(self.text) // (2 * self.count)))
        kept = {}
        for key in sorted(table, key=lambda key: key not in _FIRST):
            if (size := len(key) + len(write_json(table[key]))) <= room:
                room -= size
                kept[key] = table[key]
            elif key == "metadata" and isinstance(table[key], dict):
                kept[key] = {name: table[key][name] for name in _NUMBER if _is_short(table[key].get(name))}
        return kept

    def kept_contacts(self, contacts: Sequence[JsonObject]) -> Sequence[JsonObject]:
        """What is kept of contacts: all, unless one is long that several events may share."""
        if self.count == 1:
            return contacts
        self._kept = {} if self._kept is None else self._kept
        for contact in contacts:
            if id(contact) not in self._kept:
                self._kept[id(contact)] = self.small(contact, _LEAST_OF_CONTACT)
        return [self._kept[id(contact)] for contact in contacts]

    def kept(self, table: Any, inside: str) -> JsonObject:
        """What is kept of body, entry or change around events, without what is `inside`. Made once for all of them."""
        self._kept = {} if self._kept is None else self._kept
        if id(table) not in self._kept:
            self._kept[id(table)] = self.small(_without(table, inside))
        return self._kept[id(table)]


class Envelope:
    """The objects that enclose events, as parsed. One for each Cloud change.

    `change` and `entry` are None in the On-Premises form, whose `value` is the body itself. `outer` is the change's
    value where the elements are one level deeper, in its `standby`. `field` is the change's; `in_messages` is True for
    `messages`, and for all of the On-Premises form. `business` is the business phone number's id.
    """

    # What most events never ask for is made when it is asked for.
    _people: People | None = None
    _kept: tuple[JsonObject, JsonObject] | None = None
    _beside: tuple[JsonObject, JsonObject] | None = None
    _surroundings: Mapping[str, Any] | None = None

    def __init__(
        self,
        notification: Notification,
        entry: JsonObject | None,
        change: Any,
        value: JsonObject,
        outer: JsonObject | None = None,
    ) -> None:
        self.notification = notification
        self.entry = entry
        self.change = change
        self.value = value
        self.outer = outer
        field = change.get("field") if isinstance(change, dict) else None
        self.field = field if isinstance(field, str) else None
        self.in_messages = change is None or field == "messages"
        self.business = identity.business_of(value if outer is None else {**outer, **value}) or None

    @property
    def display(self) -> str:
        """The business number as the notification shows it, or an empty string."""
        return identity.display_of(self.value if self.outer is None else {**self.outer, **self.value})

    @property
    def is_standby(self) -> bool:
        """True when another app, such as Meta's agent, has the conversation."""
        return self.outer is not None or self.field == "standby"

    @property
    def people(self) -> People:
        """Whom `contacts` names."""
        if self._people is None:
            contacts = self.value.get("contacts") or (self.outer or {}).get("contacts")
            self._people = People(contacts if isinstance(contacts, list) else [], self.value)
        return self._people

    @property
    def surroundings(self) -> Mapping[str, Any]:
        """Body, entry, change and value in one, without what holds events. Made once for all of them."""
        if self._surroundings is None:
            found: JsonObject = {}
            if self.change is not None:
                found |= _without(self.notification.body, "entry")
                found |= _without(self.entry, "changes") | _without(self.change, "value")
            for value in (self.outer or {}, self.value):
                found |= {key: item for key, item in value.items() if not self.holds(key, item)}
            self._surroundings = MappingProxyType(found)
        return self._surroundings

    @property
    def call_errors(self) -> list[JsonObject]:
        """`errors` of a value with one call: they are the call's."""
        calls, errors = self.value.get("calls"), self.value.get("errors")
        if not isinstance(calls, list) or len(calls) != 1 or not isinstance(errors, list):
            return []
        return errors if all(isinstance(one, dict) for one in (*calls, *errors)) else []

    def holds(self, key: str, item: Any) -> bool:
        """Whether what stands at a key of the value is events. An array that nobody knows is, and in the Cloud form an
        object; On-Premises, relays put objects of their own beside the elements.
        """
        if key in SURROUNDING:
            return False
        return key in ELEMENTS or isinstance(item, list) or (isinstance(item, dict) and self.change is not None)

    def around(self, array: str, content: Any, contact: JsonObject | None = None) -> bytes:
        """The notification with nothing in its arrays but `content`, as `array`, and the contact."""
        return self.around_all(array, content, [] if contact is None else [contact])

    def around_all(self, array: str, content: Any, contacts: Sequence[JsonObject]) -> bytes:
        """The same with several contacts. What is kept of the objects around it is made once for all events."""
        if self._kept is None:
            value, outer = self.beside
            self._kept = self.notification.small(value), self.notification.small(outer)
        value = self._with(self._kept, array, content, self.notification.kept_contacts(contacts))
        if self.change is None:
            return write_json(value)
        return self.around_change({**self.notification.kept(self.change, "value"), "value": value})

    def around_change(self, change: Any) -> bytes:
        """The Cloud notification with this change alone."""
        kept = self.notification.kept
        entry = {**kept(self.entry, "changes"), "changes": [change]}
        return write_json({**kept(self.notification.body, "entry"), "entry": [entry]})

    def change_of(self, array: str, content: Any, contact: JsonObject | None = None) -> JsonObject:
        """The change with nothing in its arrays but `content`, as `array`, and the contact."""
        return {
            **_without(self.change, "value"),
            "value": self._with(self.beside, array, content, [] if contact is None else [contact]),
        }

    @property
    def beside(self) -> tuple[JsonObject, JsonObject]:
        """What is in `value` and in `outer` beside events and contacts. Made once for all events."""
        if self._beside is None:
            tables = (self.value.items(), (self.outer or {}).items())
            value, outer = ({k: v for k, v in one if k != "contacts" and not self.holds(k, v)} for one in tables)
            self._beside = value, outer
        return self._beside

    def _with(
        self, beside: tuple[JsonObject, JsonObject], array: str, content: Any, contacts: Sequence[JsonObject]
    ) -> JsonObject:
        value, outer = beside
        found = {**value, array: content}
        if self.change is None and array not in ELEMENTS:
            found["messages"] = []  # so that the body is known to be a notification
        if array == "errors" and self.change is not None and self.field not in OF_ELEMENTS:
            found.setdefault("messages", [])  # so that the error is an event also beside what is kept of the value
        if contacts:
            found["contacts"] = contacts
        if array == "calls" and self.call_errors:
            found["errors"] = self.call_errors
        return found if self.outer is None else {**outer, "standby": found}


def _is_short(item: Any) -> bool:
    return isinstance(item, str) and len(item) <= _LONGEST_NUMBER


def _without(table: Any, inside: str) -> JsonObject:
    return {key: item for key, item in table.items() if key != inside} if isinstance(table, dict) else {}


def write_json(tree: Any) -> bytes:
    """Any JSON that orjson has read. orjson reads 1024 levels, but writes no more than 254."""
    try:
        return b"%b" % orjson.dumps(tree)  # a copy: what orjson returns takes 4 kB, however short it is
    except orjson.JSONEncodeError:
        return _write_deep(tree)


def _write_deep(tree: Any) -> bytes:
    out: list[bytes] = []
    # Parsed JSON holds no bytes, so bytes on the stack are text that is already written.
    todo: list[Any] = [tree]
    while todo:
        item = todo.pop()
        if isinstance(item, bytes):
            out.append(item)
        elif isinstance(item, dict):
            parts: list[Any] = [b"{"]
            for n, (key, value) in enumerate(item.items()):
                parts += [b"," if n else b"", orjson.dumps(key), b":", value]
            todo += reversed([*parts, b"}"])
        elif isinstance(item, list):
            parts = [b"["]
            for n, value in enumerate(item):
                parts += [b"," if n else b"", value]
            todo += reversed([*parts, b"]"])
        else:
            out.append(orjson.dumps(item))
    return b"".join(out)
