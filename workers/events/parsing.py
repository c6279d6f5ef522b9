"""From the bytes of a notification to its events.

One broken part never costs the rest: every element that is an object becomes an event, however incomplete,
and any other a `Broken` of its own. Nothing here raises, whatever the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ingest.reading import Unreadable, platform, read
from ingest.reading import name_of as _name
from workers.events.broken import FOREIGN, Broken
from workers.events.change import Change
from workers.events.envelope import Envelope, write_json
from workers.events.error import Error
from workers.events.event import Event
from workers.events.message import Message
from workers.events.status import Status
from workers.events.values import JsonObject

_ARRAYS: dict[str, type[Event]] = {"messages": Message, "statuses": Status, "errors": Error}

# Every broken part is kept with the objects around it. This bounds their number and their sum: a body made of thousands
# of broken parts would grow to gigabytes and to thousands of dead letters. What is beyond is kept as the whole body.
_ROOM = 1024 * 1024
_ROOM_PER_BYTE = 4
_PARTS = 100


def parse(
    body: bytes, received_ms: int, attempt: int = 1, body_digest: bytes = b"", shares: bytes = b""
) -> list[Event | Broken]:
    """The events of a notification in the order of the body; within an object messages, statuses, errors.

    `received_ms` is when it was received, in epoch milliseconds, `attempt` the try, from 1, `body_digest`
    and `shares` as in a `Record`. A body with the key `entry` is in the Cloud form, any other JSON object in the
    On-Premises form.
    A Cloud change of another field than `messages` is one `Change`. Bytes that are not a JSON object give one `Broken`
    (`unreadable`); an object that holds neither an event nor a broken element gives one, too (`unknown_form`).
    Source: "webhooks" in the Cloud and On-Premises documentation.
    """
    try:
        trees = read(body)
    except Unreadable as error:
        return [Broken("unreadable", "notification", body, str(error), received_ms, attempt)]
    found: list[Event | Broken] = []
    for tree in trees:
        if of := platform(tree):
            found.append(Broken(FOREIGN, "notification", body, f"of another platform: {of}", received_ms, attempt))
        else:
            found += _Notification(body, tree, received_ms, attempt, body_digest, shares).events()
    return found if len(trees) == 1 else _once(found, body)


def _once(found: list[Event | Broken], body: bytes) -> list[Event | Broken]:
    """Of several broken notifications in a list, only the first keeps the whole body."""
    kept: list[Event | Broken] = []
    is_kept = False
    for item in found:
        if isinstance(item, Broken) and item.body is body and item.reason != FOREIGN:
            if is_kept:
                continue
            is_kept = True
        kept.append(item)
    return kept


class _Notification:
    """One body while it is parsed."""

    __slots__ = ("attempt", "body", "body_digest", "crowded", "found", "parts", "received_ms", "room", "shares", "tree")

    def __init__(
        self, body: bytes, tree: JsonObject, received_ms: int, attempt: int, body_digest: bytes, shares: bytes
    ) -> None:
        self.body = body
        self.tree = tree
        self.received_ms = received_ms
        self.attempt = attempt
        self.body_digest = body_digest
        self.shares = shares
        self.found: list[Event | Broken] = []
        self.room = _ROOM + _ROOM_PER_BYTE * len(body)
        self.parts = _PARTS
        self.crowded = False

    def events(self) -> list[Event | Broken]:
        if "entry" in self.tree:
            self._entries(self.tree["entry"])
        else:
            self._elements(self._envelope(None, None, self.tree))
        for item in self.found:
            if not isinstance(item, Broken) or item.kind not in ("notification", "change"):
                break
        else:
            return [self._whole("unknown_form", "neither a Cloud nor an On-Premises notification")]
        if self.crowded:
            self.found.append(self._whole("malformed", "too many broken parts to keep each apart"))
        return self.found

    def _entries(self, entries: Any) -> None:
        if not isinstance(entries, list):
            return
        for n, entry in enumerate(entries):
            if not isinstance(entry, dict):
                self._broken("notification", f"entry {n} is {_name(entry)}", self._entry_alone, entry)
            elif not isinstance(changes := entry.get("changes"), list):
                self._broken("notification", f"entry {n} has no list of changes", self._entry_alone, entry)
            else:
                for change in changes:
                    self._change(entry, change)

    def _change(self, entry: JsonObject, change: Any) -> None:
        value = change.get("value") if isinstance(change, dict) else None
        envelope = self._envelope(entry, change, value if isinstance(value, dict) else {})
        if not isinstance(change, dict):
            self._broken("change", f"a change is {_name(change)}", envelope.around_change, change)
        elif change.get("field") != "messages":
            self.found.append(Change(change, envelope))
        elif not self._elements(envelope):
            self._broken("change", "a change of field messages holds nothing", envelope.around_change, change)

    def _envelope(self, entry: JsonObject | None, change: Any, value: JsonObject) -> Envelope:
        return Envelope(
            self.tree, entry, change, value, self.received_ms, self.attempt, self.body, self.body_digest, self.shares
        )

    def _elements(self, envelope: Envelope) -> bool:
        """Reads the three arrays; False if there is nothing in them."""
        any_found = False
        for array, event in _ARRAYS.items():
            content = envelope.value.get(array)
            if content is None or content == []:
                continue
            any_found = True
            if not isinstance(content, list):
                self._broken(event.kind, f"{array} is {_name(content)}", envelope.around, array, content)
                continue
            for n, raw in enumerate(content):
                if isinstance(raw, dict):
                    self.found.append(event(raw, envelope))
                else:
                    detail = f"element {n} of {array} is {_name(raw)}"
                    self._broken(event.kind, detail, envelope.around, array, [raw])
        return any_found

    def _broken(self, kind: str, detail: str, write: Callable[..., bytes], *part: Any) -> None:
        if self.room <= 0 or self.parts == 0:
            self.crowded = True
            return
        self.parts -= 1
        body = write(*part)
        self.room -= len(body)
        self.found.append(Broken("malformed", kind, body, detail, self.received_ms, self.attempt))

    def _whole(self, reason: str, detail: str) -> Broken:
        return Broken(reason, "notification", self.body, detail, self.received_ms, self.attempt)

    def _entry_alone(self, entry: Any) -> bytes:
        return write_json({**self.tree, "entry": [entry]})
