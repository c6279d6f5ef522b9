from __future__ import annotations

import math

import pytest

from workers.dispatch.halving import MOST_FOUND, Halving


def _run(count: int, at_fault: set[int]) -> tuple[list[range], list[int], set[int]]:
    """Call lists of so many events until all are settled: the calls, and what worked and what failed."""
    halving = Halving(count)
    calls: list[range] = []
    worked: list[int] = []
    failed: set[int] = set()
    while part := halving.part:
        calls.append(part)
        settled = halving.failed() if at_fault & set(part) else halving.worked()
        worked += settled[0]
        failed |= set(settled[1])
    return calls, worked, failed


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 500, 1000])
def test_one_event_at_fault(count: int) -> None:
    """Wherever it is, it fails alone, the others work in their order, and that costs log2 N calls and one more."""
    for n in range(count):
        calls, worked, failed = _run(count, {n})
        assert failed == {n}
        assert worked == [other for other in range(count) if other != n]
        assert len(calls) <= 1 + math.ceil(math.log2(count)) + 1


def test_several_at_fault() -> None:
    """A few of them are found one after another; when there are more, the rest fails with them, and calls end."""
    for count in range(1, MOST_FOUND + 1):
        at_fault = {1 + 100 * n for n in range(count)}
        assert _run(500, at_fault)[2] == at_fault
    calls, worked, failed = _run(500, set(range(1, 500, 10)))
    assert set(worked) | failed == set(range(500))
    assert not set(worked) & failed
    assert len(calls) <= 1 + MOST_FOUND * 10


def test_everything_fails() -> None:
    """When nothing at all works, the search ends after the first half that it went through."""
    calls, worked, failed = _run(500, set(range(500)))
    assert (worked, failed) == ([], set(range(500)))
    assert len(calls) <= 11


def test_giving_up() -> None:
    """What is not settled is what is left, at any moment."""
    halving = Halving(8)
    assert halving.failed() == (range(0), range(0))
    assert halving.worked() == (range(4), range(0))
    assert halving.give_up() == range(4, 8)
    assert not halving.part


def test_a_handler_that_says_which() -> None:
    """When a part is told event by event while one at fault is looked for, what is left is called: it may be fine."""
    halving = Halving(4)
    assert halving.failed() == (range(0), range(0))
    assert halving.part == range(2)
    assert halving.failed() == (range(0), range(0))
    assert halving.part == range(1)
    assert halving.told() == (range(1), range(0))
    assert halving.part == range(1, 4)
