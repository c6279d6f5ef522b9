"""What an operator says to a running pipeline."""

from __future__ import annotations

from redis import Redis

from ingest import batches, connection, steering
from ingest.settings import load


def test_what_is_said_is_in_force_until_it_is_taken_back(redis: Redis) -> None:
    """Pauses and caps are kept by lane; pausing again does not change since when."""
    assert steering.read(redis) == ({}, {})
    steering.pause(redis, ["messages", "statuses"])
    steering.limit(redis, "statuses", 0.5)
    first = steering.read(redis)
    assert set(first.paused) == {"messages", "statuses"}
    assert first.limits == {"statuses": 0.5}
    steering.pause(redis, ["messages"])
    assert steering.read(redis) == first
    steering.resume(redis, ["messages"])
    steering.limit(redis, "statuses", None)
    assert set(steering.read(redis).paused) == {"statuses"}
    assert steering.read(redis).limits == {}


def test_levers_of_a_full_redis(redis: Redis) -> None:
    """A lane that filled Redis while it was paused can be resumed, which makes room; the others can be paused."""
    steering.pause(redis, ["statuses"])
    redis.config_set("maxmemory", 1)
    tool = connection.for_tools(load())
    steering.resume(tool, ["statuses"])
    steering.pause(tool, ["messages"])
    steering.limit(tool, "other", 5.0)
    tool.close()
    assert set(steering.read(redis).paused) == {"messages"}
    assert steering.read(redis).limits == {"other": 5.0}
    assert redis.llen(batches.doorbell_key("statuses")) == 1


def test_what_is_said_wakes_one_worker(redis: Redis) -> None:
    """Who waits for work learns that a lane goes on: one token lies at its doorbell, however often it is said."""
    for _ in range(3):
        steering.resume(redis, ["other"])
        steering.limit(redis, "other", 5)
    assert redis.llen(batches.doorbell_key("other")) == 1
