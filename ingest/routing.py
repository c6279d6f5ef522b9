"""Which queue a notification goes to: its lane, and for messages the partition of its contact.

Routing never refuses a body. One that it cannot place goes to `other`, and the worker decides what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from ingest.store.queues import MESSAGES, OTHER, STATUSES, partition_number

# Only bodies that match are parsed, so a flood of statuses never is. In valid JSON these bytes cannot stand inside a
# string, where the quotes would be escaped.
_MAY_BE_URGENT = re.compile(rb'"(?:messages|calls)"\s*:\s*\[')

# The id of the first status, as senders write it. Where this does not match, `home` goes by the whole body.
_STATUS_ID = re.compile(rb'"statuses"\s*:\s*\[\s*\{[^{}]*?"id"\s*:\s*"([^"]+)"')

# Far more than Meta's largest notifications hold (3 MB, thousands of messages). Parsing so many would block the event
# loop for a quarter of a second or more.
_MOST_OBJECTS = 200_000


class Route(NamedTuple):
    """One queue that a notification goes to.

    `split` is 0 when this queue takes the whole notification. It is the number of partitions when the notification
    holds messages of contacts in different partitions: then each of these partitions gets a copy and handles the
    messages of its own contacts only, which keeps every contact's messages in order.
    """

    queue: str
    split: int


_STATUSES = (Route(STATUSES, 0),)
_OTHER = (Route(OTHER, 0),)


def contact_of(element: dict[str, Any]) -> str | None:
    """The contact that a message or call belongs to: business-scoped user id, else the number without a plus.

    The user id comes first because the Cloud API sends it with every message since March 2026 while `from` may be
    absent; On-Premises senders send only `from`.
    """
    user = element.get("from_user_id")
    if isinstance(user, str) and user:
        return user
    number = element.get("from")
    if isinstance(number, int) and not isinstance(number, bool):
        return str(number)
    if isinstance(number, str):
        return number.removeprefix("+") or None
    return None


def partition_of(contact: str | None, partitions: int) -> int:
    """The partition of a contact: the same in every process and at every start."""
    return crc32(contact.encode()) % partitions if contact else 0


def partitions_of(body: Any, partitions: int) -> set[int]:
    """The partitions that a parsed body's messages and calls belong to; empty when it holds none."""
    return {partition_of(contact_of(element), partitions) for element in _urgent(body)}


def route(body: bytes, partitions: int) -> tuple[Route, ...]:
    """The queues for a body, nearly always one. Never raises, whatever the bytes."""
    if _MAY_BE_URGENT.search(body):
        if len(body) > _MOST_OBJECTS and body.count(b"{") > _MOST_OBJECTS:
            return _OTHER
        try:
            found = partitions_of(orjson.loads(body), partitions)
        except orjson.JSONDecodeError:
            return _OTHER
        if len(found) == 1:
            return _alone(found.pop())
        if found:
            return tuple(Route(f"{MESSAGES}.{n}", partitions) for n in sorted(found))
    return _STATUSES if b'"statuses"' in body else _OTHER


def home(queue: str, body: bytes, count: int) -> int:
    """Which of `count` Redis a notification in this queue belongs to: the same in every process and at every start."""
    number = partition_number(queue)
    if number is not None:
        return number % count
    found = _STATUS_ID.search(body)
    return crc32(found[1] if found else body) % count


@cache
def _alone(partition: int) -> tuple[Route, ...]:
    return (Route(f"{MESSAGES}.{partition}", 0),)


def _urgent(body: Any) -> Iterator[dict[str, Any]]:
    """The message elements of either body form, and the calls of the Cloud form."""
    if not isinstance(body, dict):
        return
    if "entry" not in body:
        yield from _objects(body.get("messages"))
        return
    for entry in _objects(body["entry"]):
        for change in _objects(entry.get("changes")):
            value, field = change.get("value"), change.get("field")
            if isinstance(value, dict) and field in ("messages", "calls"):
                yield from _objects(value.get(field))


def _objects(array: Any) -> Iterator[dict[str, Any]]:
    if isinstance(array, list):
        for element in array:
            if isinstance(element, dict):
                yield element
