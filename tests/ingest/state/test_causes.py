"""Why events of handlers wait, in words."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from ingest.state import causes
from ingest.state.backlog import Backlog, Lane, Steered
from ingest.state.breakdowns import Broken
from ingest.state.failures import Failure
from ingest.state.handlers import Owed

NOW = datetime(2026, 11, 29, 14, 3, 31, tzinfo=UTC).timestamp()


def told(**about: Any) -> list[str]:
    """What is told of handlers, given these fields of a backlog."""
    return [one.text for one in causes.told(Backlog({}, 1, False, {}, **about), NOW)]


def calls(failed: int = 0) -> dict[str, Counter[str]]:
    return {"crm": Counter({"0.1": 20, "failed": failed})}


def test_an_error_of_the_last_minute_stands_beside_its_count() -> None:
    """With it stands how long ago the last one was: what is over is not told as if it went on."""
    failed = {"crm": Failure("answered 500", NOW - 3, NOW - 215)}
    text = "Handler crm: 7 of 20 calls failed in the last minute (answered 500), the last one 3s ago"
    assert told(calls=calls(7), failed=failed) == [f"{text}; none of its events waits for another try"]


def test_each_way_to_fail_has_its_count() -> None:
    """Two mistakes at a time are not taken for one, whichever came last; of many, three are named."""
    failed = {"crm": Failure("answered 500", NOW - 3, NOW - 95)}
    counted = {"crm": calls(7)["crm"] + Counter({"!answered 500": 2, "!KeyError at bot.py:5": 5})}
    text = "Handler crm: 7 of 20 calls failed in the last minute (5 KeyError at bot.py:5, 2 answered 500)"
    (found,) = told(calls=counted, failed=failed)
    assert found.startswith(f"{text}, the last one 3s ago")
    counted["crm"].update({"!a": 1, "!b": 1})
    (found,) = told(calls=counted, failed=failed)
    assert "(5 KeyError at bot.py:5, 2 answered 500, 1 a and 1 other)" in found


def test_a_paused_handler_has_no_next_try() -> None:
    """Of one that always fails and is paused nothing is told but the pause, which `status` shows: no try comes."""
    broken = Broken("crm", "answered 500", 45.0)
    assert len(told(broken=[broken])) == 1
    assert told(broken=[broken], steered=[Steered("crm", "2026-11-29T14:00:00+00:00")]) == []


def test_an_older_error_has_its_own_time() -> None:
    """Nobody takes it for the cause of what failed in the last minute."""
    failed = {"crm": Failure("answered 500", NOW - 180, NOW - 215)}
    waits = [Owed("crm", "messages", 4, 0, 200.0)]
    assert told(calls=calls(), failed=failed, owed=waits) == [
        "Handler crm: a call failed 3m00s ago (answered 500); 4 events wait for the next try, the oldest for 3m20s"
    ]
    assert told(calls=calls(7), failed=failed) == [
        "Handler crm: 7 of 20 calls failed in the last minute; a call failed 3m00s ago (answered 500)"
    ]


def test_a_handler_that_was_mended() -> None:
    """Once nothing of it waits for another try, it is no warning any more, and nobody is told that its events are tried
    again; until then it is, and while it is not known when it failed last."""

    def found(age: float, **about: Any) -> causes.Cause:
        failed = {"crm": Failure("KeyError at bot.py:5", NOW - age, NOW - 60)}
        (one,) = causes.told(Backlog({}, 1, False, {}, calls=calls(7), failed=failed, **about), NOW)
        return one

    over = found(3)
    assert (over.level, over.remedy) == ("info", "")
    assert over.text.endswith("(KeyError at bot.py:5), the last one 3s ago; none of its events waits for another try")
    for going_on in (found(100), found(3, owed=[Owed("crm", "messages", 1, 0, 40.0)])):
        assert going_on.level == "warning"
        assert "tried again" in going_on.remedy


def test_an_error_is_no_reason_for_what_came_after_it() -> None:
    """What waits now, and came after the last failure, does not wait for that: an old error is not told with it."""
    failed = {"crm": Failure("KeyError at bot.py:5", NOW - 132, NOW - 140)}
    waits = [Owed("crm", "messages", 1319, 169, 18.0)]
    (text,) = told(calls=calls(), failed=failed, owed=waits)
    assert text.startswith("Handler crm is behind: 169 events wait for their turn and 1,319 for the next try")
    (text,) = told(calls=calls(), failed=failed, owed=[waits[0]._replace(oldest_seconds=140.0)])
    assert "a call failed 2m12s ago" in text


def test_what_no_worker_has_taken() -> None:
    """A lane of which all handlers are held up is not taken: what waits there is told beside what is known."""
    lanes = {"messages": Lane(waiting=3), "statuses": Lane(waiting=486)}
    waits = [Owed("store", "statuses", 2, 0, 20.0, 53)]  # those that are due are among the 486
    now = Backlog(lanes, 1, False, {}, broken=[Broken("store", "down", 16.0)], owed=waits)
    (one,) = causes.told(now, NOW)
    assert one.text.endswith("the oldest for 20s; no worker has taken 433 notifications of statuses yet")
