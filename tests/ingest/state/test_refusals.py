"""What is told of refused requests, and when it is a warning."""

from __future__ import annotations

from collections import Counter

import pytest
from redis import Redis

from ingest.state import backlog, health, refusals
from ingest.state.refusals import told
from ingest.state.snapshot import Snapshot
from ingest.store import keys


@pytest.mark.parametrize(
    ("counts", "ever", "expected"),
    [
        ({}, False, []),
        ({"accepted": 5}, True, []),
        ({"signature": 1}, True, [("warning", "signature")]),
        ({"signature": 1, "accepted": 9}, True, [("warning", "signature")]),
        ({"signature": 1, "accepted": 100}, True, [("info", "signature")]),
        ({"path": 7}, False, [("warning", "path")]),
        ({"path": 7}, True, [("info", "path")]),
        ({"path": 7, "accepted": 1}, False, [("info", "path")]),
        ({"path": 1, "no_token": 2, "of a later version": 3}, False, [("warning", "no_token"), ("warning", "path")]),
    ],
)
def test_level(counts: dict[str, int], ever: bool, expected: list[tuple[str, str]]) -> None:
    """A share of what arrives that is refused is a warning; what strangers try only while nothing else arrives."""
    assert [(one.level, one.cause) for one in told(counts, ever)] == expected


def steps(*each: dict[str, int]) -> refusals.Steps:
    return {1000 + n: Counter(counts) for n, counts in enumerate(each)}


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        (steps({"accepted": 1000}, {"signature": 6}, {}, {"signature": 6}), (12, 12, "signature")),
        (steps({"accepted": 1000}, {"unsigned": 10, "signature": 30, "path": 9, "accepted": 4}), (40, 44, "signature")),
        (steps({"accepted": 1000}, {"signature": 9}), None),
        (steps({"accepted": 99}, {"signature": 50, "accepted": 6}), None),
        (steps({"signature": 50}, {"accepted": 1}), None),
        (steps({"path": 50, "network": 50, "size": 50}), None),
    ],
)
def test_all_are_refused(each: refusals.Steps, expected: tuple[int, int, str] | None) -> None:
    """When the last requests are nearly all without the right credential, and not only a few, that is critical,
    however many were accepted before; it is over with the first ten seconds in which it is otherwise.
    """
    total = sum(each.values(), Counter[str]())
    found = [one for one in told(total, True, each) if one.level == "critical"]
    if expected is None:
        assert found == []
        return
    refused, of, cause = expected
    ((one),) = found
    assert one.text.startswith(f"{refused} of the last {of} requests refused")
    assert (one.cause, one.remedy) == (cause, refusals.CAUSES[cause].remedy)
    assert [other.cause for other in told(total, True, each)].count(cause) == 1


def test_every_cause_has_a_remedy() -> None:
    """Each cause is told in a line with its number, and what to do."""
    for one in told(dict.fromkeys(refusals.CAUSES, 1234), False):
        assert one.text.startswith("1,234 requests refused lately ")
        assert one.remedy[0].isupper()
        assert not one.remedy.endswith(".")
    assert told({"size": 1}, False)[0].text == "1 request refused lately that were too large"


def test_counted_in_redis(redis: Redis) -> None:
    """What several processes counted is added up, is read with the backlog, and is a finding; old counts are not."""
    seconds, _ = redis.time()  # type: ignore[misc]
    redis.hset(keys.refused_key(seconds // refusals.SECONDS - 2), "signature", 1000)
    for _ in range(2):
        refusals.note(redis, {"signature": 3, "accepted": 1})
    now = backlog.read_all({"one": redis})
    assert now.requests == {"signature": 6, "accepted": 2}
    assert now.as_json()["requests"] == now.requests
    assert sum(now.request_steps.values(), Counter()) == now.requests
    (one,) = [found for found in health.findings(Snapshot("r", 0.0, backlog=now)) if found.about == "refused.signature"]
    assert (one.level, one.text) == ("warning", "6 requests refused lately with a wrong signature")
    assert "WA_APP_SECRET" in one.remedy
    assert 0 < redis.ttl(keys.refused_key(seconds // refusals.SECONDS)) <= 3 * refusals.SECONDS
