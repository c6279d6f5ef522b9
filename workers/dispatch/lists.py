"""Calling bulk handlers with lists of the events that gathered for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import Context
from typing import Any

from ingest.telemetry.logs import in_work
from workers.dispatch.breakdowns import Breakdowns
from workers.dispatch.calls import Begun, Calls, Room
from workers.dispatch.gathering import Gathering, Place
from workers.dispatch.halving import Halving, Settled
from workers.dispatch.outcomes import LAGS, NOT_BEGUN, Ended, HandlerTimeout, decided
from workers.dispatch.parked import BRIEF_SECONDS, patience
from workers.dispatch.rate_limits import HandlerLimiter, RateLimits
from workers.dispatch.ready import Item
from workers.dispatch.tally import Tally
from workers.dispatch.threads import Failure
from workers.events import Event
from workers.handler import Handler
from workers.raised import PartialFailure


class ListCall(Begun):
    """One call for a list: with all of it or a part, or to tell its failures."""

    __slots__ = ("of",)
    tells_failures = False  # before it is known which events failed

    def __init__(
        self, of: _List, context: Context, calls: list[tuple[Handler, Any]], failures: Sequence[Failure] = ()
    ) -> None:
        super().__init__(of.lane, calls, context, failures)
        self.of = of


class _List:
    """Events that are handled together, until each has ended."""

    def __init__(self, gathering: Gathering, room: Room, places: list[Place]) -> None:
        self.handler = gathering.handler
        self.lane = gathering.lane
        self.limiter: HandlerLimiter | None = gathering.limiter
        self.room = room
        self.places = places
        self.halving = Halving(len(places))
        self.began = time.monotonic()
        self.any_worked = False
        self.error: BaseException | None = None  # of the last call that failed as a whole
        self.failed: list[tuple[Place, Ended]] = []

    def fields(self) -> dict[str, object]:
        """For log lines."""
        return {"lane": self.lane, "events": len(self.halving.part) or len(self.places)}


class Lists:
    """Of one process. `timeout` (seconds) is what a list and its parts may take before no other part is called.

    `ended` is called with how an event's place in a list ended. `company` makes a list of the events that have gathered
    and so many more at most. `lag` is called with handlers that have more to do than they may begin.
    """

    def __init__(
        self,
        calls: Calls,
        timeout: float,
        tally: Tally,
        breakdowns: Breakdowns | None,
        rate_limits: RateLimits | None,
        tells_failures: bool,
        stopping: Callable[[], bool],
        ended: Callable[[Item, Ended], None],
        company: Callable[[Gathering, list[Place], int], list[Place]],
        lag: Callable[[Iterable[Handler]], None],
    ) -> None:
        self._calls = calls
        self._timeout = timeout
        self._tally = tally
        self._breakdowns = breakdowns
        self._rate_limits = rate_limits
        self._tells_failures = tells_failures
        self._stopping = stopping
        self._ended = ended
        self._company = company
        self._lag = lag
        self._leave_at = 0.0  # by the monotonic clock
        self._gatherings: dict[tuple[Handler, str], Gathering] = {}

    def gathering(self, handler: Handler, lane: str, room: Room) -> Gathering:
        """Where events of this lane wait for company; their lists begin in this room."""
        found = self._gatherings.get((handler, lane))
        if found is None:
            limiter = self._rate_limits.of(handler) if self._rate_limits else None
            found = self._gatherings[handler, lane] = Gathering(handler, lane, limiter)
            room.ready.add_gathering(found)
        return found

    def waiting(self) -> Iterator[tuple[str, list[Item]]]:
        """Of each handler that may not be called now, the events that wait for that. Any thread may ask."""
        for one in list(self._gatherings.values()):
            if one.limiter is not None and one.limiter.holds_up and (items := one.items):
                yield one.handler.name, items

    def leave(self, limits: RateLimits | None) -> float | None:
        """Have events go on without handlers that may not be called, those that have waited for them long enough.
        Returns the seconds until it is to be called again, if any wait. Looking at all of them has its price, so it
        does not look more often than that.
        """
        now = time.monotonic()
        if now < self._leave_at:
            return self._leave_at - now
        held_up = [one for one in self._gatherings.values() if len(one) and one.limiter and one.limiter.wait()]
        for gathering in held_up:
            late = gathering.take_those(lambda place: patience(place.item, limits, place.since) <= 0)
            if late:
                self._lag([gathering.handler])
                self._all(late, Ended(gathering.handler, waits=LAGS))
        if not held_up:
            return None
        self._leave_at = now + BRIEF_SECONDS
        return BRIEF_SECONDS

    @property
    def limiters(self) -> list[HandlerLimiter]:
        """Of the handlers for which events wait."""
        return [one.limiter for one in self._gatherings.values() if len(one) and one.limiter]

    def begin(self, gathering: Gathering, room: Room) -> None:
        """Call the handler with the next list; it may be called now."""
        down = self._breakdowns is not None and self._breakdowns.is_down(gathering.handler)
        if down and self._breakdowns and (seconds := self._breakdowns.wait(gathering.handler)):
            self._all(gathering.take_all(), Ended(gathering.handler, waits=seconds))
            return
        places, more = (gathering.take_one(), 0) if down else gathering.take()
        places = self._company(gathering, places, more)
        if not places:
            if self._breakdowns is not None:
                self._breakdowns.not_called(gathering.handler)
            return
        if gathering.limiter is not None:
            gathering.limiter.begin(len(places))
        self._call(_List(gathering, room, places))

    def give_back(self) -> None:
        """The worker stops: what waits for company has not begun."""
        for gathering in self._gatherings.values():
            self._all(gathering.take_all(), Ended(gathering.handler, waits=NOT_BEGUN))

    def call_ended(self, call: ListCall) -> None:
        """A call for a list has ended."""
        one = call.of
        if not call.calls:  # its failures are told
            self._tell_outcomes(one)
            return
        self._note(one, call.ended[0])
        if one.halving.part and self._stopping():
            self.not_begun(call)
        elif one.halving.part:
            self._call(one)
        else:
            self._end(one)

    def not_begun(self, call: ListCall) -> None:
        """A call was interrupted: what is left of the list has not begun."""
        one = call.of
        self._all([one.places[n] for n in one.halving.give_up()], Ended(one.handler, waits=NOT_BEGUN))
        if call.calls:
            self._end(one)
        else:
            self._tell_outcomes(one)

    def _call(self, one: _List) -> None:
        arguments = [one.places[n].argument for n in one.halving.part]
        self._calls.begin(ListCall(one, self._context(one), [(one.handler, arguments)]), one.room)

    def _context(self, one: _List) -> Context:
        """A context of its own, in which log lines name the list."""
        context = self._calls.new_context()
        context.run(in_work.set, (_List.fields, one))
        return context

    def _note(self, one: _List, call: Ended) -> None:
        """A part of a list was called: what worked ends now, what failed with the list."""
        part = one.halving.part
        error, errors = _read(call.error, [one.places[n].argument for n in part])
        one.error = error or one.error
        broke = error or next((each for each in errors.values() if not decided(each)), None)
        self._tally.note(one.lane, call._replace(error=broke))
        self._tally.note_list(one.handler.name, len(part))
        worked, failed = one.halving.told() if errors else self._settled(one, error)
        one.failed += [(one.places[n], Ended(one.handler, call.seconds, one.error)) for n in failed]
        for n in worked:
            place = one.places[n]
            ended = Ended(one.handler, call.seconds, errors.get(place.argument))
            if ended.broke:
                one.failed.append((place, ended))
            else:
                one.any_worked = True
                self._ended(place.item, ended)

    def _settled(self, one: _List, error: BaseException | None) -> Settled:
        if error is None:
            return one.halving.worked()
        # A list that takes too long would take long again; each of its events has the time for itself at its next try.
        if isinstance(error, HandlerTimeout) or time.monotonic() - one.began >= self._timeout:
            return range(0), one.halving.give_up()
        return one.halving.failed()

    def _end(self, one: _List) -> None:
        """All calls for a list have ended."""
        if one.limiter is not None:
            one.limiter.end()
        failures = [(place.argument, ended) for place, ended in one.failed]
        if self._breakdowns is not None and (one.any_worked or one.failed):
            last = Ended(one.handler) if one.any_worked else one.failed[0][1]
            if self._breakdowns.note(last, one.places[0].item.event):
                put_off = Ended(one.handler, waits=self._breakdowns.wait(one.handler) or 1.0)
                one.failed = [(place, put_off) for place, _ in one.failed]
        if failures and self._tells_failures and not self._calls.hangs:
            self._calls.begin(ListCall(one, self._context(one), [], failures), one.room)
        else:
            self._tell_outcomes(one)

    def _tell_outcomes(self, one: _List) -> None:
        for place, ended in one.failed:
            self._ended(place.item, ended)

    def _all(self, places: Iterable[Place], ended: Ended) -> None:
        for place in places:
            self._ended(place.item, ended)


def _read(
    error: BaseException | None, events: list[Event]
) -> tuple[BaseException | None, Mapping[Event, BaseException]]:
    """What a call with these events raised: what fails all of them, and what is raised for some alone."""
    if isinstance(error, PartialFailure):
        if error.errors.keys() <= set(events):
            return None, error.errors
        return ValueError("PartialFailure names an event that is not in the list"), {}
    if error is not None and decided(error):
        return None, dict.fromkeys(events, error)
    return error, {}
