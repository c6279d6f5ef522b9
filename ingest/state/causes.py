"""Why events of handlers and destinations wait, and how many; where what is in work stands: in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Literal, NamedTuple

from ingest.state.backlog import LATE_SECONDS, YOUNG_SECONDS, Backlog, Lane, Retrying, span
from ingest.state.handlers import Handler, usual_seconds
from ingest.state.in_work import CANNOT_LOAD, STARTUP_FAILS, Call
from ingest.terminal import counted

SOME_FAIL = "some-calls-fail"
_BEHIND = "a-handler-or-destination-is-behind"
_HANGS = "a-handler-hangs"
_LONG_SECONDS = 10.0  # a call that takes no longer never is worth a look
_MANY_TIMES = 3  # as long as usual is worth one, also while slots are free
_LONGEST_SECONDS = 60.0  # and so is this, however long calls of the handler usually take
_FOR_A_SLOT = "for a free slot or thread"
_NAMES = 3  # that are shown at most
_COUNTED_SECONDS = 70.0  # the failures of the last minute are not older
_THEN = {
    CANNOT_LOAD: "then start workers: `wa-ingest work`; `up --reload` does so by itself",
    STARTUP_FAILS: "or what it needs; an `up` or `work` that runs tries again, with the settings of its start",
}
_THEN_ALIVE = {
    CANNOT_LOAD: "then start the workers again; `up --reload` does so by itself",
    STARTUP_FAILS: _THEN[STARTUP_FAILS],
}


class Cause(NamedTuple):
    """What is the matter with a handler, or with the workers. `about` names the finding, `topic` the section of
    docs/troubleshooting.md.
    """

    level: Literal["critical", "warning", "info"]
    about: str
    text: str
    remedy: str
    topic: str


def told(now: Backlog, time: float) -> Iterator[Cause]:
    """What to tell of each handler at that time (seconds since the epoch); nothing of those that are paused."""
    handlers = {one.name: one for one in now.handlers}
    for broken in now.broken:
        if (one := handlers[broken.handler]).held == "paused":  # no next try comes
            continue
        since = "" if broken.since is None else f", it has failed for {_age(broken.since, time)}"
        text = f"{broken}{since}{_and(waits(one))}{_and(_untaken(now, one.name))}"
        remedy = "Mend it or what it needs; its events wait and use up no tries, those of other handlers go on"
        yield Cause("warning", f"broken.{one.name}", text[0].upper() + text[1:], remedy, "a-handler-always-fails")
    for name, calls in _by_handler(now.in_work).items():
        if _is_long(now, name, calls):
            mine = handlers.get(name)
            if mine is not None and (mine.held or _is_of_now(mine, time)):  # its own line says what waits
                mine = None
            yield _takes_long(now, name, calls, waits(mine) if mine else "")
            if mine:
                del handlers[name]
    for one in handlers.values():
        if one.held is None and one.gone:
            yield _is_gone(one)
        elif now.workers and one.held is None and _is_of_now(one, time):
            yield _fails(one, time)
        elif one.held is None and one.owed and one.oldest_seconds >= YOUNG_SECONDS:
            yield _is_behind(one)
        elif one.held is None and one.held_back:
            yield Cause("info", f"lags.{one.name}", f"Handler {one.name} is held back: {one.held_back}", "", _BEHIND)


def of_workers(now: Backlog, time: float) -> Cause | None:
    """That no worker is alive, and why, if the last one has said so; or that no other one could start now."""
    why = now.unloadable
    if now.workers and why is None:
        return None
    waiting = sum(lane.waiting + lane.working for lane in now.lanes.values())
    text = "No worker is alive"
    if waiting:
        text += f": {counted(waiting, 'notification waits', 'notifications wait')}"
        text += f", the oldest for {span(max(lane.oldest_seconds for lane in now.lanes.values()))}"
    if why is None:
        remedy = "Start workers: `wa-ingest work`; their log says why they ended"
        return Cause("critical", "workers", text, remedy, "no-worker-is-alive")
    failed = f"{f'for {span(max(0.0, time - why.since))} ' if why.since else ''}none could start: {why.text}"
    mend = why.remedy[0].upper() + why.remedy[1:]
    if not now.workers:
        return Cause("critical", "workers", f"{text}; {failed}", f"{mend}, {_THEN[why.topic]}", why.topic)
    those = "1 worker goes on" if now.workers == 1 else f"{now.workers:,} workers go on"
    text = f"{those} with what was loaded before; {failed}"
    return Cause("warning", "workers.new", text, f"{mend}, {_THEN_ALIVE[why.topic]}", why.topic)


def waits(one: Handler) -> str:
    """How much waits for it, and for how long, in words; empty: nothing."""
    places = (
        (one.turns, f"for {_its(one.turns)} turn{f' ({one.held_back})' if one.held_back else ''}"),
        (one.ready, _FOR_A_SLOT),
        (one.retrying, f"for the next try{f' ({one.held_back})' if one.held_back and not one.turns else ''}"),
        (one.due, f"for a worker to try {'it' if one.due == 1 else 'them'} again"),
    )
    parts: list[str] = []
    for count, where in places:
        if count:
            wait = "" if parts else " event waits" if count == 1 else " events wait"
            parts.append(f"{count:,}{wait} {where}")
    return f"{_and_last(parts)}, the oldest for {span(one.oldest_seconds)}" if parts else ""


def _untaken(now: Backlog, handler: str) -> str:
    """What waits in the lanes of a handler that is held up, without what is `due` to be tried again; empty: nothing. A
    lane of which all handlers are held up is not taken.
    """
    due = {one.lane: one.due for one in now.owed if one.handler == handler and one.lane in now.lanes}
    waiting = {lane: now.lanes[lane].waiting - tried for lane, tried in due.items()}
    parts = [f"{counted(count, 'notification')} of {lane}" for lane, count in waiting.items() if count > 0]
    return f"no worker has taken {_and_last(parts)} yet" if parts else ""


def _its(count: int) -> str:
    return "its" if count == 1 else "their"


def in_work(lane: Lane) -> str:
    """Where all that a lane has in work stands, in words; what is told adds up. Empty: it all goes on."""
    places = (
        (lane.running, "under way"),
        (lane.ready, f"waiting {_FOR_A_SLOT}"),
        (lane.turns, "waiting for their turn (see their handlers)"),
        (lane.in_line, "waiting behind an earlier one of the same contact"),
        (lane.gathering, "waiting for company in a list"),
    )
    told = sum(count for count, _ in places)
    rest = (max(0, lane.working - told), "being taken up, or done behind one that is under way")
    return _and_last([f"{count:,} {where}" for count, where in (*places, rest) if count]) if told else ""


def next_try(again: Retrying, first: str) -> str:
    """When the first of these is tried; `first` is what stands before the time."""
    when = f"{first} {span(again.next_seconds)}"
    if not again.put_off:
        return when
    until = "put off until their handler goes on"
    return until if again.put_off >= again.events else f"{when}, {again.put_off:,} of them {until}"


def of_lane(now: Backlog, lane: str) -> str:
    """Which handlers hold this lane up, in words; empty when none is known to do so.

    Those for which events in its workers wait; those that are paused or always fail; else the one that takes longest.
    """
    held = {one.name for one in now.handlers if one.held}
    owed = [one for one in now.owed if one.lane == lane and (one.turns or one.handler in held)]
    names = [one.handler for one in sorted(owed, key=lambda one: -one.turns - one.retrying - one.due)]
    names = names or [call.handler for call in now.in_work if call.lane == lane][:1]
    return f"held up by {_joined(names)}" if names else ""


def _by_handler(each: list[Call]) -> dict[str, list[Call]]:
    """The longest call first."""
    found: dict[str, list[Call]] = {}
    for call in each:
        found.setdefault(call.handler, []).append(call)
    return found


def _is_long(now: Backlog, handler: str, calls: list[Call]) -> bool:
    """What takes all the slots of a worker is worth a look soon, anything else if it takes longer than usual."""
    usual = usual_seconds(now.calls.get(handler, Counter()))
    limit = min(_LONGEST_SECONDS, _MANY_TIMES * usual)
    return calls[0].seconds > (_LONG_SECONDS if any(call.full for call in calls) else max(_LONG_SECONDS, limit))


def _takes_long(now: Backlog, name: str, calls: list[Call], waiting: str) -> Cause:
    count, seconds = sum(call.calls for call in calls), span(calls[0].seconds)
    text = f"Handler {name}: " + (
        f"1 call under way, for {seconds}" if count == 1 else f"{count:,} calls under way, the longest for {seconds}"
    )
    if full := {call.worker: call.full for call in calls if call.full}:
        where = f" in {len(full)} of {now.workers} worker processes" if now.workers > 1 else ""
        text += f"; {next(iter(full.values()))}{where}"
    limit = f"{calls[0].limit} (WA_HANDLER_TIMEOUT)" if calls[0].limit else "WA_HANDLER_TIMEOUT"
    remedy = f"It waits or hangs: past {limit}, the log of the workers has the line where it is"
    return Cause("warning", f"long.{name}", text + _and(waiting), remedy, _HANGS)


def _is_gone(one: Handler) -> Cause:
    text = f"Handler {one.name} is gone, no worker has it: {waits(one)}"
    remedy = "At their next try its events go to the handlers that there are"
    return Cause("info", f"gone.{one.name}", text, remedy, "events-wait-for-their-next-try")


def _fails(one: Handler, time: float) -> Cause:
    text = f"Handler {one.name}: {_failed(one, time)}{_and(waits(one))}"
    about = f"fails.{one.name}"
    # Without a time, or with one that is too long ago, the failures of the last minute are not known to be over.
    is_known = one.error_at is not None and _seconds(one.error_at, time) < _COUNTED_SECONDS
    if is_known and not one.owed:
        return Cause("info", about, f"{text}; none of its events waits for another try", "", SOME_FAIL)
    remedy = "Its events are tried again, at last they become dead letters; `wa-ingest tail` shows each, "
    remedy += "WA_LOG_ERRORS=full has the log say more"
    return Cause("warning" if one.often_fails else "info", about, text, remedy, SOME_FAIL)


def _is_of_now(one: Handler, time: float) -> bool:
    """True when it fails: lately, or what waits has failed. An error from before all that waits had come is over."""
    if one.failures:
        return True
    return one.error_at is not None and _seconds(one.error_at, time) <= max(_COUNTED_SECONDS, one.oldest_seconds)


def _failed(one: Handler, time: float) -> str:
    """How often, how and when last it failed. An error that is older than what was counted is told by itself."""
    often = f"{one.failures:,} of {one.calls:,} calls failed in the last minute" if one.failures else ""
    if one.error_at is None:
        return often
    if not often or _seconds(one.error_at, time) > _COUNTED_SECONDS:
        last = f"a call failed {_age(one.error_at, time)} ago ({one.error})"
        return f"{often}; {last}" if often else last
    return f"{often} ({_errors(one)}), the last one {_age(one.error_at, time)} ago"


def _errors(one: Handler) -> str:
    """How it failed in the last minute: each way with its count, where there are several."""
    if len(one.errors) < 2:
        return one.error or ""
    ways = [f"{count:,} {error}" for error, count in list(one.errors.items())[:_NAMES]]
    others = len(one.errors) - _NAMES
    return ", ".join(ways) + (f" and {others:,} other{'s' if others > 1 else ''}" if others > 0 else "")


def _is_behind(one: Handler) -> Cause:
    late = one.oldest_seconds > LATE_SECONDS
    remedy = "It takes no more than that now: raise what you have set, or wait" if one.held_back else ""
    text = f"Handler {one.name} is behind: {waits(one)}"
    return Cause("warning" if late else "info", f"lags.{one.name}", text, remedy, _BEHIND)


def _joined(names: list[str]) -> str:
    shown = names[:_NAMES]
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"handler{'s' if len(names) > 1 else ''} {', '.join(shown)}{more}"


def _age(since: str, time: float) -> str:
    return span(_seconds(since, time))


def _seconds(since: str, time: float) -> float:
    return max(0.0, time - datetime.fromisoformat(since).timestamp())


def _and(text: str) -> str:
    return f"; {text}" if text else ""


def _and_last(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if parts[1:] else parts[0]
