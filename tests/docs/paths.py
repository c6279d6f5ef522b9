"""Which attribute gives what stands at each place of a notification, found by altering each place of real ones."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from workers.events import Event, Profile
from workers.events.parsing import parse

SHARED = Path(__file__).parents[3] / "shared"

NOT_READ = {"raw", "envelope", "notification", "body_digest", "received_at", "received_ms", "attempt", "order_key"}
"""What an event has that does not count: all that was sent, as sent, and what was not sent."""

EXCEPTIONS = {
    "object": "the same in every notification of the Cloud API",
    "messaging_product": "the same in every notification of the Cloud API",
    "_vnd": "what Turn.io says of its own inbox; of it `direction` is read",
    "from_logical_id": "of a payment's sender, not described by Meta",
    "contacts": "of somebody who is in no element: in some of Meta's samples the numbers do not fit together",
    "gs_app_id": "what a relay adds beside the entries",
    "all.": "a sample of Meta's that stands beside another one by mistake",
    "entry[].field": "of a sample of Meta's in which the field stands at the wrong place",
    "entry[].object": "of the same sample",
    "messages[].timestamp": "in one sample a word",
    "statuses[].type": "`call` in field `calls`, which says the same",
    "from_user_id": "in a system message that says the new user id twice",
}
"""What `raw` or `envelope` alone may give, by a part of its path, and why."""

_MANY = 500  # of a body with more leaves, each path is tried once

Place = tuple[Any, ...]


def bodies() -> Iterator[Any]:
    """The samples and the cases, as far as they are JSON objects."""
    for path in sorted([*(SHARED / "corpus").glob("*__*.json"), *(SHARED / "cases").glob("*.json")]):
        try:
            tree = orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError:
            continue
        if isinstance(tree, dict):
            yield from (body for body in tree.get("bodies", [tree]) if _is_notification(body))


def _is_notification(body: Any) -> bool:
    return body.get("object", "whatsapp_business_account") == "whatsapp_business_account" and bool(
        body.keys() & {"entry", "messages", "statuses", "errors"}
    )


def leaves(tree: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value in a body that is no object and no array, with its place."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if items is None:
        yield place, tree
    else:
        for key, value in items:
            yield from leaves(value, (*place, key))


def path(place: Place) -> str:
    """A place as it is written in the table: `entry[].changes[].value.messages[].id`."""
    return "".join("[]" if isinstance(key, int) else f".{key}" for key in place).removeprefix(".")


def altered(tree: Any, place: Place) -> Any:
    """A copy with another value at one place."""
    if not place:
        return _other(tree)
    key, rest = place[0], place[1:]
    if isinstance(tree, dict):
        return {**tree, key: altered(tree[key], rest)}
    return [*tree[:key], altered(tree[key], rest), *tree[key + 1 :]]


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return str(int(value) + 1) if value.isdigit() else f"{value}x"
    return "x"


def read(body: Any) -> dict[str, Any]:
    """All that can be read of the events of a body, by event, class and attribute."""
    found: dict[str, Any] = {}
    for n, event in enumerate(parse(orjson.dumps(body), 1)):
        for one in (event, getattr(event, "profile", None)):
            if isinstance(one, Event):
                found |= {f"{n} {name}": value for name, value in _attributes(one)}
    return found


def _attributes(event: Event) -> Iterator[tuple[str, Any]]:
    class_ = next(c for c in type(event).__mro__ if c.__module__.startswith("workers.events") and _is_public(c))
    for name in dir(type(event)):
        if name[0] == "_" or name in NOT_READ or not isinstance(getattr(type(event), name), property):
            continue
        value = getattr(event, name)
        if not isinstance(value, Profile):
            yield from _values(f"{class_.__name__}.{name}", value)


def _is_public(class_: type) -> bool:
    return class_.__name__ not in {"Echo", "Sent", "Historic", "CallStatus", "Part"}


def _values(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _values(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, tuple) and any(dataclasses.is_dataclass(one) for one in value):
        for n, one in enumerate(value):
            yield from _values(f"{name}[{n}]", one)
    else:
        yield name, value


def givers(body: Any, place: Place, before: dict[str, Any]) -> set[str]:
    """The attributes that are another when the value at that place is another."""
    after = read(altered(body, place))
    return {name for name in before.keys() | after.keys() if before.get(name, ...) != after.get(name, ...)}


def best(names: set[str], before: dict[str, Any], leaf: Any) -> str:
    """Of the attributes that a value decides the one that says it, as directly as possible."""
    found = min(names, key=lambda name: (_distance(before.get(name), leaf), _is_general(name), name.count("."), name))
    return re.sub(r"\[\d+\]", "[]", found.partition(" ")[2])


def _is_general(name: str) -> bool:
    """True of an attribute that says the same as another one, for all types."""
    return name.endswith((".subject", ".content"))


def _distance(value: Any, leaf: Any) -> int:
    if isinstance(value, datetime):
        return 0 if str(int(value.timestamp())) == str(leaf) else 3
    if isinstance(value, str | int | float):
        return 0 if str(value).removesuffix(".0") == str(leaf) else 3
    if isinstance(value, dict | list | tuple | Mapping):
        return 1 if any(one == leaf for _, one in leaves(_plain(value))) else 3
    return 3


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value


@cache
def attributes_by_path() -> tuple[dict[str, str], set[str], set[str]]:
    """The attribute that gives what stands at each path, the paths that in some body no attribute gives, and those of
    them that neither `raw` nor `envelope` gives.
    """
    found_at: defaultdict[str, list[str]] = defaultdict(list)
    missed: set[str] = set()
    lost: set[str] = set()
    for body in bodies():
        before, everything, seen = read(body), _everything(body), set()
        found = list(leaves(body))
        for place, leaf in found if before else ():
            name = path(place)
            if len(found) > _MANY and name in seen:
                continue
            seen.add(name)
            names = givers(body, place, before)
            if not names:
                missed.add(name)
                lost |= {name} if _everything(altered(body, place)) == everything else set()
            else:
                found_at[name].append(best(names, before, leaf))
    return {name: _usual(names) for name, names in found_at.items()}, missed, lost


def _usual(names: list[str]) -> str:
    """The first one, of the class that most have: statuses are of messages, and a few are of calls."""
    class_, _ = Counter(name.partition(".")[0] for name in names).most_common(1)[0]
    return next(name for name in names if name.startswith(f"{class_}."))


def _everything(body: Any) -> list[bytes]:
    """`raw` and `envelope` of its events."""
    events = [event for event in parse(orjson.dumps(body), 1) if isinstance(event, Event)]
    return [orjson.dumps([event.raw, dict(event.envelope)]) for event in events]
