"""Which of the events that wait for the same handlers goes first."""

from __future__ import annotations

from typing import Any

from workers.dispatch.parked import Parked


def test_what_catches_up_takes_turns_with_what_is_new() -> None:
    """Each sort keeps its order, and neither holds up the other."""
    parked, found = Parked(), []
    waiting: list[Any] = ["old 1", "old 2", "old 3", "new 1", "new 2"]
    for item in waiting:
        parked.add(item, 0.0, catches_up=item.startswith("old"))
    assert len(parked) == 5
    while parked:
        found.append(parked.first[0])
        parked.pop()
    assert found == ["new 1", "old 1", "new 2", "old 2", "old 3"]
