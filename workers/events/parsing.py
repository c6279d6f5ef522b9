"""From the bytes of a notification to its events.

One broken part never costs the rest: every element that is an object becomes an event, however incomplete,
and any other a `Broken` of its own. What is not known becomes a `Change`. Nothing here raises, whatever the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ingest import identity
from ingest.reading import Unreadable, platform, read
from ingest.reading import name_of as _name
from workers.events.broken import FOREIGN, Broken
from workers.events.call import Call, CallStatus
from workers.events.change import Change, Part
from workers.events.envelope import ELEMENTS, OF_ELEMENTS, SURROUNDING, Envelope, Notification, write_json
from workers.events.error import Error
from workers.events.event import Event
from workers.events.handover import Handover
from workers.events.message import Echo, Historic, Message, Sent
from workers.events.preference import Preference
from workers.events.status import Status
from workers.events.values import JsonObject

_KINDS: dict[str, type[Event]] = {
    "messages": Message,
    "message_echoes": Echo,
    "statuses": Status,
    "calls": Call,
    "user_preferences": Preference,
    "errors": Error,
}
"""Arrays of elements, in the order in which their events are given."""

_ORDER = {key: n for n, key in enumerate(_KINDS)}

# Every broken part is kept with the objects around it. This bounds their number and their sum, with what Redis needs
# for each: a body made of thousands of broken parts would grow to gigabytes and to thousands of dead letters. What is
# beyond is kept as the whole body.
_ROOM = 4096
_ROOM_PER_BYTE = 2
_PART_BYTES = 200
_PARTS = 100


def parse(
    body: bytes,
    received_ms: int,
    attempt: int = 1,
    body_digest: bytes = b"",
    shares: bytes = b"",
    headers: bytes = b"",
) -> list[Event | Broken]:
    """The events of a notification in the order of the body; within an object messages, echoes, statuses, calls,
    preferences, errors, and then all else.

    `received_ms` is when it was received, in epoch milliseconds, `attempt` the try, from 1, `body_digest`,
    `shares` and `headers` as in a `Record`. A body with the key `entry` is in the Cloud form, any other JSON object in
    the On-Premises form.
    An array is recognised by its name, whatever the field of the change. A change in which no such array stands is one
    `Change`, unless its field is `messages`: then each key that nobody knows is one, or each element of it. Bytes that
    are not a JSON object give one `Broken` (`unreadable`); an object that holds neither an event nor a broken element
    gives one, too (`unknown_form`).
    Source: "webhooks" in the Cloud and On-Premises documentation.
    """
    try:
        trees = read(body)
    except Unreadable as error:
        return [Broken("unreadable", "notification", body, str(error), received_ms, attempt)]
    found: list[Event | Broken] = []
    for tree in trees:
        if "object" in tree and (of := platform(tree)):
            found.append(Broken(FOREIGN, "notification", body, f"of another platform: {of}", received_ms, attempt))
            continue
        events = _Parsing(Notification(tree, received_ms, attempt, body, body_digest, shares, headers)).events()
        if len(trees) == 1:
            return events
        found += events
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


class _Parsing:
    """One body while it is parsed."""

    parts = _PARTS
    used = 0
    crowded = False

    def __init__(self, notification: Notification) -> None:
        self.notification = notification
        self.found: list[Event | Broken] = []

    def events(self) -> list[Event | Broken]:
        tree = self.notification.body
        if "entry" in tree:
            self._entries(tree["entry"])
        else:
            envelope = Envelope(self.notification, None, None, tree)
            if not self._elements(envelope) and identity.is_outbound(tree):
                self.found.append(Sent(tree, envelope))
        for item in self.found:
            if not isinstance(item, Broken) or item.kind not in ("notification", "change"):
                break
        else:
            return [self._whole("unknown_form", "neither a Cloud nor an On-Premises notification")]
        if len(self.found) > 1:
            self.notification.count = max(self.notification.count, len(self.found))
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
        envelope = Envelope(self.notification, entry, change, value if isinstance(value, dict) else {})
        if not isinstance(change, dict):
            self._broken("change", f"a change is {_name(change)}", envelope.around_change, change)
        elif envelope.field == "messages":
            if not self._elements(envelope):
                self._broken("change", "a change of field messages holds nothing", envelope.around_change, change)
        elif envelope.field == "messaging_handovers" and isinstance(value, dict):
            self.found.append(Handover(value, envelope))
        elif not self._known(envelope):
            self.found.append(Change(change, envelope))

    def _elements(self, envelope: Envelope) -> bool:
        """Reads a value of field `messages`, or an On-Premises body; False if there is nothing in it."""
        value = envelope.value
        keys = [key for key in value if key not in SURROUNDING]
        if len(keys) > 1:
            keys.sort(key=_place)
        before = len(self.found) + self.crowded
        for key in keys:
            content = value[key]
            if key in _KINDS:
                if isinstance(content, list):
                    self._array(envelope, key, content)
                elif content is not None:
                    kind = _KINDS[key].kind
                    self._broken(kind, f"{key} is {_name(content)}", envelope.around, key, content)
            elif not content or self._deeper(envelope, key, content):
                continue
            elif envelope.holds(key, content) and (envelope.change or not ELEMENTS.isdisjoint(keys)):
                self._parts(envelope, key, content)
        if envelope.change and len(self.found) + self.crowded == before:
            for key in ("contacts", "conversation_context"):
                if content := value.get(key):
                    self._parts(envelope, key, content)
        return len(self.found) + self.crowded > before

    def _known(self, envelope: Envelope) -> bool:
        """Reads what is known in a change of another field; False if there is nothing, and the change is one event."""
        value = envelope.value
        known = [key for key in value if key in ELEMENTS and _has_elements(value[key])]
        rest = {key: item for key, item in value.items() if key not in known}
        beside = [key for key in rest if key not in SURROUNDING]
        if not known:
            return False
        if known == ["errors"] and beside and ELEMENTS.isdisjoint(beside) and envelope.field not in OF_ELEMENTS:
            return False
        before = len(self.found)
        for key in sorted(known, key=_place):
            if key in _KINDS:
                self._array(envelope, key, value[key])
            elif not self._deeper(envelope, key, value[key]):
                beside.append(key)
                rest[key] = value[key]
        if any(envelope.holds(key, rest[key]) and rest[key] for key in beside) and len(self.found) > before:
            self._rest(envelope, rest)
        return len(self.found) > before

    def _rest(self, envelope: Envelope, rest: JsonObject) -> None:
        """What is not known in a value beside what is."""
        if envelope.outer is None:
            self.found.append(Change({**envelope.change, "value": rest}, envelope))
        else:
            around = Envelope(self.notification, envelope.entry, envelope.change, envelope.outer)
            self.found.append(_alone(around, "standby", rest))

    def _array(self, envelope: Envelope, array: str, content: list[Any]) -> None:
        """An event for each element."""
        make = _MAKES[array] if envelope.in_messages else _MAKES_IN.get((envelope.field, array)) or _MAKES[array]
        if array == "errors" and envelope.call_errors:
            return  # they are told by the call
        for n, raw in enumerate(content):
            if isinstance(raw, dict):
                self.found.append(make(raw, envelope))
            else:
                detail = f"element {n} of {array} is {_name(raw)}"
                self._broken(_KINDS[array].kind, detail, envelope.around, array, [raw])

    def _deeper(self, envelope: Envelope, key: str, content: Any) -> bool:
        """Reads what holds elements in another way; False if it does not."""
        if key == "history" and isinstance(content, list):
            for n, chunk in enumerate(content):
                self._chunk(envelope, n, chunk)
            return True
        if key == "user_id_update" and isinstance(content, list):
            for n, update in enumerate(content):
                self._update(envelope, n, update)
            return True
        if key == "standby" and isinstance(content, dict) and envelope.outer is None:
            return self._known(Envelope(self.notification, envelope.entry, envelope.change, content, envelope.value))
        return False

    def _update(self, envelope: Envelope, n: int, update: Any) -> None:
        if not isinstance(update, dict):
            detail = f"element {n} of user_id_update is {_name(update)}"
            self._broken("change", detail, envelope.around, "user_id_update", [update])
        else:
            contact = envelope.people.called(identity.of_contact(update))
            self.found.append(_alone(envelope, "user_id_update", [update], contact))

    def _chunk(self, envelope: Envelope, n: int, chunk: Any) -> None:
        """An event for each message of a part of the history, and one for what the part says of itself."""
        if not isinstance(chunk, dict):
            self._broken("change", f"element {n} of history is {_name(chunk)}", envelope.around, "history", [chunk])
            return
        threads = chunk.get("threads")
        if not isinstance(threads, list) or not all(map(_is_thread, threads)):
            self.found.append(_alone(envelope, "history", [chunk]))
            return
        itself = {key: item for key, item in chunk.items() if key != "threads"}
        if itself or not any(thread["messages"] for thread in threads):
            self.found.append(_alone(envelope, "history", [itself]))
        for thread in threads:
            around = {key: item for key, item in thread.items() if key != "messages"}
            self.found += [Historic(raw, envelope, around) for raw in thread["messages"]]

    def _parts(self, envelope: Envelope, key: str, content: Any) -> None:
        """What is not known: an event for each element if they are objects, else one."""
        if isinstance(content, list) and all(isinstance(one, dict) for one in content):
            self.found += [Part(key, one, envelope, True) for one in content]
        else:
            self.found.append(Part(key, content, envelope, False))

    def _broken(self, kind: str, detail: str, write: Callable[..., bytes], *part: Any) -> None:
        if self.parts == 0 or self.used >= _ROOM + _ROOM_PER_BYTE * len(self.notification.text):
            self.crowded = True
            return
        self.parts -= 1
        body = write(*part)
        self.used += len(body) + _PART_BYTES
        notification = self.notification
        self.found.append(Broken("malformed", kind, body, detail, notification.received_ms, notification.attempt))

    def _whole(self, reason: str, detail: str) -> Broken:
        notification = self.notification
        return Broken(reason, "notification", notification.text, detail, notification.received_ms, notification.attempt)

    def _entry_alone(self, entry: Any) -> bytes:
        return write_json({**self.notification.body, "entry": [entry]})


def _status(raw: JsonObject, envelope: Envelope) -> Event:
    return CallStatus(raw, envelope) if "type" in raw and raw["type"] == "call" else Status(raw, envelope)


_Make = Callable[[JsonObject, Envelope], Event]
_MAKES: dict[str, _Make] = {**_KINDS, "statuses": _status}
_MAKES_IN: dict[tuple[str | None, str], _Make] = {("calls", "statuses"): CallStatus, ("history", "messages"): Historic}
"""In some fields an array's elements are other events."""


def _alone(envelope: Envelope, key: str, content: Any, contact: JsonObject | None = None) -> Change:
    """A change with nothing in it but `content`, at this key."""
    if envelope.change is not None and envelope.field != "messages":
        return Change(envelope.change_of(key, content, contact), envelope)
    is_element = isinstance(content, list)
    return Part(key, content[0] if is_element else content, envelope, is_element)


def _place(key: str) -> int:
    return _ORDER.get(key, len(_ORDER))


def _has_elements(content: Any) -> bool:
    """Whether something stands at a known key: an array of elements, or for `standby` arrays of them."""
    if isinstance(content, dict):
        return any(key in ELEMENTS and isinstance(item, list) and item for key, item in content.items())
    return isinstance(content, list) and bool(content)


def _is_thread(thread: Any) -> bool:
    messages = thread.get("messages") if isinstance(thread, dict) else None
    return isinstance(messages, list) and all(isinstance(one, dict) for one in messages)
