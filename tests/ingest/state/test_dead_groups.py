"""Dead letters, counted for the page."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from ingest.state import dead_groups, dead_letters
from ingest.store import keys

LETTER: Any = {"reason": "failed", "kind": "message", "detail": "Kerry Fisher", "attempt": 8, "body": b"{}"}


def add(redis: Redis, count: int = 1, lane: str = "messages", **fields: Any) -> None:
    for _ in range(count):
        redis.xadd(keys.dead_key(lane), LETTER | fields)


def counted(counter: dead_groups.Counter) -> dict[tuple[str, str, str], int]:
    counter._not_before = 0.0
    return {(group.lane, group.reason, group.kind): group.count for group in counter.read().groups}


def test_groups(redis: Redis) -> None:
    """Letters are counted by lane, reason and kind, the largest group first, with the ids that were counted."""
    add(redis)
    add(redis, 3, reason="rejected")
    add(redis, 2, "other", reason="unreadable", kind="notification")
    groups = dead_groups.Counter(redis).read()
    found = [(group.lane, group.reason, group.kind, group.count) for group in groups.groups]
    assert found == [
        ("messages", "rejected", "message", 3),
        ("other", "unreadable", "notification", 2),
        ("messages", "failed", "message", 1),
    ]
    ids: Any = [id.decode() for id, _ in redis.xrange(keys.dead_key("other"))]
    (group,) = [group for group in groups.groups if group.lane == "other"]
    assert [group.first, group.last] == ids
    assert group.newest_ms == int(ids[-1].partition("-")[0])
    assert "Kerry" not in repr(groups)


def test_groups_of_handlers(redis: Redis) -> None:
    """Letters of different handlers are apart; those of several handlers are a group of their own."""
    for handler in ("crm", "shop", "crm", "crm, shop"):
        add(redis, handler=handler)
    found = {group.handler: group.count for group in dead_groups.Counter(redis).read().groups}
    assert found == {"crm": 2, "shop": 1, "crm, shop": 1}


def test_it_follows_what_comes_and_goes(redis: Redis) -> None:
    """New letters and those that were removed are noticed; while nothing changes, nothing is read again."""
    counter = dead_groups.Counter(redis)
    assert counted(counter) == {}
    add(redis, 2)
    assert counted(counter) == {("messages", "failed", "message"): 2}
    known = counter.read()
    counter._not_before = 0.0
    assert counter.read() is known
    for _ in dead_letters.drop(redis, dead_letters.select(redis, dead_letters.Wanted())):
        add(redis)
    assert counted(counter) == {("messages", "failed", "message"): 1}


@pytest.mark.parametrize(("bound", "value"), [("COUNTED", 25), ("COUNTED_BYTES", 49)])
def test_only_the_newest_are_counted(redis: Redis, monkeypatch: pytest.MonkeyPatch, bound: str, value: int) -> None:
    """Of many or large letters the newest are counted, and it is told how many are not."""
    monkeypatch.setattr(dead_groups, bound, value)
    add(redis, 30, reason="rejected")
    add(redis, 20)
    groups = dead_groups.Counter(redis).read()
    assert {group.reason: group.count for group in groups.groups} == {"failed": 20, "rejected": 5}
    assert groups.uncounted == 25


def test_without_the_right_to_read_them(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that refuses is asked again after a minute, not each second."""
    counter = dead_groups.Counter(redis)
    asked = []

    def refuse() -> Any:
        asked.append(1)
        raise NoPermissionError("no")

    monkeypatch.setattr(counter, "_look", refuse)
    for _ in range(3):
        assert counter.read() == dead_groups.Groups(refused=True)
    assert len(asked) == 1


def test_the_newest_first(redis: Redis) -> None:
    """`dead.newest` gives all letters of a lane, the newest first, also over many portions."""
    add(redis, 250)
    found = [letter.id for letter in dead_letters.newest(redis, "messages")]
    assert len(set(found)) == 250
    assert found == sorted(found, reverse=True)
    assert list(dead_letters.newest(redis, "other")) == []


def test_several_redis_are_one_list() -> None:
    """Groups of the same lane, reason and kind are added up; the first is the oldest of all, the last the newest."""

    def group(count: int, first: str, last: str, reason: str = "failed") -> dead_groups.Group:
        return dead_groups.Group("other", reason, "message", count, first, last, int(last.partition("-")[0]))

    one = dead_groups.Groups((group(3, "10-0", "50-0"),), uncounted=2)
    two = dead_groups.Groups((group(4, "9-1", "40-0"), group(1, "1-0", "1-0", "rejected")), refused=True)
    both = dead_groups.together([one, two])
    assert both == dead_groups.Groups((group(7, "9-1", "50-0"), group(1, "1-0", "1-0", "rejected")), 2, True)
    assert dead_groups.together([]) == dead_groups.Groups()
