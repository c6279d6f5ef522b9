"""Which queue a notification goes to: its lane, and for messages the partition of its contact.

Routing never refuses a body. One that it cannot place goes to `other`, and the worker decides what it is.

A notification with messages of contacts in different partitions goes to each of these. The receiver alone decides which
partition handles which contact, and writes it into the records, as shares. A worker never computes it, so the settings
may change while notifications wait.

A contact goes by its number. One that a message names by the user id alone is looked up in the links that the receiver
knows; then, too, the record says which contact that is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from ingest import identity
from ingest.identity import business_of, display_of, of_message
from ingest.reading import Unreadable, read
from ingest.splitting import SPLIT_BYTES, split
from ingest.store.links import BUSINESS_LENGTH, Links, digest_of
from ingest.store.queues import MESSAGES, OTHER, STATUSES, partition_number
from ingest.store.records import Record

# Only bodies that match are parsed, so a flood of statuses never is. In valid JSON these bytes cannot stand inside a
# string, where the quotes would be escaped.
#
# It finds `"messages": [`, `"message_echoes"`, `"messaging_handovers"`, `"call"`, `"calls"`, `"user_pref` and `"_vnd"`,
# and a bit more: written like this, it costs no more than two words do.
_MAY_BE_URGENT = re.compile(rb'"[mcu_](?:essag(?:es"\s*:\s*\[|e_echoes"|ing_handovers")|alls?"|ser_pref|vnd")')

# The id of the first status, as senders write it, and how far behind its beginning the end of this is looked for. Where
# it does not match, `home` goes by the whole body.
_STATUS_ID = re.compile(rb'"statuses"\s*:\s*\[\s*\{[^{}]*?"id"\s*:\s*"([^"]+)"')
_STATUS_ID_WITHIN = 4096

# What the receiver parses and places at most: more would hold its event loop up for over 50 ms. Meta's largest
# notifications (3 MB, thousands of messages) stay below. Of each, so many take as long as one message or call.
_SMALL = 16 << 10  # bytes: less holds too little for any of this
_MOST_PLACED = 13_500
_VALUE = 3  # elements as which what holds them counts: each partition gets a part of it
_PARTS = 20  # commas and opening brackets: with each of them a value begins
_MOST_PARTS = 200_000
_SYSTEM = 20  # parts as which a system message counts beside its own: it may tell of another user id
_CONTACTS = 4
_MOST_LENIENT_PARTS = 40_000
_MOST_LENIENT_BYTES = 1 << 20
_CHOICES = 8  # partitions of which some are chosen for a business number

# What may stand in the value of a plain message, and what may not stand in the message itself (see `_lone_number`).
_AROUND_ONE = frozenset({"messaging_product", "metadata", "contacts", "messages"})
_NOT_PLAIN = frozenset({"system", "_vnd", "from_user_id", "from_bsuid", "from_parent_user_id"})

# A share: the checksum of business and contact, the contact's partition and key.
_SHARE = Struct(">IBI")


class Route(NamedTuple):
    """One queue that a notification goes to.

    `shares` is empty when this queue takes the whole notification. Otherwise it says of each contact in it which
    partition handles that contact's messages: each of these partitions gets a copy, or of a large one a `part`.
    `unknown` are digests of user ids in the notification of which no number is known here.
    """

    queue: str
    shares: bytes = b""
    unknown: tuple[bytes, ...] = ()
    part: bytes = b""


class Share(NamedTuple):
    """What a record says of one contact of its notification. The key tells contacts apart, whatever names them."""

    partition: int
    key: int


_STATUSES = (Route(STATUSES),)
_OTHER = (Route(OTHER),)


def order_key(shares: bytes, business: str | None, contact: str | None) -> str | None:
    """The same for all messages of a contact, by whatever they name it; None when they name nobody.

    It is a checksum. `shares` are those of the record; `contact` is the number, else the user id, else the
    parent's id.
    """
    if contact is None:
        return None
    share = _read(shares)[0].get(_checksum(business or "", contact)) if shares else None
    return f"{share.key if share else _key(contact):08x}"


def share_of(shares: bytes, business: str | None, contact: str | None) -> bytes:
    """The shares of a record for this contact alone: empty unless it is named by a linked user id."""
    checksum = _checksum(business or "", contact)
    share = _read(shares)[0].get(checksum) if shares else None
    return _SHARE.pack(checksum, *share) if share and share.key != _key(contact) else b""


def partition_of(contact: str | None, partitions: int) -> int:
    """The partition of a contact whose business may use all of them: the same in every process and at every start."""
    return _key(contact) % partitions


def partitions_of(body: Any, partitions: int) -> set[int]:
    """The partitions of a parsed body's messages and calls, as receivers of format 1 chose them."""
    return {partition_of(_contact_in_format_1(element), partitions) for element in _urgent_in_format_1(body)}


def partitions_of_business(business: str, partitions: int, per_business: int | None) -> Sequence[int]:
    """Those that messages to a business number may use. When WA_PARTITIONS changes, nearly all of them stay the same.

    On-Premises notifications name no business and use all.
    """
    if not business or per_business is None or per_business >= partitions:
        return range(partitions)
    return _chosen(business[:BUSINESS_LENGTH], partitions, per_business)


def route(
    body: bytes, partitions: int, per_business: int | None = None, links: Links | None = None
) -> tuple[Route, ...]:
    """The queues for a body, nearly always one. Never raises, whatever the bytes.

    `partitions` and `per_business` are WA_PARTITIONS and WA_BUSINESS_PARTITIONS. `links` learns what the body tells.
    """
    if _MAY_BE_URGENT.search(body) or body.startswith(b'"'):
        is_small = len(body) < _SMALL
        parts = 0 if is_small else _parts(body)
        if parts > _MOST_PARTS:
            return _OTHER
        try:
            trees = read(body, parts <= _MOST_LENIENT_PARTS and len(body) <= _MOST_LENIENT_BYTES)
        except Unreadable:
            return _OTHER
        pairs = b'"user_id"' in body
        if not pairs and len(trees) == 1 and per_business is None and (number := _lone_number(trees[0])):
            return _alone(_key(number) % partitions)
        placing = _Placing(partitions, per_business, links, pairs)
        if not is_small and not placing.is_affordable(trees, _MOST_PLACED - parts // _PARTS):
            return _OTHER
        for tree in trees:
            placing.place(tree)
        if placing.placed:
            return placing.routes(trees, len(body))
    return _STATUSES if b'"statuses"' in body else _OTHER


class Router:
    """`route` for the settings of a process: WA_PARTITIONS and WA_BUSINESS_PARTITIONS, and the links that it knows."""

    def __init__(self, partitions: int, per_business: int | None = None, links: Links | None = None) -> None:
        self.partitions = partitions
        self._per_business = per_business
        self._links = links or Links()

    def __call__(self, body: bytes) -> tuple[Route, ...]:
        return route(body, self.partitions, self._per_business, self._links)


def handles(
    partition: int | None, record: Record, business: str | None, element: dict[str, Any] | None, contact: str | None
) -> bool:
    """Whether a record in this partition is the one to handle an event of its notification: each event has one.

    `element` is what the event was made from, and names `contact`; None for an event of no contact. What no share names
    is for the lowest partition.
    """
    if record.split:
        return partition == _partition_by_split(record, element)
    shares, lowest = _read(record.shares)
    if lowest is None:
        return True
    share = None if element is None else shares.get(_checksum(business or "", contact))
    return partition == (share.partition if share else lowest)


def home(queue: str, body: bytes, count: int) -> int:
    """Which of `count` Redis a notification in this queue belongs to: the same in every process and at every start."""
    number = partition_number(queue)
    if number is not None:
        return number % count
    begin = body.find(b'"statuses"')
    found = _STATUS_ID.match(body, begin, begin + _STATUS_ID_WITHIN) if begin >= 0 else None
    return crc32(found[1] if found else body) % count


def _parts(body: bytes) -> int:
    return body.count(b",") + body.count(b"{") + body.count(b"[") + _SYSTEM * body.count(b'"system"')


@cache
def _alone(partition: int) -> tuple[Route, ...]:
    return (Route(f"{MESSAGES}.{partition}"),)


@lru_cache(maxsize=10_000)
def _chosen(business: str, partitions: int, count: int) -> tuple[int, ...]:
    """Rendezvous hashing: those whose digest with the business is lowest."""
    digests = {n: blake2b(f"{business}\0{n}".encode(), digest_size=8).digest() for n in range(partitions)}
    return tuple(sorted(digests, key=digests.__getitem__)[:count])


def _lone_number(body: dict[str, Any]) -> str | None:
    """The number that the only message of a notification names, if there is nothing else that could matter to where it
    goes: nearly always. It only spares `_Placing`, which would find the same.
    """
    value: Any = body
    if "entry" in body:
        if type(entries := body["entry"]) is not list or len(entries) != 1 or type(entries[0]) is not dict:
            return None
        changes = entries[0].get("changes")
        if type(changes) is not list or len(changes) != 1 or type(changes[0]) is not dict:
            return None
        if changes[0].get("field") != "messages" or type(value := changes[0].get("value")) is not dict:
            return None
    messages = value.get("messages")
    if type(messages) is not list or len(messages) != 1 or not _AROUND_ONE.issuperset(value):
        return None
    message = messages[0]
    if type(message) is not dict or not _NOT_PLAIN.isdisjoint(message):
        return None
    number = message.get("from")
    return number if type(number) is str and number.isdigit() else None


class _Placing:
    """Places the contacts of one parsed body's messages and calls. `pairs`: user ids may stand in `contacts`."""

    __slots__ = ("_linked", "_links", "_pairs", "_partitions", "_per_business", "_unknown", "placed")

    def __init__(self, partitions: int, per_business: int | None, links: Links | None, pairs: bool) -> None:
        self.placed: dict[tuple[str, str | None], tuple[int, int]] = {}  # partition and key
        self._partitions = partitions
        self._per_business = per_business
        self._links = links
        self._pairs = pairs
        self._unknown: list[bytes] = []
        self._linked = False

    def is_affordable(self, bodies: list[Any], most: int) -> bool:
        """Whether these take no more than `most` of `_MOST_PLACED`."""
        choice = 0 if self._per_business is None else self._partitions // _CHOICES
        businesses = set()
        for value, elements, _ in (found for body in bodies for found in _urgent(body)):
            contacts = value.get("contacts")
            most -= _VALUE + len(elements) + (len(contacts) // _CONTACTS if isinstance(contacts, list) else 0)
            businesses.add(business_of(value))
            if most < len(businesses) * choice:
                return False
        return True

    def place(self, body: Any) -> None:
        for value, elements, names in _urgent(body):
            business, people = business_of(value), None
            display = "" if names is of_message else display_of(value)
            for element in elements:
                number, user, parent = names(element, display)
                contact = number or user or parent
                key = _key(contact)
                if self._links is not None and (user or self._pairs):
                    if number and user:
                        self._links.learn(business, user, key)
                    else:
                        people = people or _People(value)
                        key = self._linked_key(self._links, business, number, user, key, people)
                    if "system" in element:
                        _learn_change(self._links, business, element, key)
                self.placed[business, contact] = (self._partition(business, key), key)

    def _partition(self, business: str, key: int) -> int:
        if self._per_business is None:
            return key % self._partitions
        mine = partitions_of_business(business, self._partitions, self._per_business)
        return mine[key % len(mine)]

    def _linked_key(
        self, links: Links, business: str, number: str | None, user: str | None, key: int, people: _People
    ) -> int:
        """The key of a contact whom a message names by number or user id alone; `contacts` may have the other one."""
        if number:
            if user := people.user(number):
                links.learn(business, user, key)
            return key
        if not user:
            return key
        digest = digest_of(business, user)
        known = links.find(digest)
        if known is None and (number := people.number(user)):
            known = _key(number)
            links.learn(business, user, known)
        if known is None:
            self._unknown.append(digest)
            return key
        self._linked = True
        return known

    def routes(self, trees: Sequence[Any], size: int) -> tuple[Route, ...]:
        """Those of these notifications, of `size` bytes together."""
        if len(self.placed) == 1 and not (self._linked or self._unknown):  # nearly always
            ((partition, _),) = self.placed.values()
            return _alone(partition)
        found = sorted({partition for partition, _ in self.placed.values()})
        if len(found) == 1 and not (self._linked or self._unknown):
            return _alone(*found)
        unknown = tuple(self._unknown)
        shares = {n: bytearray() for n in found}
        for who, share in self.placed.items() if len(found) > 1 or self._linked else ():
            shares[share[0]] += _SHARE.pack(_checksum(*who), *share)
        every = b"".join(shares.values())
        parts = (split(trees, self._owners(trees)) if (len(found) - 1) * size > SPLIT_BYTES else None) or {}
        return tuple(
            Route(f"{MESSAGES}.{n}", bytes(shares[n]), unknown, parts[n])
            if n in parts and n != found[0]
            else Route(f"{MESSAGES}.{n}", every, unknown)
            for n in found
        )

    def _owners(self, trees: Sequence[Any]) -> dict[int, int]:
        """The partition of each contact's element, by its id()."""
        owners = {}
        for tree in trees:
            for value, elements, names in _urgent(tree):
                business = identity.business_of(value)
                display = "" if names is identity.of_message else identity.display_of(value)
                for element in elements:
                    number, user, parent = names(element, display)
                    owners[id(element)] = self.placed[business, number or user or parent][0]
        return owners


class _People:
    """The pairs of number and user id in `contacts`, read when they are needed."""

    def __init__(self, value: dict[str, Any]) -> None:
        self._value = value

    def user(self, number: str) -> str | None:
        return self._users.get(identity.canonical(number))

    def number(self, user: str) -> str | None:
        return self._numbers.get(user)

    @cached_property
    def _users(self) -> dict[str, str]:
        return {identity.canonical(number): user for user, number in self._numbers.items()}

    @cached_property
    def _numbers(self) -> dict[str, str]:
        pairs = map(identity.of_contact, _objects(self._value.get("contacts")))
        return {user: number for number, user, _ in pairs if number and user}


def _learn_change(links: Links, business: str, element: dict[str, Any], key: int) -> None:
    """A system message that announces a contact's new user id links it, too."""
    system = element.get("system")
    if key and isinstance(system, dict) and (user := identity.new_names(system)[1]):
        links.learn(business, user, key)


def _contact_in_format_1(element: dict[str, Any]) -> str | None:
    """The user id came first then, and was nowhere but in its own field."""
    user, number = element.get("from_user_id"), element.get("from")
    if isinstance(user, str) and user:
        return user
    if isinstance(number, int) and not isinstance(number, bool):
        return str(number)
    return number.removeprefix("+") or None if isinstance(number, str) else None


def _key(contact: str | None) -> int:
    return crc32(contact.encode()) if contact else 0


def _checksum(business: str, contact: str | None) -> int:
    return crc32(f"{business[:BUSINESS_LENGTH]}\0{contact or ''}".encode())


@lru_cache(maxsize=8)  # each of up to 0.1 MB, and its `dict` of 2 MB
def _read(shares: bytes) -> tuple[dict[int, Share], int | None]:
    """Shares by checksum, and the lowest partition among them, or None when it is the only one."""
    found = {checksum: Share(partition, key) for checksum, partition, key in _SHARE.iter_unpack(shares)}
    partitions = {share.partition for share in found.values()}
    return found, min(partitions) if len(partitions) > 1 else None


def _partition_by_split(record: Record, element: dict[str, Any] | None) -> int:
    """For a record of format 1, which says only over how many partitions the contacts were spread."""
    found = _partitions_in_format_1(record.body, record.split)
    mine = min(found) if element is None else partition_of(_contact_in_format_1(element), record.split)
    return mine if mine in found else min(found)


@lru_cache(maxsize=64)
def _partitions_in_format_1(body: bytes, partitions: int) -> set[int]:
    return partitions_of(orjson.loads(body), partitions)


def _urgent_in_format_1(body: Any) -> Iterator[dict[str, Any]]:
    """The messages and calls that receivers of format 1 knew."""
    if isinstance(body, dict) and "entry" not in body:
        yield from _objects(body.get("messages"))
    elif isinstance(body, dict):
        for entry in _objects(body["entry"]):
            for change in _objects(entry.get("changes")):
                value, field = change.get("value"), change.get("field")
                if isinstance(value, dict) and field in ("messages", "calls"):
                    yield from _objects(value.get(field))


_Reader = Callable[[dict[str, Any], str], identity.Names]
_URGENT: dict[str, _Reader] = {
    "messages": of_message,
    "message_echoes": identity.of_echo,
    "calls": identity.of_call,
    "user_preferences": identity.of_contact,
}


def _urgent(body: Any) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], _Reader]]:
    """What is urgent in either body form, each array with the value that holds it and with how its contact is read.

    An array is recognised by its name, whatever the field; what comes with the history is never urgent.
    """
    if not isinstance(body, dict):
        return
    if "entry" not in body:
        if "messages" not in body or "standby" in body or "statuses" in body:
            yield from _urgent_otherwise(body, None)
            return
        for array in body:
            if array in _URGENT:
                yield body, _objects(body[array]), _URGENT[array]
        return
    for entry in _objects(body["entry"]):
        for change in _objects(entry.get("changes")):
            value, field = change.get("value"), change.get("field")
            if not isinstance(value, dict) or field == "history":
                continue
            if field != "messages" or "standby" in value or "statuses" in value:  # hardly ever
                yield from _urgent_otherwise(value, field)
                continue
            for array in value:
                if array in _URGENT:
                    yield value, _objects(value[array]), _URGENT[array]


def _urgent_otherwise(
    value: dict[str, Any], field: Any
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], _Reader]]:
    """The same, and what is no array: a handover, a call's status, what Turn.io posts alone, what is in standby."""
    for array in [key for key in _URGENT if key in value]:
        yield value, _objects(value[array]), _URGENT[array]
    if field == "messaging_handovers":
        yield value, [value], identity.of_handover
    statuses = _objects(value.get("statuses"))
    if calls := [one for one in statuses if field == "calls" or one.get("type") == "call"]:
        yield value, calls, identity.of_status
    if field is None and "messages" not in value and identity.is_outbound(value):  # Turn.io posts it like this
        yield value, [value], identity.of_echo
    if isinstance(standby := value.get("standby"), dict):
        around = {key: value.get(key) for key in ("metadata", "contacts")}
        yield from _urgent_otherwise({**around, **standby, "standby": None}, "standby")


def _objects(array: Any) -> list[dict[str, Any]]:
    if type(array) is list and len(array) == 1 and type(array[0]) is dict:
        return array
    return [element for element in array if isinstance(element, dict)] if isinstance(array, list) else []
