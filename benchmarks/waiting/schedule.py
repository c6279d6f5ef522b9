"""What is sent and when: one inbound message an event, whose text says how many milliseconds its handler waits.

The Cloud form, because it names the business that a message is for. Peers import this too, so it imports nothing that
needs installing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

CONTACTS = 1_000

_BODY = (
    '{"object":"whatsapp_business_account","entry":[{"id":"10%(business)06d","changes":[{"field":"messages","value":'
    '{"messaging_product":"whatsapp","metadata":{"display_phone_number":"1555%(business)07d",'
    '"phone_number_id":"20%(business)06d"},"contacts":[{"profile":{"name":"Jo Li"},"wa_id":"1631%(contact)07d"}],'
    '"messages":[{"from":"1631%(contact)07d","id":"gBGG%(number)032X","timestamp":"1760000000","type":"text",'
    '"text":{"body":"%(ms)d"}}]}}]}]}'
)


class Due(NamedTuple):
    """A body and when it is due, in seconds after the start."""

    after: float
    body: bytes


def body(number: int, contact: int, ms: int, business: int = 0) -> bytes:
    """The notification of the event with this number."""
    return (_BODY % {"number": number, "contact": contact, "ms": ms, "business": business}).encode()


def in_turn(number: int) -> int:
    """Who writes the n-th message when nobody writes again before all others have."""
    return number % CONTACTS


def at_random(number: int) -> int:
    """The same, as good as random: some write again while their last message is still at work."""
    return int.from_bytes(blake2b(b"%d" % number, digest_size=4).digest()) % CONTACTS


def steadily(count: int, rate: float, ms: int, who: Callable[[int], int] = in_turn) -> list[Due]:
    """So many events at this rate."""
    return [Due(number / rate, body(number, who(number), ms)) for number in range(count)]


def at_once(count: int, ms: int, first: int = 0) -> list[Due]:
    """So many events as fast as they can be sent, numbered from `first`."""
    return [Due(0.0, body(number, in_turn(number), ms)) for number in range(first, first + count)]


def told(message: dict[str, Any]) -> tuple[int, float]:
    """The number of an event, and the seconds that its handler is to wait."""
    return int(message["id"][4:], 16), float(message["text"]["body"]) / 1000


def write(file: Path, events: Iterable[Due]) -> None:
    """One on each line."""
    with file.open("wb") as opened:
        opened.writelines(b"%.6f %b\n" % due for due in events)


def read(file: Path) -> list[Due]:
    parts = (line.split(b" ", 1) for line in file.read_bytes().splitlines())
    return [Due(float(after), body) for after, body in parts]
