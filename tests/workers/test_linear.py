"""A notification twice as large takes twice the work: in each shape, and in each step from the receiver to the settle.

Times are of the CPU, the least of several tries; a step counts only where it takes long enough to be measured.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.workers.cost import steps
from workers.engine import claims

MOST = 2.5
"""What twice the size may cost, in times and in memory; a step that is quadratic takes four times."""

ENOUGH_SECONDS = 0.02
TRIES = 3
SMALL = 1_500  # elements

Shape = Callable[[int], Any]


def _message(n: int) -> dict[str, Any]:
    return {
        "from": f"1555{n:07d}",
        "id": f"wamid.{n}",
        "timestamp": "1700000000",
        "type": "text",
        "text": {"body": "x"},
    }


def _status(n: int) -> dict[str, Any]:
    return {"id": f"wamid.{n}", "status": "read", "timestamp": "1700000000", "recipient_id": f"1555{n:07d}"}


def _contact(n: int) -> dict[str, Any]:
    return {"wa_id": f"1555{n:07d}", "profile": {"name": f"N{n}"}}


def _cloud(field: str = "messages", entry: str = "9", business: str = "1", **value: Any) -> dict[str, Any]:
    change = {"field": field, "value": {"metadata": {"phone_number_id": business}, **value}}
    return {"entry": [{"id": entry, "changes": [change]}]}


def _each(make: Callable[[int], Any], count: int) -> list[Any]:
    return [make(n) for n in range(count)]


SHAPES: dict[str, Shape] = {
    "messages": lambda n: _cloud(messages=_each(_message, n)),
    "messages with contacts": lambda n: _cloud(messages=_each(_message, n), contacts=_each(_contact, n)),
    "messages beside a long contact": lambda n: _cloud(
        messages=_each(_message, n), contacts=[{"profile": {"name": "x" * 100 * n}}]
    ),
    "messages beside a long key": lambda n: _cloud(messages=_each(_message, n), junk="x" * 100 * n),
    "messages beside many keys": lambda n: _cloud(messages=_each(_message, n), **{f"k{i}": i for i in range(n)}),
    "messages of one contact": lambda n: _cloud(messages=[{**_message(i), "from": "1"} for i in range(n)]),
    "messages by user ids": lambda n: _cloud(
        messages=[{"from_user_id": f"US.{i}", "id": f"w{i}", "type": "text"} for i in range(n)],
        contacts=[{"wa_id": f"1555{i:07d}", "user_id": f"US.{i}"} for i in range(n)],
    ),
    "statuses": lambda n: _cloud(statuses=_each(_status, n)),
    "statuses with contacts": lambda n: _cloud(statuses=_each(_status, n), contacts=_each(_contact, n)),
    "statuses of one message": lambda n: _cloud(statuses=[{**_status(0), "timestamp": str(i)} for i in range(n)]),
    "statuses of an endless business": lambda n: _cloud(statuses=_each(_status, n), business="1" * 50 * n),
    "statuses beside two messages": lambda n: _cloud(statuses=_each(_status, n), messages=_each(_message, 2)),
    "errors": lambda n: _cloud(errors=[{"code": i, "title": "x"} for i in range(n)]),
    "changes": lambda n: {
        "entry": [{"id": "9", "changes": [{"field": "x", "value": {"a": i}} for i in range(n)]}],
    },
    "changes of an endless account": lambda n: {
        "entry": [{"id": "9" * 50 * n, "changes": [{"field": "x", "value": {"a": i}} for i in range(n)]}],
    },
    "changes with a message each": lambda n: {
        "entry": [_cloud(messages=[_message(i)])["entry"][0] | {"id": "9"} for i in range(n)]
    },
    "entries": lambda n: {"entry": [{"id": str(i), "changes": [{"field": "x", "value": {}}]} for i in range(n)]},
    "calls": lambda n: _cloud("calls", calls=[{"id": f"c{i}", "from": f"1{i}", "event": "connect"} for i in range(n)]),
    "echoes": lambda n: _cloud("smb_message_echoes", message_echoes=[{**_message(i), "to": "1"} for i in range(n)]),
    "preferences": lambda n: _cloud(
        "user_preferences", user_preferences=[{"wa_id": f"1{i}", "value": "stop"} for i in range(n)]
    ),
    "history": lambda n: _cloud("history", history=[{"threads": [{"id": "1", "messages": _each(_message, n)}]}]),
    "threads": lambda n: _cloud(
        "history", history=[{"threads": [{"id": f"1{i}", "messages": [_message(i)]} for i in range(n)]}]
    ),
    "an array that nobody knows": lambda n: _cloud(clicks=[{"x": i} for i in range(n)]),
    "arrays that nobody knows": lambda n: _cloud(**{f"a{i}": [{"x": i}] for i in range(n)}),
    "tiny elements": lambda n: _cloud(messages=[{"a": i} for i in range(2 * n)]),
    "broken elements": lambda n: _cloud(messages=[1] * 5 * n),
    "broken and other elements": lambda n: _cloud(messages=[1 if i % 2 else _message(i) for i in range(n)]),
    "broken entries": lambda n: {"entry": [1] * 5 * n},
    "a message of many keys": lambda n: _cloud(messages=[{**_message(0), **{f"k{i}": i for i in range(5 * n)}}]),
    "a long text": lambda n: _cloud(messages=[{**_message(0), "text": {"body": "x" * 500 * n}}]),
    "On-Premises": lambda n: {"messages": _each(_message, n), "contacts": _each(_contact, n)},
}


def _times(*bodies: bytes) -> list[dict[str, float]]:
    """The seconds of each step, of each body. They take turns: a slow while of the machine is not that of one alone."""
    least: list[dict[str, float]] = [{} for _ in bodies]
    for _ in range(TRIES):
        for body, its in zip(bodies, least, strict=True):
            gc.collect()
            for step, seconds in steps(body):
                its[step] = min(seconds, its.get(step, seconds))
    return least


def _too_much(shape: Shape, size: int) -> dict[str, str]:
    """The steps that take too much at twice this size, with their milliseconds at both."""
    small, large = _times(orjson.dumps(shape(size)), orjson.dumps(shape(2 * size)))
    return {
        step: f"{1000 * small[step]:.1f} and {1000 * large[step]:.1f} ms"
        for step in large
        if large[step] >= ENOUGH_SECONDS and large[step] > MOST * small[step]
    }


@pytest.mark.parametrize("name", SHAPES)
def test_twice_the_size_twice_the_time(name: str) -> None:
    """No step takes more than two and a half times as long; one that seems to has to do so again."""
    gc.disable()  # as it is tuned in receiver and worker: a look at all objects is not this notification's doing
    gc.freeze()  # what other tests have left is not looked at before each try
    try:
        found = _too_much(SHAPES[name], SMALL)
        if found:  # another process may have had the CPU's caches
            found = {step: times for step, times in _too_much(SHAPES[name], SMALL).items() if step in found}
        assert not found
    finally:
        gc.unfreeze()
        gc.enable()


@pytest.mark.parametrize("name", SHAPES)
def test_twice_the_size_twice_the_memory(name: str) -> None:
    """Nor does what is in hand, from the parsed notification to what is told Redis, need more than that."""

    def peak(size: int) -> int:
        body = orjson.dumps(SHAPES[name](size))
        for _ in steps(body):  # what is made once, for whatever comes first, is not this size's
            pass
        tracemalloc.start()
        try:
            for _ in steps(body):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(2 * SMALL // 3) < MOST * peak(SMALL // 3)


def test_quadratic_work_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a digest of the whole notification for each event, this test would fail."""
    real = claims.of

    def of(event: Any, waits: int = 0) -> Any:
        claims.blake2b(event._envelope.notification.text, digest_size=8).digest()
        return real(event, waits)

    monkeypatch.setattr(claims, "of", of)
    assert "claim" in _too_much(SHAPES["statuses"], SMALL)
