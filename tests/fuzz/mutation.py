"""Changes a body as a strange sender would: it stays JSON, and something in it is no longer what it was."""

from __future__ import annotations

from random import Random
from typing import Any

import orjson

STRANGE = [
    None,
    True,
    "true",
    0,
    -1,
    7,
    1.5,
    2**63,
    "",
    "1",
    "+1",
    "x",
    "DE.1",
    "1700000001",
    [],
    [None],
    {},
    {"id": []},
]


def mutate(body: bytes, seed: int) -> bytes | None:
    """The body with one to three places changed; None when it is no JSON object."""
    try:
        tree: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(tree, dict):
        return None
    random = Random(seed)
    for _ in range(random.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            break
        where, key = random.choice(places)
        other, its = random.choice(places)
        match random.randrange(5):
            case 0:
                del where[key]
            case 1:
                where[key] = _copied(random.choice(STRANGE))
            case 2:
                where[key] = _copied(other[its])  # of another place
            case 3 if isinstance(where, list):
                where.insert(0, _copied(other[its]))
            case _ if isinstance(where, dict):
                names = [name for _, name in places if isinstance(name, str)]
                where[random.choice(names)] = where.pop(key)
    return orjson.dumps(tree)


def _copied(tree: Any) -> Any:
    return orjson.loads(orjson.dumps(tree))


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container in the tree with every key of it."""
    found: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo:
        item = todo.pop()
        pairs = list(item.items()) if isinstance(item, dict) else list(enumerate(item))
        found += [(item, key) for key, _ in pairs]
        todo += [value for _, value in pairs if isinstance(value, dict | list)]
    return found
