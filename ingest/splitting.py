"""A large notification for contacts in several partitions: what each of these gets.

To copy it to each would take as much memory, and time, as it has partitions. So the lowest one gets it whole, which
handles what is of no contact; each of the others gets a notification that holds the elements of its own contacts, with
what surrounds them as far as it is small.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from ingest import identity
from ingest.identity import Names

SPLIT_BYTES = 64 << 10
"""Copies of a notification may take so much together; beyond it, it is split."""

_AROUND = 4096  # bytes of each object around the elements that are kept
_SURROUNDING = ("messaging_product", "metadata", "conversation_context")

_Parts = dict[int, list[Any]]  # by partition


def split(trees: Collection[dict[str, Any]], owners: Mapping[int, int]) -> dict[int, bytes] | None:
    """The bodies of the partitions, by number. `owners`: the partition of each contact's element, by its id().

    None when an element does not stand where senders put it, or is nested deeper than orjson writes: then the
    notification cannot be split.
    """
    try:
        return _split(trees, owners)
    except orjson.JSONEncodeError:
        return None


def _split(trees: Collection[dict[str, Any]], owners: Mapping[int, int]) -> dict[int, bytes] | None:
    found: defaultdict[int, list[Any]] = defaultdict(list)
    placed = 0
    for tree in trees:
        parts, count = _of_tree(tree, owners)
        placed += count
        for partition, some in parts.items():
            found[partition] += some
    if placed != len(owners):
        return None
    return {partition: orjson.dumps(parts[0] if len(parts) == 1 else parts) for partition, parts in found.items()}


def _of_tree(tree: dict[str, Any], owners: Mapping[int, int]) -> tuple[_Parts, int]:
    """The parts of one notification, and how many of its elements are in them."""
    if "entry" not in tree:
        return _of_value(tree, owners)
    entries: defaultdict[int, list[Any]] = defaultdict(list)
    placed = 0
    for entry in filter(_is_object, tree["entry"]):
        changes: defaultdict[int, list[Any]] = defaultdict(list)
        for change in filter(_is_object, entry.get("changes") or ()):
            parts, count = _of_change(change, owners)
            placed += count
            for partition, part in parts.items():
                changes[partition] += part
        around = _small(entry, "changes") if changes else {}
        for partition, some in changes.items():
            entries[partition].append({**around, "changes": some})
    around = _small(tree, "entry")
    return {partition: [{**around, "entry": some}] for partition, some in entries.items()}, placed


def _of_change(change: dict[str, Any], owners: Mapping[int, int]) -> tuple[_Parts, int]:
    value = change.get("value")
    if not isinstance(value, dict):
        return {}, 0
    if id(value) in owners:  # a handover: the value itself is what is handled
        return {owners[id(value)]: [change]}, 1
    parts, placed = _of_value(value, owners, is_cloud=True)
    around = _small(change, "value") if parts else {}
    return {partition: [{**around, "value": part} for part in some] for partition, some in parts.items()}, placed


def _of_value(value: dict[str, Any], owners: Mapping[int, int], is_cloud: bool = False) -> tuple[_Parts, int]:
    """Each part has elements of one array: which contact is an element's goes by that array's length, too."""
    arrays: defaultdict[int, dict[str, list[Any]]] = defaultdict(dict)
    placed = 0
    for key, array in value.items():
        for number, element in enumerate(array) if isinstance(array, list) and key != "contacts" else ():
            partition = owners.get(id(element))
            if partition is not None:
                arrays[partition].setdefault(key, []).append((number, element))
                placed += 1
    nested: _Parts = {}
    if isinstance(inside := value.get("standby"), dict):
        nested, count = _of_value(inside, owners, is_cloud)
        placed += count
    if not placed:
        return {}, 0
    around = _small({key: item for key, item in value.items() if _surrounds(key, item, is_cloud)})
    contacts = _Contacts(value)
    parts: _Parts = {p: [{**around, "standby": part} for part in some] for p, some in nested.items()}
    for partition, of_partition in arrays.items():
        for key, numbered in of_partition.items():
            part = {**around, key: [element for _, element in numbered]}
            if found := contacts.of(key, numbered):
                part["contacts"] = found
            if key == "calls" and len(value[key]) == 1 and "errors" in value:  # they are the call's
                part["errors"] = value["errors"]
            parts.setdefault(partition, []).append(part)
    return parts, placed


class _Contacts:
    """The elements of `contacts` that go with a partition's elements."""

    def __init__(self, value: dict[str, Any]) -> None:
        self._value = value
        contacts = value.get("contacts")
        self._all = contacts if isinstance(contacts, list) else []
        self._by_place: dict[str, bool] = {}  # of each array
        self._by_name: dict[tuple[int, str], Any] | None = None

    def of(self, array: str, numbered: list[tuple[int, Any]]) -> list[Any]:
        """As workers find them: a lone one, the one that is called so, or else the one at the same place of as many."""
        if len(self._all) <= 1:  # all partitions get it
            return [_small(one) if isinstance(one, dict) else one for one in self._all]
        if array not in self._by_place:
            self._by_place[array] = identity.go_by_place(array, self._value[array], self._all)
        if self._by_place[array]:
            return [self._all[number] for number, _ in numbered]
        read = identity.READERS[array]
        called = [self._called(read(element)) for _, element in numbered]
        contacts = list({id(contact): contact for contact in called if contact is not None}.values())
        # Neither a lone contact nor as many as elements, which would be taken for those that have none.
        while contacts and (len(contacts) == 1 or len(contacts) == len(numbered)):
            contacts.append({})
        return contacts

    def _called(self, names: Names) -> Any:
        if self._by_name is None:
            self._by_name = {
                key: contact
                for contact in reversed(self._all)
                if isinstance(contact, dict)
                for key in identity.keys_of(identity.of_contact(contact))
            }
        return next((self._by_name[key] for key in identity.keys_of(names) if key in self._by_name), None)


def _surrounds(key: str, item: Any, is_cloud: bool) -> bool:
    """Whether it goes with the elements, and is no event of its own."""
    if key in _SURROUNDING:
        return True
    return not isinstance(item, list | dict) or (isinstance(item, dict) and not is_cloud)


def _small(table: dict[str, Any], without: str = "") -> dict[str, Any]:
    room, kept = _AROUND, {}
    for key, item in table.items():
        if key != without and (size := len(key) + len(orjson.dumps(item))) <= room:
            room -= size
            kept[key] = item
    return kept


def _is_object(item: Any) -> bool:
    return isinstance(item, dict)
