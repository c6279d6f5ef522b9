"""What has become of everything, in words."""

from __future__ import annotations

from redis import Redis

from ingest.state import backlog, totals
from ingest.state.backlog import Backlog, Lane
from ingest.store import keys


def now(counts: dict[str, int], unhandled: dict[str, int] | None = None, **lanes: Lane) -> Backlog:
    known = {name: lanes.get(name, Lane()) for name in ("messages", "statuses", "other")}
    return Backlog(known, 1, False, counts, unhandled=unhandled or {})


def test_nothing_yet() -> None:
    """Before the first event there is nothing to say."""
    assert totals.lines(now({}, messages=Lane(waiting=3))) == []


def test_all_is_accounted_for() -> None:
    """Each event that has ended counts once, whatever it was; tries that failed are no end. What is owed stands beside
    the sum and is not in it: it is counted in notifications.
    """
    counts = {"handled.message": 12_000, "handled.status": 870, "retried.message": 99, "snoozed.message": 5}
    counts |= {"duplicate.status": 28, "dead.message": 1, "dead.notification": 1}
    lanes = {
        "messages": Lane(waiting=20, working=1330, behind=2, retrying=3),
        "statuses": Lane(waiting=8),
    }
    assert totals.lines(now(counts, **lanes)) == [
        "events ended so far: 12,900 = 12,870 handled + 28 duplicate + 2 dead",
        "not ended yet: 28 waiting, 1,330 in work, 3 retrying, 2 behind another of their contact that waits",
    ]


def test_what_came_again() -> None:
    """Events that had ended when their worker died come again as copies: they are told apart, and count once."""
    counts = {"handled.message": 100, "duplicate.message": 37, "again": 30}
    first, _ = totals.lines(now(counts))
    text = "events ended so far: 107 = 100 handled + 7 duplicate; 30 of them came again after a worker died"
    assert first == text
    assert totals.ended(counts | {"duplicate.message": 12}) == {"handled": 100}  # not all of them have come yet
    assert now(counts).as_json()["again"] == 30


def test_dead_letters_that_are_gone() -> None:
    """Those that were requeued have ended as what they became since; those that were dropped are dead."""
    counts = {"handled.message": 100, "dead.message": 9, "requeued": 4, "removed": 2}
    assert totals.lines(now(counts))[0] == "events ended so far: 105 = 100 handled + 5 dead (2 of them removed)"
    assert totals.ended(counts | {"requeued": 9}) == {"handled": 100}


def test_nothing_is_owed() -> None:
    """When all that came in has ended, that is said."""
    assert totals.lines(now({"handled.message": 1}))[1] == "not ended yet: nothing"


def test_unhandled_types() -> None:
    """Those that no handler wanted are named, the most frequent ones, and how many more there are."""
    types = {f"message.t{n}": n + 1 for n in range(7)} | {"status.read": 1300}
    line = totals.lines(now({"unhandled.message": 28, "unhandled.status": 1300}, types))[2]
    assert (
        line
        == "no handler wanted: status read 1,300, message t6 7, message t5 6, message t4 5, message t3 4, 3 more types"
    )
    assert totals.lines(now({"unhandled.message": 21}, {f"message.t{n}": n + 1 for n in range(6)}))[2].endswith(
        ", 1 more type"
    )


def test_as_it_lies_in_redis(redis: Redis) -> None:
    """Types are told apart from outcomes, added up over several Redis, and in the JSON of `status`."""
    redis.hset(keys.COUNTS, mapping={"unhandled.status": 3, "handled.message": 2, "type.status.read": 3})
    found = backlog.read_all({"one": redis, "two": redis})
    assert found.counts == {"unhandled.status": 6, "handled.message": 4}
    told = found.as_json()
    assert (told["unhandled"], told["ended"]) == ({"status.read": 6}, {"unhandled": 6, "handled": 4})
