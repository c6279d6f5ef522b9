"""Looks for bodies that cost more than their size: twice the size, several times the work."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.fuzz.test_reading import JSON, SEEDS, WORDS
from tests.workers.cost import steps

SIZE = 30_000
MOST = 3.5
"""Times the work of half the size. Twice is linear, four times quadratic."""

ENOUGH_SECONDS = 0.02
QUICK = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    # No search for what costs most, and no smaller example: both go by times, which never repeat, and went on for ever.
    phases=(Phase.explicit, Phase.generate),
)


def _objects(bodies: Iterator[bytes]) -> list[Any]:
    found = []
    for body in bodies:
        try:
            tree = orjson.loads(body)
        except orjson.JSONDecodeError:
            continue
        if isinstance(tree, dict):
            found.append(tree)
    return found


KNOWN = _objects(seed.read_bytes() for seed in SEEDS if seed.stat().st_size < 5000)
TREES = st.sampled_from(KNOWN) | st.dictionaries(st.sampled_from(WORDS), JSON)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands that can grow: an array, an object or a text."""
    if isinstance(tree, list | dict | str) and path:
        yield path
    for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from _places(item, (*path, key))


def _grown(tree: Any, path: tuple[Any, ...], size: int) -> bytes:
    """The notification with that place grown until it all has about this size; copies of an object differ."""
    tree = copy.deepcopy(tree)
    *before, last = path
    around = tree
    for key in before:
        around = around[key]
    item = around[last]
    each = max(1, len(orjson.dumps(item)))
    times = max(1, size // (each + 8))
    if isinstance(item, str):
        around[last] = (item or "x") * max(1, size // max(1, len(item.encode("utf-8", "replace")) or 1))
    elif isinstance(item, list):
        around[last] = [_other(one, n) for n in range(times) for one in item or [{}]]
    else:
        around[last] = {f"{key}{n}": value for n in range(times) for key, value in (item or {"k": 1}).items()} | item
    return orjson.dumps(tree)


def _other(item: Any, n: int) -> Any:
    return {**item, "id": f"{item.get('id')}{n}"} if isinstance(item, dict) else item


def _cost(body: bytes) -> float:
    return min(sum(seconds for _, seconds in steps(body)) for _ in range(2))


@pytest.mark.timeout(400)
@QUICK
@given(TREES, st.data())
def test_whatever_grows(tree: Any, data: st.DataObject) -> None:
    """Whatever of a notification grows, its work grows no faster."""
    places = list(_places(tree))
    assume(places)
    path = data.draw(st.sampled_from(places))
    large = _cost(_grown(tree, path, 2 * SIZE))
    if large < ENOUGH_SECONDS:
        return
    small = _cost(_grown(tree, path, SIZE))
    if large > MOST * small:
        large, small = _cost(_grown(tree, path, 2 * SIZE)), _cost(_grown(tree, path, SIZE))
    assert large < MOST * small, f"{1000 * small:.0f} ms, and {1000 * large:.0f} ms for twice the size"
