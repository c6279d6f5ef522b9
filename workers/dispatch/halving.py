"""Finding the events at which a list fails, with few calls."""

from __future__ import annotations

MOST_FOUND = 3
"""Events at fault that are looked for in one list."""

Settled = tuple[range, range]
"""Places in a list: of events that worked, and of events that failed."""


class Halving:
    """Which `part` of a list of `count` events is to be called next.

    After the list as a whole has failed, halves lead to the first event at fault. What comes before it is handled on
    the way; what comes after it is called together, once it is found. So one such event costs log2 N calls and one
    more, and nothing is called out of order.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._start, self._stop = 0, count
        self._upto: int | None = None  # an event between `_start` and this is at fault
        self._found = 0
        self._any_worked = False

    @property
    def part(self) -> range:
        """Empty when all events are settled."""
        return range(self._start, self._stop)

    @property
    def rest(self) -> range:
        """What is not settled yet."""
        return range(self._start, self._count)

    def worked(self) -> Settled:
        """The part needs no other call. Returns what is settled by that."""
        self._any_worked = True
        worked = self.part
        if self._upto is None:
            self._start, self._stop = self._stop, self._count
            return worked, range(0)
        return worked, self._search(self._stop, self._upto)

    def told(self) -> Settled:
        """The handler has said what became of each event of the part: that may have been what was looked for."""
        self._any_worked = True
        told = self.part
        self._start, self._stop, self._upto = self._stop, self._count, None
        return told, range(0)

    def failed(self) -> Settled:
        """The part failed as a whole. Returns what is settled by that."""
        is_hopeless = self._found >= MOST_FOUND or (self._found > 0 and not self._any_worked)
        if self._upto is None and is_hopeless:
            return range(0), self.give_up()
        return range(0), self._search(self._start, self._stop)

    def give_up(self) -> range:
        """Look no further. Returns what is left."""
        rest = self.rest
        self._start = self._stop = self._count
        return rest

    def _search(self, start: int, stop: int) -> range:
        """One of these is at fault. Returns it when it is the only one."""
        if stop - start > 1:
            self._start, self._stop, self._upto = start, (start + stop) // 2, stop
            return range(0)
        self._found += 1
        self._start, self._stop, self._upto = stop, self._count, None
        return range(start, stop)
