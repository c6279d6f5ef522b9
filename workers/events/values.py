"""What events are made of: lenient readers, small values inside an element, the notification around it.

Both senders vary: a client version leaves a key out, documentation samples print a number where captures have
a string. So a reader takes the object and a key and answers with the type that is wanted or None; none of
them raises, whatever the JSON holds. `bool` never counts as a number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

JsonObject = dict[str, Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_ARRAYS = frozenset({"contacts", "messages", "statuses", "errors"})

# More digits than a 64-bit number has: no code or time, and int() refuses strings of thousands of digits.
_MAX_DIGITS = 19


def text(element: JsonObject, key: str) -> str | None:
    """A string; whole numbers are written as digits."""
    value = element.get(key)
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def phone(element: JsonObject, key: str) -> str | None:
    """A phone number or wa_id without a leading plus; None when empty, so that `or` can try the next key."""
    value = text(element, key)
    return (value.removeprefix("+") or None) if value else None


def number(element: JsonObject, key: str) -> int | None:
    """A whole number, also when it came as a string of digits."""
    value = element.get(key)
    if isinstance(value, str):
        return int(value) if len(value) <= _MAX_DIGITS and value.isascii() and value.isdigit() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def flag(element: JsonObject, key: str) -> bool | None:
    """True or False, also when it came as the string "true" or "false"."""
    value = element.get(key)
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value)
    return value if isinstance(value, bool) else None


def moment(element: JsonObject, key: str) -> datetime | None:
    """Epoch seconds as an aware UTC datetime; None outside the years that datetime knows."""
    seconds = number(element, key)
    if seconds is None:
        return None
    try:
        return EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return None


def table(element: JsonObject, key: str) -> JsonObject | None:
    """A JSON object."""
    value = element.get(key)
    return value if isinstance(value, dict) else None


def tables(element: JsonObject, key: str) -> tuple[JsonObject, ...]:
    """The objects of an array; what is not an object is left out."""
    value = element.get(key)
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def error_details(element: JsonObject) -> str | None:
    """On-Premises clients write `details`, the Cloud API `error_data.details`."""
    details = text(element, "details")
    return text(table(element, "error_data") or {}, "details") if details is None else details


# The values' reprs leave out whatever may be personal: they end up in users' logs.


@dataclass(frozen=True, slots=True)
class Fault:
    """One element of an `errors` array, inside a message or a status or on its own.

    `code` is a number of Meta's error code list, such as 470 or 131051. `title` is its short name, `message`
    and `details` explain it, `href` leads to its documentation and may be relative.
    Source: "errors" in the On-Premises and Cloud webhook documentation.
    """

    code: int | None
    title: str | None = field(repr=False)
    details: str | None = field(repr=False)
    href: str | None = field(repr=False)
    message: str | None = field(repr=False)

    @classmethod
    def read(cls, element: JsonObject) -> Fault:
        return cls(
            number(element, "code"),
            text(element, "title"),
            error_details(element),
            text(element, "href"),
            text(element, "message"),
        )


@dataclass(frozen=True, slots=True)
class Media:
    """The content of an image, video, audio, voice, document or sticker message.

    `id` is the media id: valid 7 days in the Cloud API. `mime_type` may carry parameters (`audio/ogg;
    codecs=opus`). `sha256` is as sent: hex from On-Premises clients, base64 from the Cloud API. `url` is the
    Cloud API's download address: valid 5 minutes, needs the access token. `link` and `file` are On-Premises:
    a provider's address, and a path on the media volume. `voice` tells a recorded voice message from an audio
    file; it is True for the On-Premises type `voice`. `animated` belongs to stickers.
    Source: media objects in the On-Premises and Cloud webhook documentation.
    """

    id: str | None = field(repr=False)
    mime_type: str | None = field(repr=False)
    sha256: str | None = field(repr=False)
    caption: str | None = field(repr=False)
    filename: str | None = field(repr=False)
    url: str | None = field(repr=False)
    link: str | None = field(repr=False)
    file: str | None = field(repr=False)
    voice: bool | None
    animated: bool | None

    @classmethod
    def read(cls, type_: str, content: JsonObject) -> Media:
        return cls(
            text(content, "id"),
            text(content, "mime_type"),
            text(content, "sha256"),
            text(content, "caption"),
            text(content, "filename"),
            text(content, "url"),
            text(content, "link"),
            text(content, "file"),
            True if type_ == "voice" else flag(content, "voice"),
            flag(content, "animated"),
        )


@dataclass(frozen=True, slots=True)
class Pricing:
    """What a message costs, as far as the sender says.

    `model` is `CBP` (per conversation) or `PMP` (per message), `category` names the rate (`marketing`,
    `utility`, `authentication`, `service`, …), `type` says whether it was charged (`regular`,
    `free_customer_service`, `free_entry_point`). All three are open sets. `billable` is on its way out.
    Source: "pricing" in the Cloud and On-Premises documentation of statuses.
    """

    billable: bool | None
    model: str | None = field(repr=False)
    category: str | None = field(repr=False)
    type: str | None = field(repr=False)

    @classmethod
    def read(cls, element: JsonObject) -> Pricing:
        return cls(
            flag(element, "billable"),
            text(element, "pricing_model"),
            text(element, "category"),
            text(element, "type"),
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """The conversation that a message was billed in; the Cloud API leaves it out from v24.0 on.

    `origin` is who or what opened it (`user_initiated`, `business_initiated`, `referral_conversion`,
    `marketing`, `service`, …). `expires_at` is an aware UTC datetime and comes with status `sent` only.
    Source: "conversation" in the Cloud and On-Premises documentation of statuses.
    """

    id: str | None = field(repr=False)
    origin: str | None = field(repr=False)
    expires_at: datetime | None

    @classmethod
    def read(cls, element: JsonObject) -> Conversation:
        return cls(
            text(element, "id"),
            text(table(element, "origin") or {}, "type"),
            moment(element, "expiration_timestamp"),
        )


class Envelope:
    """The notification around events: the objects that enclose them, as parsed. One for each Cloud change.

    `change` and `entry` are None in the On-Premises form, whose `value` is the body itself. `text` are the bytes that
    were parsed, `body_digest` the digest of those that were received if these are others.
    """

    __slots__ = ("_people", "attempt", "body", "body_digest", "change", "entry", "received_ms", "text", "value")

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
    ) -> None:
        self.body = body
        self.entry = entry
        self.change = change
        self.value = value
        self.received_ms = received_ms
        self.attempt = attempt
        self.text = text
        self.body_digest = body_digest
        self._people: _People | None = None

    def around(self, array: str, content: Any, contact: JsonObject | None = None) -> bytes:
        """The notification with nothing in its arrays but `content`, as `array`, and the contact."""
        value = {k: v for k, v in self.value.items() if k not in _ARRAYS}
        if contact is not None:
            value["contacts"] = [contact]
        value[array] = content
        if self.change is None:
            return write_json(value)
        return self.around_change({**self.change, "value": value})

    def around_change(self, change: Any) -> bytes:
        """The Cloud notification with this change alone."""
        return write_json({**self.body, "entry": [{**(self.entry or {}), "changes": [change]}]})

    @property
    def only_contact(self) -> JsonObject | None:
        """The element of `contacts` when it is the only one and says no user id: then it is everybody's."""
        contacts = self.value.get("contacts")
        if isinstance(contacts, list) and len(contacts) == 1:
            lone = contacts[0]
            if isinstance(lone, dict) and not lone.get("user_id"):
                return lone
        return None

    def contact(self, numbers: tuple[str | None, ...], users: tuple[str | None, ...]) -> JsonObject | None:
        """The element of `contacts` with one of these numbers, else one of these user ids, else a lone one.

        A lone contact with a user id is not taken for an element with another user id.
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


class _People:
    """The contacts by number and by user id: a notification of 1,000 elements may hold as many contacts."""

    __slots__ = ("by_number", "by_user", "lone")

    def __init__(self, contacts: list[Any]) -> None:
        objects = [item for item in contacts if isinstance(item, dict)]
        # Reversed, so that the first of two equal ones is kept.
        self.by_number = {n: item for item in reversed(objects) if (n := phone(item, "wa_id"))}
        self.by_user = {u: item for item in reversed(objects) if (u := text(item, "user_id"))}
        self.lone = objects[0] if len(objects) == 1 else None


def write_json(tree: Any) -> bytes:
    """Any JSON that orjson has read. orjson reads 1024 levels, but writes no more than 254."""
    try:
        return orjson.dumps(tree)
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
