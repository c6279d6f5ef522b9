"""The hash that workers count into: its histograms, and what is forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from ingest.state import counters
from ingest.store import keys


@given(st.lists(st.floats(-10, 10_000), min_size=1))
def test_each_duration_is_in_one_bucket(seconds: list[float]) -> None:
    """Every duration is counted once, at the first bound that is not below it; the sum never falls."""
    for what, bounds in counters.BOUNDS.items():
        expected: dict[str, int] = {}
        for one in seconds:
            name = f"{what}|x|{next(bound for bound in bounds if one <= bound)}"
            expected[name] = expected.get(name, 0) + 1
        fields = counters.observed(what, "x", list(seconds))
        assert fields.pop(f"{what}|x|sum") == pytest.approx(max(0, sum(seconds) * counters.PARTS[what]), abs=1)
        assert fields == expected


def test_a_clock_that_was_set_does_not_ruin_a_sum() -> None:
    """What came 50 years ago counts as a day: a sum must not come near what Redis can count to."""
    fields = counters.observed(counters.WAIT, "x", [1.0, 1_600_000_000.0, 1_700_000_000.0])
    assert fields == {"wait|x|sum": 2 * 86_400_000 + 1000, "wait|x|1.0": 1, "wait|x|inf": 2}


def test_handlers_are_forgotten(redis: Redis) -> None:
    """A handler that was not called for a week goes, and the longest silent beyond two hundred; nothing else does."""
    now = int(redis.time()[0])  # type: ignore[index]
    for n in range(counters.HANDLERS_KEPT + 10):
        redis.hset(keys.COUNTERS, mapping={f"handler|m.f{n}|sum": 5, f"handler|m.f{n}|seen": now - n})
    redis.hset(keys.COUNTERS, mapping={"handler|old|0.5": 1, "handler|old|seen": now - counters.HANDLER_SECONDS - 60})
    redis.hset(keys.COUNTERS, mapping={"list|old|sum": 1, "list|m.f1|sum": 2})
    redis.hset(keys.COUNTERS, mapping={"wait|other|sum": 1, "dead|other|poison": 2})
    counters.forget(redis)
    left = counters.read(redis)
    assert set(left[counters.HANDLER]) == {f"m.f{n}" for n in range(counters.HANDLERS_KEPT)}
    assert left[counters.LIST] == {"m.f1": {"sum": 2}}
    assert (left[counters.WAIT], left[counters.DEAD]) == ({"other": {"sum": 1}}, {"other": {"poison": 2}})


def test_any_name_of_a_handler(redis: Redis) -> None:
    """A handler's name may hold what separates the parts of a field."""
    redis.hset(keys.COUNTERS, mapping={"handler|a|b.<lambda>|inf": 2, "handler|a|b.<lambda>|sum": 7})
    assert counters.read(redis)[counters.HANDLER] == {"a|b.<lambda>": {"inf": 2, "sum": 7}}
