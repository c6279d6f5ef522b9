"""What is told of each handler."""

from __future__ import annotations

import pytest
from redis import Redis

from ingest.state import backlog, controls
from ingest.state.handlers import Handler, figures, lately
from ingest.store import keys
from ingest.store.constants import FLOW_SECONDS


def flow(**parts: int) -> dict[bytes, bytes]:
    return {field.encode(): str(count).encode() for field, count in parts.items()}


def test_rate_and_failures() -> None:
    """Calls, or the events of lists, over the time in which they were counted, whatever else lies in the buckets."""
    buckets = [
        flow(**{"handler|crm|0.05": 60, "handler|crm|failed": 2, "handler|crm|sum": 99, "in.messages": 7}),
        flow(**{"handler|crm|0.1": 30, "handler|lists|0.1": 3, "list|lists|sum": 600, "handler|a|b.c|inf": 1}),
    ]
    found = {one.name: (one.rate, one.failures) for one in figures(lately(buckets), 60, {})}
    assert found == {"lists": (10.0, 0), "crm": (1.5, 2), "a|b.c": (0.017, 0)}


@pytest.mark.parametrize(
    ("parts", "p99"),
    [
        ({}, None),
        ({"2.5": 100}, 2.5),
        ({"0.0005": 98, "0.1": 2}, 0.1),
        ({"0.0005": 990, "30.0": 10}, 0.0005),
        ({"inf": 1}, None),
    ],
)
def test_p99(parts: dict[str, int], p99: float | None) -> None:
    """It is the bound of its bucket, which no call of it exceeds; beyond the longest there is none."""
    counted = lately([flow(**{f"handler|f|{bound}": count for bound, count in parts.items()})])
    (found,) = figures(counted, 60, {"f": ("paused", None)})
    assert found.p99_seconds == p99


def test_what_is_held_up_comes_first() -> None:
    """Then the busiest; one that was not called is there while it is held up."""
    counted = lately([flow(**{"handler|slow|0.1": 1, "handler|busy|0.1": 60})])
    found = figures(counted, 60, {"crm": ("failing", "1970-01-01T00:00:00.000+00:00")})
    assert [one.name for one in found] == ["crm", "busy", "slow"]
    assert found[0] == Handler("crm", 0.0, None, 0, "failing", "1970-01-01T00:00:00.000+00:00")


def test_of_several_redis(redis: Redis, two: list[Redis], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was counted in each is added up; one that is paused anywhere is held up."""
    for one in two:
        now = int(one.time()[0])
        for back in range(2):  # a minute may begin meanwhile
            one.hset(keys.flow_key(now // FLOW_SECONDS - 1 - back), "handler|crm|0.1", 30)
    controls.pause(two[0], [controls.handler("crm")])
    monkeypatch.setattr(backlog, "_counted_seconds", lambda *_: 60.0)
    (found,) = backlog.read_all({"a": two[0], "b": two[1]}).handlers
    assert (found.name, found.rate, found.held) == ("crm", 2.0, "paused")
    assert found.held_since is not None
