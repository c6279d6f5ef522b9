"""What the page says first."""

from __future__ import annotations

from collections import Counter

import pytest

from ingest.state.backlog import Backlog, Lane, Steered
from ingest.state.breakdowns import Broken
from ingest.state.dead_groups import Group, Groups
from ingest.state.health import findings
from ingest.state.in_work import Unloadable
from ingest.state.snapshot import Snapshot
from ingest.state.spooled import SpoolFigures
from ingest.store.connection import Diagnosis


def now(workers: int = 1, suspended: bool = False, **lanes: Lane) -> Snapshot:
    known = {name: lanes.get(name, Lane()) for name in ("messages", "statuses", "other")}
    return Snapshot("here", 1000.0, backlog=Backlog(known, workers, suspended, {}))


def said(snapshot: Snapshot) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in findings(snapshot)]


def test_all_is_well() -> None:
    """With nothing to say, that is said."""
    assert said(now()) == [("info", "All is well")]


def test_lines_of_code_are_short() -> None:
    """Text and remedy name a line of code without what of its path says nothing to who looks from elsewhere."""
    snapshot = now(workers=0)
    assert snapshot.backlog is not None
    snapshot.backlog.unloadable = Unloadable("KeyError at /srv/mybot/bot.py:5", "mend /srv/mybot/bot.py:5")
    first = findings(snapshot)[0]
    assert first.text.endswith("KeyError at mybot/bot.py:5")
    assert first.remedy.startswith("Mend mybot/bot.py:5, ")


def test_a_backlog_that_is_young_is_well() -> None:
    """What waits is told, and that it is well as long as it is not late; what is on its way is not even told."""
    lane = Lane(waiting=1200, oldest_seconds=30, rate_in=10, rate_out=30)
    assert said(now(messages=lane, statuses=Lane(waiting=7, oldest_seconds=0.3))) == [
        ("info", "All is well"),
        ("info", "messages: 1,200 waiting, oldest 30s, empty in 1m00s"),
    ]


@pytest.mark.parametrize(
    ("lane", "text", "remedy"),
    [
        (
            Lane(waiting=12_400, oldest_seconds=180, rate_in=100, rate_out=195.4),
            "messages: 12,400 waiting, oldest 3m00s, empty in 2m10s",
            "",
        ),
        (
            Lane(waiting=5, oldest_seconds=7200, rate_in=3),
            "messages: 5 waiting, oldest 2h00m, not getting fewer",
            "More workers: `wa-ingest work --processes N`",
        ),
        (
            Lane(working=1330, oldest_seconds=90, rate_in=3),
            "messages: 1,330 in work, some not begun, oldest 1m30s",
            "Handlers are slow or have a rate: see p99 in `wa-ingest status`, WA_CONCURRENCY, WA_THREADS",
        ),
    ],
)
def test_a_late_lane(lane: Lane, text: str, remedy: str) -> None:
    """A lane that is late comes first, with what helps when it does not help itself."""
    first = findings(now(messages=lane))[0]
    assert (first.level, first.text, first.remedy) == ("warning", text, remedy)


def test_steered_handlers() -> None:
    """A paused handler is a warning with what resumes it, and explains a lane that is late; a limit is good to know."""
    snapshot = now(statuses=Lane(waiting=5, oldest_seconds=7200, rate_in=3))
    assert snapshot.backlog is not None
    snapshot.backlog.steered = [Steered("crm", "1970-01-01T00:15:40.000+00:00", 0.5), Steered("shop.f", None, 20.0)]
    assert [(finding.level, finding.text, finding.remedy) for finding in findings(snapshot)] == [
        (
            "warning",
            "Handler crm: paused for 1m00s, its events wait and use up no tries",
            "`wa-ingest resume --handler crm` once the cause is fixed",
        ),
        (
            "warning",
            "statuses: 5 waiting, oldest 2h00m, not getting fewer",
            "Its handlers fail or are paused, see above",
        ),
        ("info", "Handler crm: at most 30/m", ""),
        ("info", "Handler shop.f: at most 20/s", ""),
    ]


@pytest.mark.parametrize(
    ("put_off", "held", "when"),
    [
        (5, False, "the first is due in 2s"),
        (0, True, "the first is due in 2s"),
        (3, True, "the first is due in 2s, 3 of them put off until their handler goes on"),
        (5, True, "put off until their handler goes on"),
    ],
)
def test_when_the_next_try_is(put_off: int, held: bool, when: str) -> None:
    """What is put off comes due in vain while its handler always fails or is paused, so no time is told of it."""
    snapshot = now(statuses=Lane(retrying=5, put_off=put_off, next_try_seconds=2))
    assert snapshot.backlog is not None
    snapshot.backlog.broken = [Broken("crm", "ValueError", 45.0)] if held else []
    assert ("info", f"5 events wait for the next try, {when}") in said(snapshot)


def test_the_worst_comes_first() -> None:
    """What stops everything stands above what is late, and that above what is good to know."""
    lane = Lane(waiting=7, oldest_seconds=100, retrying=1, next_try_seconds=8, dead=3, limit=50.0)
    paused = Lane(waiting=2, paused=True, paused_since="1970-01-01T00:15:40.000+00:00")
    snapshot = now(workers=0, suspended=True, statuses=lane, messages=paused)
    snapshot.spool_dir, snapshot.spool = "/spool", SpoolFigures(notifications=1, oldest_seconds=5, corrupt=2)
    assert said(snapshot) == [
        ("critical", "No worker is alive: 9 notifications wait, the oldest for 1m40s"),
        ("warning", "1 notification waits on the disk for Redis, oldest 5s"),
        ("warning", "2 damaged parts of the disk spool are set aside"),
        ("warning", "All lanes are suspended by `rq suspend`"),
        ("warning", "messages: paused for 1m00s, 2 waiting"),
        ("warning", "statuses: 7 waiting, oldest 1m40s, not getting fewer"),
        ("info", "statuses: at most 50 events per second"),
        ("info", "3 dead letters"),
        ("info", "1 event waits for the next try, the first is due in 8s"),
    ]
    about = [finding.about for finding in findings(snapshot)]
    assert len(set(about)) == len(about)


@pytest.mark.parametrize(
    ("folder", "meanwhile"), [(None, "Senders get 503 meanwhile"), ("/spool", "goes to the disk spool")]
)
def test_without_redis(folder: str | None, meanwhile: str) -> None:
    """It says what is the matter with Redis, for how long, what to do, and what becomes of notifications meanwhile."""
    diagnosis = Diagnosis("Redis is not reachable: ConnectionError", "see WA_REDIS_URL, and that it runs")
    snapshot = Snapshot("here", 1000.0, diagnosis=diagnosis, away_seconds=185, refused="away", spool_dir=folder)
    (only,) = findings(snapshot)
    assert only.text == "Redis cannot be read, for 3m05s: Redis is not reachable: ConnectionError"
    assert only.remedy.startswith("see WA_REDIS_URL")
    assert meanwhile in only.remedy


def test_a_redis_that_takes_nothing() -> None:
    """A Redis that can be read but not written is as bad."""
    snapshot = now()
    snapshot.refused = "Redis refuses: OOM"
    assert said(snapshot)[0] == ("critical", "Notifications do not go into Redis: Redis refuses: OOM")


def test_a_spool_that_cannot_be_read() -> None:
    """A folder that cannot be read is told with its path."""
    snapshot = now()
    snapshot.spool_dir, snapshot.spool_problem = "/spool", "Permission denied"
    assert findings(snapshot)[0].remedy == "Look at /spool"


@pytest.mark.parametrize(("calls", "failed", "told"), [(31, 29, True), (100, 20, True), (100, 9, False), (4, 4, False)])
def test_a_handler_that_often_fails(calls: int, failed: int, told: bool) -> None:
    """A handler of which a tenth of the calls fail is a warning, though one that succeeds now and then never counts as
    broken down; a few failures are not."""
    snapshot = now()
    assert snapshot.backlog is not None
    snapshot.backlog.calls = {"bot.answer": Counter({"0.005": calls, "failed": failed})}
    found = said(snapshot)
    warning = ("warning", f"Handler bot.answer: {failed} of {calls} calls failed in the last minute")
    assert (warning in found) is told


@pytest.mark.parametrize(("age", "level"), [(0, "warning"), (3500, "warning"), (3700, "info")])
def test_new_dead_letters_are_a_warning(age: int, level: str) -> None:
    """For an hour; then they are known. It names what the newest is, and whose."""
    there = now(messages=Lane(dead=3))
    older = Group("messages", "rejected", "message", 2, "1-0", "2-0", 1_000_000 - 9_000_000, "erp")
    newest = Group("messages", "failed", "message", 1, "3-0", "3-0", 1_000_000 - 1000 * age, "crm")
    there.dead = Groups((older, newest))
    (found,) = [finding for finding in findings(there) if finding.about == "dead"]
    assert found.level == level
    assert found.text.endswith(": failed of crm") is (level == "warning")
