"""Which events are in a list that begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextvars import Context

from workers.dispatch.gathering import Gathering, Place
from workers.dispatch.lines import Lines
from workers.dispatch.outcomes import Outcome
from workers.dispatch.ready import Item
from workers.events import Event, Status
from workers.handler import Handler
from workers.handlers import Handlers

_LONG_SECONDS = 1.0  # in hand; a worker that is silent for some seconds may lose its batches to another one


class Company:
    """Of one process. `calls_of` says what to call for an event, in a `new_context`. `begun` is told of events that
    begin, `finish` of those that end by that.
    """

    def __init__(
        self,
        handlers: Handlers,
        lines: Lines,
        closed: Collection[str],
        new_context: Callable[[], Context],
        calls_of: Callable[[Item], list[tuple[Handler, Event]]],
        begun: Callable[[Item], None],
        finish: Callable[[Item, Outcome, float], None],
    ) -> None:
        self._handlers = handlers
        self._lines = lines
        self._closed = closed
        self._new_context = new_context
        self._calls_of = calls_of
        self._begun = begun
        self._finish = finish

    def may_have(self, event: Event) -> bool:
        """False when what an event is, or whether it may begin, depends on the end of those before it: a status may be
        superseded, a message may be news of a profile, and an event in strict order may have to wait.
        """
        if isinstance(event, Status) or self._handlers.wants_profiles:
            return False
        return not (self._handlers.any_strict_order and self._handlers.in_strict_order(event, ()))

    def of(self, gathering: Gathering, places: list[Place], more: int) -> list[Place]:
        """The list of what has gathered, and of at most so many later events of the same contacts."""
        found: list[Place] = []
        joined: list[Place] = []
        for place in places:
            self._lines.called(place.item)
            if not self._is_still_ours(place.item):
                continue
            found.append(place)
            while len(joined) < more and place.item.parts == 1:
                item = self._lines.behind(place.item)
                if item is None or not self._fits(item, gathering) or not self._joins(item, gathering, joined):
                    break
        return sorted(found + joined, key=lambda place: place.item.number)

    def _is_still_ours(self, item: Item) -> bool:
        """Ask again about an event that was admitted long ago. False when it has ended by that."""
        if item.parts > 1 or time.monotonic() - item.since < _LONG_SECONDS:
            return True
        item.account.put_off(item.event)
        outcome = self._new_context().run(item.account.admit, item.event)
        if outcome is None:
            return True
        item.parts = 0
        self._finish(item, outcome, time.monotonic())
        return False

    def _fits(self, item: Item, gathering: Gathering) -> bool:
        source, event = item.source, item.event
        if not source.open or source.gone or source.lane != gathering.lane or source.lane in self._closed:
            return False
        return event.attempt == 1 and not item.fault and self.may_have(event)

    def _joins(self, item: Item, gathering: Gathering, joined: list[Place]) -> bool:
        """Have an event begin in a list, if it goes to that handler alone. False when it waits on."""
        try:
            outcome = self._new_context().run(item.account.admit, item.event)
            calls = [] if outcome else self._calls_of(item)
        except Exception:  # it fails at this again when it begins by itself
            return False
        if outcome is None and [handler for handler, _ in calls] != [gathering.handler]:
            item.account.put_off(item.event)
            return False
        self._lines.join(item)
        self._begun(item)
        if outcome is None:
            item.parts, item.ended = 1, []
            joined.append(Place(item, calls[0][1], item.since))
        else:
            self._finish(item, outcome, time.monotonic())
        return True
