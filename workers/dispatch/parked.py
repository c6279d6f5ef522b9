"""Events that wait until their handlers may be called."""

from __future__ import annotations

from collections import deque

from workers.dispatch.ready import Item


class Parked:
    """Of the same handlers, each in order of arrival. What other handlers of the event have handled before, and one has
    to catch up on, takes turns with what is new: for that, others wait.
    """

    def __init__(self) -> None:
        self._new: deque[Item] = deque()
        self._catching_up: deque[Item] = deque()
        self._turn = self._new

    def __len__(self) -> int:
        return len(self._new) + len(self._catching_up)

    def add(self, item: Item, catches_up: bool) -> None:
        (self._catching_up if catches_up else self._new).append(item)

    @property
    def first(self) -> Item:
        """The next one; there must be some."""
        return self._next[0]

    def pop(self) -> None:
        """The first one goes; the next turn is that of the others."""
        self._next.popleft()
        self._turn = self._other

    @property
    def _next(self) -> deque[Item]:
        return self._turn or self._other

    @property
    def _other(self) -> deque[Item]:
        return self._catching_up if self._turn is self._new else self._new
