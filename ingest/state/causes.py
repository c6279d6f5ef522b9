"""Why events of handlers and destinations wait, and how many, in words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal, NamedTuple

from ingest.state.backlog import LATE_SECONDS, YOUNG_SECONDS, Backlog, span
from ingest.state.handlers import Handler

_BEHIND = "a-handler-or-destination-is-behind"
_TO_RETRY = "for a worker to try them again"
_NAMES = 3  # that are shown at most
_COUNTED_SECONDS = 70.0  # the failures of the last minute are not older


class Cause(NamedTuple):
    """A handler for which events wait. `about` names the finding, `topic` the section of docs/troubleshooting.md."""

    level: Literal["warning", "info"]
    about: str
    text: str
    remedy: str
    topic: str


def told(now: Backlog, time: float) -> Iterator[Cause]:
    """What to tell of each handler at that time (seconds since the epoch); nothing of those that are paused."""
    handlers = {one.name: one for one in now.handlers}
    for broken in now.broken:
        one = handlers[broken.handler]
        since = "" if broken.since is None else f", it has failed for {_age(broken.since, time)}"
        text = f"{broken}{since}{_and(waits(one))}"
        remedy = "Mend it or what it needs; its events wait and use up no tries, those of other handlers go on"
        yield Cause("warning", f"broken.{one.name}", text[0].upper() + text[1:], remedy, "a-handler-always-fails")
    for one in handlers.values():
        if one.held is None and (one.error or one.often_fails):
            yield _fails(one, time)
        elif one.held is None and one.owed and one.oldest_seconds >= YOUNG_SECONDS:
            yield _is_behind(one)
        elif one.held is None and one.held_back:
            yield Cause("info", f"lags.{one.name}", f"Handler {one.name} is held back: {one.held_back}", "", _BEHIND)


def waits(one: Handler) -> str:
    """How much waits for it, and for how long, in words; empty: nothing."""
    parts = []
    if one.turns:
        parts.append(f"{_events(one.turns)} for its turn")
    if one.retrying:
        parts.append(f"{one.retrying:,} for the next try" if parts else f"{_events(one.retrying)} for the next try")
    if one.due:
        parts.append(f"{one.due:,} {_TO_RETRY}" if parts else f"{_events(one.due)} {_TO_RETRY}")
    if parts and one.held_back:
        parts[0] += f" ({one.held_back})"
    return (
        f"{', '.join(parts[:-1])}{' and ' if parts[1:] else ''}{parts[-1]}, the oldest for {span(one.oldest_seconds)}"
        if parts
        else ""
    )


def of_lane(now: Backlog, lane: str) -> str:
    """Which handlers hold this lane up, in words; empty when none is known to do so.

    Those for which events in its workers wait; those that are paused or always fail; else the one that takes longest.
    """
    held = {one.name for one in now.handlers if one.held}
    owed = [one for one in now.owed if one.lane == lane and (one.turns or one.handler in held)]
    names = [one.handler for one in sorted(owed, key=lambda one: -one.turns - one.retrying - one.due)]
    names = names or [call.handler for call in now.in_work if call.lane == lane][:1]
    return f"held up by {_joined(names)}" if names else ""


def _fails(one: Handler, time: float) -> Cause:
    text = f"Handler {one.name}: {_failed(one, time)}{_and(waits(one))}"
    remedy = "Its events are tried again, at last they become dead letters; `wa-ingest tail` shows each"
    level: Literal["warning", "info"] = "warning" if one.often_fails else "info"
    return Cause(level, f"fails.{one.name}", text, remedy, "some-calls-fail")


def _failed(one: Handler, time: float) -> str:
    """How often, how and since when it fails. An error that is older than what was counted is told by itself."""
    counted = f"{one.failures:,} of {one.calls:,} calls failed in the last minute" if one.failures else ""
    if one.error_at is None or one.failing_since is None:
        return counted
    if not counted or _seconds(one.error_at, time) > _COUNTED_SECONDS:
        last = f"a call failed {_age(one.error_at, time)} ago ({one.error})"
        return f"{counted}; {last}" if counted else last
    return f"{counted} ({one.error}), the first one {_age(one.failing_since, time)} ago"


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


def _events(count: int) -> str:
    return "1 event waits" if count == 1 else f"{count:,} events wait"
