"""Which queue a notification goes to: its lane, and for messages the partition of its contact.

Routing never refuses a body. One that it cannot place goes to `other`, and the worker decides what it is.

A notification with messages of contacts in different partitions goes to each of these. The receiver alone decides which
partition handles which contact, and writes it into the records, as shares. A worker never computes it, so the settings
may change while notifications wait.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from ingest.store.queues import MESSAGES, OTHER, STATUSES, partition_number
from ingest.store.records import Record

# Only bodies that match are parsed, so a flood of statuses never is. In valid JSON these bytes cannot stand inside a
# string, where the quotes would be escaped.
_MAY_BE_URGENT = re.compile(rb'"(?:messages|calls)"\s*:\s*\[')

# The id of the first status, as senders write it. Where this does not match, `home` goes by the whole body.
_STATUS_ID = re.compile(rb'"statuses"\s*:\s*\[\s*\{[^{}]*?"id"\s*:\s*"([^"]+)"')

# Far more than Meta's largest notifications hold (3 MB, thousands of messages). Parsing so many would block the event
# loop for a quarter of a second or more.
_MOST_OBJECTS = 200_000

# A share: the checksum of business and contact, the contact's partition and key.
_SHARE = Struct(">IBI")


class Route(NamedTuple):
    """One queue that a notification goes to.

    `shares` is empty when this queue takes the whole notification. Otherwise it says of each contact in it which
    partition handles that contact's messages: each of these partitions gets a copy.
    """

    queue: str
    shares: bytes = b""


class Share(NamedTuple):
    """What a record says of one contact of its notification."""

    partition: int
    key: int


_STATUSES = (Route(STATUSES),)
_OTHER = (Route(OTHER),)


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
    """The partition of a contact whose business may use all of them: the same in every process and at every start."""
    return _key(contact) % partitions


def partitions_of(body: Any, partitions: int) -> set[int]:
    """The partitions of a parsed body's messages and calls, as receivers of format 1 chose them."""
    return {partition_of(contact_of(element), partitions) for _, element in _urgent(body)}


def partitions_of_business(business: str, partitions: int, per_business: int | None) -> Sequence[int]:
    """Those that messages to a business number may use. When WA_PARTITIONS changes, nearly all of them stay the same.

    On-Premises notifications name no business and use all.
    """
    if not business or per_business is None or per_business >= partitions:
        return range(partitions)
    return _chosen(business, partitions, per_business)


def route(body: bytes, partitions: int, per_business: int | None = None) -> tuple[Route, ...]:
    """The queues for a body, nearly always one. Never raises, whatever the bytes.

    `partitions` and `per_business` are WA_PARTITIONS and WA_BUSINESS_PARTITIONS.
    """
    if _MAY_BE_URGENT.search(body):
        if len(body) > _MOST_OBJECTS and body.count(b"{") > _MOST_OBJECTS:
            return _OTHER
        try:
            placed = _placed(orjson.loads(body), partitions, per_business)
        except orjson.JSONDecodeError:
            return _OTHER
        found = {share.partition for share in placed.values()}
        if len(found) == 1:
            return _alone(found.pop())
        if found:
            shares = b"".join(_SHARE.pack(_checksum(*who), *share) for who, share in placed.items())
            return tuple(Route(f"{MESSAGES}.{n}", shares) for n in sorted(found))
    return _STATUSES if b'"statuses"' in body else _OTHER


class Router:
    """`route` for the settings of a process: WA_PARTITIONS and WA_BUSINESS_PARTITIONS."""

    def __init__(self, partitions: int, per_business: int | None = None) -> None:
        self.partitions = partitions
        self._per_business = per_business

    def __call__(self, body: bytes) -> tuple[Route, ...]:
        return route(body, self.partitions, self._per_business)


def handles(partition: int | None, record: Record, business: str | None, element: dict[str, Any] | None) -> bool:
    """Whether a record in this partition is the one to handle an event of its notification: each event has one.

    `element` is the raw message, None for any other event. What no share names is for the lowest partition.
    """
    if record.split:
        return partition == _partition_by_split(record, element)
    shares, lowest = _read(record.shares)
    if lowest is None:
        return True
    share = None if element is None else shares.get(_checksum(business or "", contact_of(element)))
    return partition == (share.partition if share else lowest)


def home(queue: str, body: bytes, count: int) -> int:
    """Which of `count` Redis a notification in this queue belongs to: the same in every process and at every start."""
    number = partition_number(queue)
    if number is not None:
        return number % count
    found = _STATUS_ID.search(body)
    return crc32(found[1] if found else body) % count


@cache
def _alone(partition: int) -> tuple[Route, ...]:
    return (Route(f"{MESSAGES}.{partition}"),)


@lru_cache(maxsize=10_000)
def _chosen(business: str, partitions: int, count: int) -> tuple[int, ...]:
    """Rendezvous hashing: those whose digest with the business is lowest."""
    digests = {n: blake2b(f"{business}\0{n}".encode(), digest_size=8).digest() for n in range(partitions)}
    return tuple(sorted(digests, key=digests.__getitem__)[:count])


def _placed(body: Any, partitions: int, per_business: int | None) -> dict[tuple[str, str | None], Share]:
    """The contacts of a parsed body's messages and calls, each with its business, and where they belong."""
    placed = {}
    for business, element in _urgent(body):
        contact = contact_of(element)
        mine, key = partitions_of_business(business, partitions, per_business), _key(contact)
        placed[business, contact] = Share(mine[key % len(mine)], key)
    return placed


def _key(contact: str | None) -> int:
    return crc32(contact.encode()) if contact else 0


def _checksum(business: str, contact: str | None) -> int:
    return crc32(f"{business}\0{contact or ''}".encode())


@lru_cache(maxsize=64)
def _read(shares: bytes) -> tuple[dict[int, Share], int | None]:
    """Shares by checksum, and the lowest partition among them, or None when it is the only one."""
    found = {checksum: Share(partition, key) for checksum, partition, key in _SHARE.iter_unpack(shares)}
    partitions = {share.partition for share in found.values()}
    return found, min(partitions) if len(partitions) > 1 else None


def _partition_by_split(record: Record, element: dict[str, Any] | None) -> int:
    """For a record of format 1, which says only over how many partitions the contacts were spread."""
    if element is not None:
        return partition_of(contact_of(element), record.split)
    return min(partitions_of(orjson.loads(record.body), record.split))


def _urgent(body: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The message elements of either body form, and the calls of the Cloud form, each with its business or ""."""
    if not isinstance(body, dict):
        return
    if "entry" not in body:
        for element in _objects(body.get("messages")):
            yield "", element
        return
    for entry in _objects(body["entry"]):
        for change in _objects(entry.get("changes")):
            value, field = change.get("value"), change.get("field")
            if isinstance(value, dict) and field in ("messages", "calls"):
                business = _business(value)
                for element in _objects(value.get(field)):
                    yield business, element


def _business(value: dict[str, Any]) -> str:
    """The business number's id, as `Event.business` reads it."""
    metadata = value.get("metadata")
    found = metadata.get("phone_number_id") if isinstance(metadata, dict) else None
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""


def _objects(array: Any) -> Iterator[dict[str, Any]]:
    if isinstance(array, list):
        for element in array:
            if isinstance(element, dict):
                yield element
