"""Whom an element of a notification names: the one reader of identity, for receiver and workers alike.

The receiver chooses a partition by it, and workers the order, so both must read the same.

Each reader gives what the element says of the contact: the number without a plus, the business-scoped user id, and the
id of the parent account. Senders write a user id, such as `US.13491208655302741918`, also where a number stands
otherwise; what looks like one is a user id wherever it stands. Nothing here raises, whatever the JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

Element = dict[str, Any]

Names = tuple[str | None, str | None, str | None]
"""Number, user id and parent id."""

NOBODY: Names = (None, None, None)

_PARENT = ".ENT."

# Numbers of Brazil, Mexico and Argentina have a digit more in some of their forms: after the country code and, in
# Brazil, the area code. By the length of the longer form: the country code, that digit, and where it stands.
_LONGER = {"55": ("9", 4), "52": ("1", 2), "54": ("9", 2)}
_LONG = 13


def of_message(element: Element, display: str = "") -> Names:
    """The contact of an element of `messages`. `display` is the business's own number, as the notification has it."""
    if "system" in element and isinstance(system := element["system"], dict):
        return _of_system(element, system)
    if "_vnd" in element and is_outbound(element):
        return of_echo(element, display)
    number, user = element.get("from"), element.get("from_user_id") or element.get("from_bsuid")
    parent = element.get("from_parent_user_id")
    if (
        type(number) is str
        and number.isdigit()
        and parent is None
        and (user is None or (type(user) is str and _PARENT not in user))
    ):
        return number, user, None  # as `_sorted` does, for nearly every message
    return _sorted(number, user, parent)


def is_outbound(element: Element) -> bool:
    """True for what Turn.io calls outbound: a message that the business sent."""
    found: Any = element.get("_vnd")
    for key in ("v1", "direction"):
        found = found.get(key) if isinstance(found, dict) else None
    return bool(found == "outbound")


def of_echo(element: Element, display: str = "") -> Names:
    """The contact of a message that the business sent: whom it went to.

    In standby the message itself is one level deeper. Meta's samples of edits have sender and recipient exchanged.
    """
    inner = element.get("message")
    one = {**inner, **element} if isinstance(inner, dict) else element
    number = one.get("to")
    if number and is_display(number, display) and not is_display(one.get("from"), display):
        number = one.get("from")
    user = one.get("to_user_id") or one.get("recipient_user_id") or one.get("recipient")
    return _sorted(number or one.get("recipient_id"), user, one.get("to_parent_user_id"))


def of_call(element: Element, display: str = "") -> Names:
    """The contact of an element of `calls`: who calls, or who is called."""
    if is_display(element.get("from"), display):
        return _side(element, "to")
    goes_out = element.get("direction") == "BUSINESS_INITIATED" and not is_display(element.get("to"), display)
    return _side(element, "to" if goes_out else "from")


def of_history(element: Element, display: str = "", thread: Element | None = None) -> Names:
    """The contact of an old message: with whom the thread is."""
    if thread and (names := _of_thread(thread)) != NOBODY:
        return names
    return of_echo(element, display) if is_display(element.get("from"), display) else of_message(element, display)


def of_status(element: Element, display: str = "") -> Names:
    """The recipient of a message, or of a call, by an element of `statuses`; a payment's is who pays."""
    number = element.get("recipient_id")
    if not number and isinstance(message := element.get("message"), dict):
        number = message.get("recipient_id")
    parent = (
        element.get("recipient_parent_user_id")
        or element.get("parent_recipient_user_id")
        or element.get("parent_user_id")
    )
    user = element.get("recipient_user_id")
    if not (number or user or parent):
        number = element.get("from")
    return _sorted(number, user, parent)


def of_participant(element: Element) -> Names:
    """Of which member of a group a status tells. Meta's documentation prints both spellings."""
    number = element.get("recipient_participant_id") or element.get("participant_recipient_id")
    user = element.get("recipient_participant_user_id")
    parent = element.get("recipient_participant_parent_user_id")
    return _sorted(number, user, parent) if number or user or parent else NOBODY  # outside of groups


def of_handover(value: Element, display: str = "") -> Names:
    """The contact whose conversation changes hands: the sender in the value of such a change."""
    sender = value.get("sender")
    if not isinstance(sender, dict):
        return NOBODY
    number = sender.get("phone_number") or sender.get("wa_id") or sender.get("id")
    return _sorted(number, sender.get("user_id"), sender.get("parent_user_id"))


def of_contact(element: Element, display: str = "") -> Names:
    """The contact in an element of `contacts` or `user_preferences`."""
    return _sorted(element.get("wa_id"), element.get("user_id"), element.get("parent_user_id"))


def new_names(system: Element) -> Names:
    """What a contact is called from now on, by the content of a system message."""
    # `new_wa_id` up to webhook version 11, `wa_id` from version 12 on.
    return _sorted(system.get("new_wa_id") or system.get("wa_id"), system.get("user_id"), system.get("parent_user_id"))


def business_of(value: Element) -> str:
    """The business number's id; empty when the notification names none."""
    found: Any = None
    if "metadata" in value and isinstance(metadata := value["metadata"], dict):
        found = metadata.get("phone_number_id")
        if type(found) is str:
            return found
    elif isinstance(recipient := value.get("recipient"), dict):  # in handovers
        found = recipient.get("phone_number_id")
    return "" if found is None else _written(found) or ""


def display_of(value: Element) -> str:
    """The business number as it is shown; empty when the notification does not say it."""
    for part in (value.get("metadata"), value.get("recipient"), value):
        if isinstance(part, dict) and (found := _written(part.get("display_phone_number"))):
            return found
    return ""


def is_display(number: object, display: str) -> bool:
    """True when that is the business's own number, however it is written."""
    mine = canonical(display) if display else ""
    return bool(mine) and isinstance(number, str | int) and canonical(str(number)) == mine


def canonical(number: str) -> str:
    """The same for all forms of a number: digits alone, and in Brazil, Mexico and Argentina without the digit that
    only some forms have."""
    digits = number if number.isascii() and number.isdigit() else "".join(filter("0123456789".__contains__, number))
    if len(digits) == _LONG and digits[:2] in _LONGER:
        extra, at = _LONGER[digits[:2]]
        if digits[at] == extra:
            return digits[:at] + digits[at + 1 :]
    return digits


def _of_system(element: Element, system: Element) -> Names:
    """As the contact was named before the change.

    Where a sender writes the new user id in the message's own field already, the former one is not known.
    """
    number = system.get("customer") or element.get("from") or system.get("user")
    user = element.get("from_user_id") or element.get("from_bsuid")
    parent = element.get("from_parent_user_id")
    number, own, of_parent = _sorted(number, user, parent)
    _, former, former_parent = _sorted(None, system.get("previous_user_id"), system.get("previous_parent_user_id"))
    return number, former or own, former_parent or of_parent


def _side(element: Element, side: str) -> Names:
    other = "from" if side == "to" else "to"
    user = element.get(f"{side}_user_id") or element.get(f"{other}_user_id") or element.get("from_bsuid")
    return _sorted(element.get(side), user, element.get(f"{side}_parent_user_id"))


def _of_thread(thread: Element) -> Names:
    context = thread.get("context")
    more = context if isinstance(context, dict) else {}
    return _sorted(thread.get("id") or more.get("wa_id"), more.get("user_id"), more.get("parent_user_id"))


def _sorted(number: Any, user: Any, parent: Any) -> Names:
    """Each as what it looks like, whatever key it stood at."""
    found = number if type(number) is str else _written(number)
    named = user if type(user) is str else None
    above = parent if type(parent) is str else None
    if found and found[2:3] == ".":
        found, named, above = (None, named, above or found) if _PARENT in found else (None, named or found, above)
    if named and not above and _PARENT in named:
        named, above = None, named
    return (found.removeprefix("+") or None) if found else None, named or None, above or None


def _written(value: Any) -> str | None:
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def keys_of(names: Names) -> list[tuple[int, str]]:
    """What tells a contact from others, with its sort: number, user id or parent id."""
    number, user, parent = names
    found = [(0, canonical(number) or number)] if number else []
    return found + [(n, name) for n, name in ((1, user), (2, parent)) if name]


def same(mine: Names, its: Names) -> bool:
    """True when both are called the same in some way."""
    return not set(keys_of(mine)).isdisjoint(keys_of(its))


def contradict(mine: Names, its: Names) -> bool:
    """True when both say who it is, in the same way, and it is somebody else."""
    if mine[0] and mine[0] == its[0]:  # nearly always
        return False
    pairs = list(zip(mine, its, strict=True))
    return any(one and other for one, other in pairs) and not same(mine, its)


READERS: dict[str, Callable[[Element], Names]] = {
    "messages": of_message,
    "message_echoes": of_echo,
    "statuses": of_status,
    "calls": of_call,
    "user_preferences": of_contact,
}
"""How the contact of an element is read, by the array that it stands in."""


def go_by_place(array: str, elements: Any, contacts: list[Any]) -> TypeGuard[list[Element]]:
    """Whether each element of an array goes with the contact at its place: there are as many, and none contradicts."""
    read = READERS.get(array)
    if read is None or not isinstance(elements, list) or len(elements) != len(contacts):
        return False
    return all(
        isinstance(element, dict) and isinstance(contact, dict) and not contradict(read(element), of_contact(contact))
        for element, contact in zip(elements, contacts, strict=True)
    )
