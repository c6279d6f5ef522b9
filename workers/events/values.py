"""What events are made of: lenient readers, and small values inside an element.

Both senders vary: a client version leaves a key out, documentation samples print a number where captures have
a string. So a reader takes the object and a key and returns the type that is wanted, or None; none of them
raises, whatever the JSON holds. `bool` never counts as a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

JsonObject = dict[str, Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")

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


def decimal(element: JsonObject, key: str) -> float | None:
    """A number, also when it came as a string."""
    value = element.get(key)
    if isinstance(value, str):
        return float(value) if len(value) <= _MAX_DIGITS and _DECIMAL.fullmatch(value) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


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


# The values' reprs leave out whatever may be personal, because they end up in users' logs.


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

    `model` is `CBP` (per conversation) or `PMP` (per message, since July 2025), `category` names the rate (`marketing`,
    `utility`, `authentication`, `service`, …), `type` says whether it was charged (`regular`, `free_customer_service`,
    `free_entry_point`). All three are open sets: from October 2026 on, `regular` may stand where
    `free_customer_service` stood. `billable` is deprecated.
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


@dataclass(frozen=True, slots=True)
class Payment:
    """The payment that a message asked for. `reference_id` is the business's own, `amount` counts in the smallest unit:
    `offset` of them are one unit of the `currency`. `sender` is who pays. `transaction_*` is what the payment provider
    says of the last try; its status and type are open sets.
    Source: "payment" in the Cloud and On-Premises documentation of payments.
    """

    reference_id: str | None = field(repr=False)
    amount: int | None = field(repr=False)
    offset: int | None = field(repr=False)
    currency: str | None = field(repr=False)
    sender: str | None = field(repr=False)
    transaction_id: str | None = field(repr=False)
    transaction_type: str | None = field(repr=False)
    transaction_status: str | None = field(repr=False)
    transaction_created_at: datetime | None = field(repr=False)
    transaction_updated_at: datetime | None = field(repr=False)
    transaction_error: Fault | None = field(repr=False)

    @classmethod
    def read(cls, element: JsonObject) -> Payment:
        amount, transaction = table(element, "amount") or {}, table(element, "transaction") or {}
        error = table(transaction, "error")
        return cls(
            text(element, "reference_id"),
            number(amount, "value"),
            number(amount, "offset"),
            text(element, "currency"),
            phone(element, "sender"),
            text(transaction, "id"),
            text(transaction, "type"),
            text(transaction, "status"),
            moment(transaction, "created_timestamp"),
            moment(transaction, "updated_timestamp"),
            None if error is None else Fault.read(error),
        )
