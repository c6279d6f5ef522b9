"""The elements of a notification: contacts, messages, statuses, errors, with the fields that each sender gives them.

Source: "webhooks" in the On-Premises and Cloud documentation. Numbers and names are made up.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from workers.simulator.delays import Form

ACCOUNT = "102290129340398"
METADATA = {"display_phone_number": "15550783881", "phone_number_id": "106540352242922"}

_NAMES = ("Kerry Fisher", "Amara", "Jo Li", "Ana Sofía Ramos", "Dev Patel", "Noor", "Łukasz Wójcik", "梅 陳")
_TEXTS = (
    "Hello",
    "Where is my order? It was to be here by noon",
    "Thanks a lot! 😀",
    "Könnten Sie mich bitte zurückrufen?",
    "see https://example.com/orders/1042 or write to ada@example.com",
    "¿Tienen este modelo en azul?",
)


def number(contact: int) -> str:
    """A contact's wa_id."""
    return f"1555{contact:08}"


def _user_id(contact: int) -> str | None:
    """The business-scoped user id, which the Cloud API tells of some contacts."""
    return f"US.13491{contact:015}" if contact % 3 == 0 else None


def contact(form: Form, contact: int) -> dict[str, Any]:
    """Who wrote."""
    who: dict[str, Any] = {"profile": {"name": _NAMES[contact % len(_NAMES)]}, "wa_id": number(contact)}
    if form == "cloud" and (user := _user_id(contact)):
        who["user_id"] = user
    return who


def message(form: Form, contact: int, id: str, now: str, random: Random, is_text: bool = False) -> dict[str, Any]:
    """A message that a contact wrote, half of them text, or one that is."""
    write = _text if is_text else random.choices(_CONTENTS, _WEIGHTS)[0]
    type_, content = write(form, random)
    raw: dict[str, Any] = {"from": number(contact), "id": id, "timestamp": now, "type": type_, type_: content}
    if form == "cloud" and (user := _user_id(contact)):
        raw["from_user_id"] = user
    if type_ in ("button", "interactive"):  # they answer a message of the business
        raw["context"] = {"from": METADATA["display_phone_number"], "id": "gBGGFlA5FpafAgkOuJbRq54qwbM"}
    return raw


def _text(form: Form, random: Random) -> tuple[str, dict[str, Any]]:
    return "text", {"body": random.choice(_TEXTS)}


def _image(form: Form, random: Random) -> tuple[str, dict[str, Any]]:
    return "image", _media(random, "image/jpeg") | {"caption": random.choice(_TEXTS)}


def _spoken(form: Form, random: Random) -> tuple[str, dict[str, Any]]:
    media = _media(random, "audio/ogg; codecs=opus")
    return ("audio", media | {"voice": True}) if form == "cloud" else ("voice", media)


def _media(random: Random, mime_type: str) -> dict[str, Any]:
    return {"id": str(random.getrandbits(50)), "mime_type": mime_type, "sha256": f"{random.getrandbits(256):064x}"}


def _location(form: Form, random: Random) -> tuple[str, dict[str, Any]]:
    return "location", {"latitude": random.uniform(-90, 90), "longitude": random.uniform(-180, 180)}


def _button(form: Form, random: Random) -> tuple[str, dict[str, Any]]:
    return "button", {"payload": "confirm-1042", "text": random.choice(("Yes", "No"))}


def _reply(form: Form, random: Random) -> tuple[str, dict[str, Any]]:
    return "interactive", {"type": "button_reply", "button_reply": {"id": "call-me", "title": "Call me"}}


def _choice(form: Form, random: Random) -> tuple[str, dict[str, Any]]:
    row = {"id": f"size-{random.randrange(5)}", "title": "Size", "description": "of the box"}
    return "interactive", {"type": "list_reply", "list_reply": row}


_CHOICES: dict[Callable[[Form, Random], tuple[str, dict[str, Any]]], int] = {
    _text: 10,
    _image: 3,
    _spoken: 2,
    _location: 1,
    _button: 2,
    _reply: 1,
    _choice: 1,
}
_CONTENTS, _WEIGHTS = tuple(_CHOICES), tuple(_CHOICES.values())


def status(form: Form, contact: int, id: str, status: str, now: str) -> dict[str, Any]:
    """What became of a message to a contact. On-Premises only `sent` tells the price."""
    raw: dict[str, Any] = {"id": id, "status": status, "timestamp": now, "recipient_id": number(contact)}
    if form == "cloud":
        raw["pricing"] = {"billable": True, "pricing_model": "PMP", "category": "utility", "type": "regular"}
        if user := _user_id(contact):
            raw["recipient_user_id"] = user
    elif status == "sent":
        raw["conversation"] = {"id": f"{contact:032x}", "origin": {"type": "business_initiated"}}
        raw["pricing"] = {"pricing_model": "CBP", "billable": True}
    return raw


_CODES = {
    130429: ("Rate limit hit", "There were too many messages sent from this phone number in a short period of time"),
    131031: ("Account locked", "The account is restricted or disabled"),
}


def error(form: Form, random: Random) -> dict[str, Any]:
    """A fault that belongs to no message."""
    if form == "onprem":
        return {"code": 400, "title": "Media download error", "details": "Failed to download the media from the sender"}
    code, (title, details) = random.choice(tuple(_CODES.items()))
    return {"code": code, "title": title, "message": title, "error_data": {"details": details}}
