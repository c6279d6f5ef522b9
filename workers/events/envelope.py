"""The notification around events, and how a part of it is written as a notification of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from workers.events.values import JsonObject, phone, table, text

_ARRAYS = frozenset({"contacts", "messages", "statuses", "errors"})

_AROUND = 4096
"""Bytes of the objects around an event, each, with which it is kept when it is written alone: thousands of events may
share what is around them, and each is written with it."""


class Envelope:
    """The notification around events: the objects that enclose them, as parsed. One for each Cloud change.

    `change` and `entry` are None in the On-Premises form, whose `value` is the body itself. `text` holds the bytes that
    were parsed, `body_digest` the digest of the received ones if they differ. `shares` are the record's. `business` is
    the business phone number's id.
    """

    __slots__ = (
        "_around",
        "_people",
        "attempt",
        "body",
        "body_digest",
        "business",
        "change",
        "entry",
        "received_ms",
        "shares",
        "text",
        "value",
    )

    def __init__(
        self,
        body: JsonObject,
        entry: JsonObject | None,
        change: JsonObject | None,
        value: JsonObject,
        received_ms: int,
        attempt: int,
        text: bytes,
        body_digest: bytes,
        shares: bytes,
    ) -> None:
        self.body = body
        self.entry = entry
        self.change = change
        self.value = value
        self.received_ms = received_ms
        self.attempt = attempt
        self.text = text
        self.body_digest = body_digest
        self.shares = shares
        self.business = _business(value)
        self._people: _People | None = None
        self._around: tuple[JsonObject, JsonObject, JsonObject, JsonObject] | None = None

    def around(self, array: str, content: Any, contacts: Sequence[JsonObject] = ()) -> bytes:
        """The notification with nothing in its arrays but `content`, as `array`, and these contacts."""
        value = {**self._bounded()[0]}
        if contacts:
            value["contacts"] = contacts
        value[array] = content
        if self.change is None:
            return write_json(value)
        return self.around_change({**self._bounded()[1], "value": value})

    def around_change(self, change: Any) -> bytes:
        """The Cloud notification with this change alone."""
        _, _, entry, body = self._bounded()
        return write_json({**body, "entry": [{**entry, "changes": [change]}]})

    def _bounded(self) -> tuple[JsonObject, JsonObject, JsonObject, JsonObject]:
        """What is kept of value, change, entry and body around an event. Made once for all events."""
        if self._around is None:
            self._around = (
                _small(self.value, _ARRAYS),
                _small(self.change if isinstance(self.change, dict) else {}, frozenset({"value"})),
                _small(self.entry or {}, frozenset({"changes"})),
                _small(self.body, frozenset({"entry"})),
            )
        return self._around

    @property
    def only_contact(self) -> JsonObject | None:
        """The element of `contacts` when it is the only one and has no user id: then every message gets it."""
        contacts = self.value.get("contacts")
        if isinstance(contacts, list) and len(contacts) == 1:
            lone = contacts[0]
            if isinstance(lone, dict) and not lone.get("user_id"):
                return lone
        return None

    def contact(self, numbers: tuple[str | None, ...], users: tuple[str | None, ...]) -> JsonObject | None:
        """The element of `contacts` with one of these numbers, else one of these user ids, else a lone one.

        A lone contact with a user id is not given to an element with another user id.
        """
        contacts = self.value.get("contacts")
        if not contacts or not isinstance(contacts, list):
            return None
        if self._people is None:
            self._people = _People(contacts)
        people = self._people
        for found, keys in ((people.by_number, numbers), (people.by_user, users)):
            for key in keys:
                if key is not None and key in found:
                    return found[key]
        lone = people.lone
        return None if lone is None or (any(users) and text(lone, "user_id")) else lone


def _business(value: JsonObject) -> str | None:
    return text(table(value, "metadata") or {}, "phone_number_id")


class _People:
    """The contacts by number and by user id: a notification of 1,000 elements may hold as many contacts."""

    __slots__ = ("by_number", "by_user", "lone")

    def __init__(self, contacts: list[Any]) -> None:
        objects = [item for item in contacts if isinstance(item, dict)]
        # Reversed, so that the first of two equal ones is kept.
        self.by_number = {n: item for item in reversed(objects) if (n := phone(item, "wa_id"))}
        self.by_user = {u: item for item in reversed(objects) if (u := text(item, "user_id"))}
        self.lone = objects[0] if len(objects) == 1 else None


def _small(table: JsonObject, without: frozenset[str]) -> JsonObject:
    """The keys of an object that fit into the bytes that are kept, in order."""
    room, kept = _AROUND, {}
    for key, value in table.items():
        if key not in without and (size := len(key) + len(write_json(value))) <= room:
            room -= size
            kept[key] = value
    return kept


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
