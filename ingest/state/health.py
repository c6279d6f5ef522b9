"""What is wrong with the pipeline, the worst first, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ingest.state import causes, rates
from ingest.state.backlog import LATE_SECONDS, YOUNG_SECONDS, Backlog, Lane, Steered, span
from ingest.state.snapshot import Snapshot, paused_seconds
from ingest.terminal import counted, shortened_lines

LATELY_SECONDS = 3600.0
"""For so long a dead letter is a warning."""

_DEAD = "`wa-ingest dead causes` says why; retry them once the cause is fixed"

Level = Literal["critical", "warning", "info"]
_ORDER: tuple[Level, ...] = ("critical", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """`critical`: nothing goes on until somebody acts. `warning`: look at it. `info`: good to know.

    `about` names it and stays the same while figures in the `text` change. `remedy` may be empty. `topic` is the
    section of docs/troubleshooting.md that says more. `count` is given where more of them are news again.
    """

    level: Level
    about: str
    text: str
    remedy: str = ""
    topic: str = ""
    count: int = 0


ALL_WELL = Finding("info", "well", "All is well")

TOPICS = {
    "redis": "redis-is-away",
    "refused": "redis-is-full-or-takes-no-writes",
    "away": "redis-is-away",
    "spool": "notifications-wait-on-the-disk",
    "spooled": "notifications-wait-on-the-disk",
    "corrupt": "notifications-wait-on-the-disk",
    "suspended": "something-is-paused-or-limited",
    "paused": "something-is-paused-or-limited",
    "limit": "something-is-paused-or-limited",
    "waiting": "everything-waits",
    "dead": "there-are-dead-letters",
    "retrying": "events-wait-for-their-next-try",
    "behind": "events-wait-for-their-next-try",
}
"""By what a finding is `about`, up to its first dot."""


def findings(now: Snapshot) -> list[Finding]:
    """All findings, the worst first; `ALL_WELL` comes first when nothing is critical or a warning."""
    found = sorted(map(_told, _all(now)), key=lambda finding: _ORDER.index(finding.level))
    if not found or found[0].level == "info":
        found.insert(0, ALL_WELL)
    return found


def _told(one: Finding) -> Finding:
    topic = one.topic or TOPICS[one.about.partition(".")[0]]
    return replace(one, text=shortened_lines(one.text), remedy=shortened_lines(one.remedy), topic=topic)


def _all(now: Snapshot) -> Iterator[Finding]:
    if now.diagnosis is not None:
        how_long = f", for {span(now.away_seconds)}" if now.away_seconds else ""
        yield Finding(
            "critical",
            "redis",
            f"Redis cannot be read{how_long}: {now.diagnosis.finding}",
            f"{now.diagnosis.remedy}. {_meanwhile(now)}",
        )
    elif now.refused is not None:
        yield Finding("critical", "refused", f"Notifications do not go into Redis: {now.refused}", _meanwhile(now))
    yield from _spool(now)
    if now.backlog is None:
        return
    for name in now.backlog.away:
        yield Finding(
            "critical",
            f"away.{name}",
            f"One of several Redis is away: {name}",
            "Start it; the others take its work meanwhile",
        )
    for refused in now.backlog.refused:
        yield Finding(refused.level, f"refused.{refused.cause}", refused.text, refused.remedy, refused.topic)
    if cause := causes.of_workers(now.backlog, now.time):
        yield Finding(*cause)
    if now.backlog.suspended:
        yield Finding("warning", "suspended", "All lanes are suspended by `rq suspend`", "`rq resume` resumes them")
    for cause in causes.told(now.backlog, now.time):
        yield Finding(*cause)
    for steered in now.backlog.steered:
        yield from _steered(now, steered)
    for name, lane in now.backlog.lanes.items():
        yield from _lane(now, name, lane)
    if dead := sum(lane.dead for lane in now.backlog.lanes.values()):
        yield _dead(now, dead)
    if retrying := now.backlog.retrying:
        text = f"{retrying.events:,} {_wait('event', retrying.events)} for the next try, "
        text += causes.next_try(retrying, "the first is due in")
        yield Finding("info", "retrying", text, "`wa-ingest retry` has them tried now")
    if behind := sum(lane.behind for lane in now.backlog.lanes.values()):
        text = f"{behind:,} {_wait('event', behind)} behind one of the same contact that waits for a try (strict order)"
        yield Finding("info", "behind", text)


def _dead(now: Snapshot, count: int) -> Finding:
    """That there are dead letters; a warning for an hour after the newest was written, and with the cause of that."""
    newest = max(now.dead.groups, key=lambda one: one.newest_ms, default=None)
    if newest is None or (age := now.time - newest.newest_ms / 1000) >= LATELY_SECONDS:
        return Finding("info", "dead", counted(count, "dead letter"), _DEAD, count=count)
    return Finding("warning", "dead", newly_dead(count, age, newest.reason, newest.handler), _DEAD, count=count)


def newly_dead(count: int, age: float, reason: str, handler: str) -> str:
    """So many dead letters, in words, with what became of the newest that many seconds ago, and whose it is."""
    whose = f" of {handler}" if handler else ""
    return f"{counted(count, 'dead letter')}, the newest {span(max(0.0, age))} old: {reason}{whose}"


def _steered(now: Snapshot, one: Steered) -> Iterator[Finding]:
    paused = paused_seconds(now, one)
    if paused is not None:
        text = f"Handler {one.handler}: paused for {span(paused)}, its events wait and use up no tries"
        remedy = f"`wa-ingest resume --handler {one.handler}` once the cause is fixed"
        yield Finding("warning", f"paused.handler.{one.handler}", text, remedy)
    if one.limit is not None:
        text = f"Handler {one.handler}: at most {rates.in_words(one.limit)}"
        yield Finding("info", f"limit.handler.{one.handler}", text)


def _lane(now: Snapshot, name: str, lane: Lane) -> Iterator[Finding]:
    paused = paused_seconds(now, lane)
    if paused is not None:
        text = f"{name}: paused for {span(paused)}, {lane.waiting:,} waiting"
        yield Finding("warning", f"paused.{name}", text, "Resume it once the cause is fixed")
        return
    if lane.oldest_seconds >= YOUNG_SECONDS:
        yield _waiting(now, name, lane)
    if lane.limit is not None:
        yield Finding("info", f"limit.{name}", f"{name}: at most {lane.limit:g} events per second")


def _waiting(now: Snapshot, name: str, lane: Lane) -> Finding:
    left = lane.seconds_to_empty or None
    standing = f" ({standing})" if (standing := causes.in_work(lane)) else ", some not begun"
    where = f"{lane.waiting:,} waiting" if lane.waiting else f"{lane.working:,} in work{standing}"
    text = f"{name}: {where}, oldest {span(lane.oldest_seconds)}"
    if left is not None:
        text += f", empty in {span(left)}"
    elif lane.waiting and lane.rate_out <= lane.rate_in:
        text += ", not getting fewer"
    if by := causes.of_lane(now.backlog, name) if now.backlog else "":
        text += f", {by}"
    late = lane.oldest_seconds > LATE_SECONDS
    remedy = ""
    if late and left is None:
        remedy = (
            "Its limit holds it back"
            if lane.limit is not None
            else "Its handlers fail or are paused, see above"
            if now.backlog is not None and (now.backlog.broken or _any_paused(now.backlog))
            else "See what is said of that handler, and docs/troubleshooting.md"
            if by
            else "More workers: `wa-ingest work --processes N`"
            if lane.waiting
            else "Handlers are slow or have a rate: see p99 in `wa-ingest status`, WA_CONCURRENCY, WA_THREADS"
        )
    return Finding("warning" if late else "info", f"waiting.{name}", text, remedy)


def _any_paused(backlog: Backlog) -> bool:
    return any(steered.paused_since for steered in backlog.steered)


def _spool(now: Snapshot) -> Iterator[Finding]:
    if now.spool_problem is not None:
        text = f"The disk spool cannot be read: {now.spool_problem}"
        yield Finding("critical", "spool", text, f"Look at {now.spool_dir}")
    if now.spool is None:
        return
    if count := now.spool.notifications:
        text = (
            f"{count:,} {_wait('notification', count)} on the disk for Redis, oldest {span(now.spool.oldest_seconds)}"
        )
        yield Finding("warning", "spooled", text, "The receiver replays them once Redis takes them")
    if now.spool.corrupt:
        is_aside, are_aside = "damaged part of the disk spool is", "damaged parts of the disk spool are"
        text = f"{counted(now.spool.corrupt, is_aside, are_aside)} set aside"
        yield Finding("warning", "corrupt", text, f"Look at {now.spool_dir}/*.corrupt")


def _meanwhile(now: Snapshot) -> str:
    if now.spool_dir is None:
        return "Senders get 503 meanwhile and try again"
    return "What arrives meanwhile goes to the disk spool"


def _wait(noun: str, count: int) -> str:
    return f"{noun} waits" if count == 1 else f"{noun}s wait"
