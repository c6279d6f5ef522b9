"""What an operator says to a running pipeline."""

from __future__ import annotations

from redis import Redis

from ingest.settings import load
from ingest.settings import redis_url as url_of
from ingest.state import controls
from ingest.state.controls import Controls
from ingest.store import connection, keys


def test_what_is_said_is_in_force_until_it_is_taken_back(redis: Redis) -> None:
    """Pauses and caps are kept by lane; pausing again does not change since when."""
    assert controls.read(redis) == Controls({}, {})
    controls.pause(redis, ["messages", "statuses"])
    controls.limit(redis, "statuses", 0.5)
    first = controls.read(redis)
    assert set(first.paused) == {"messages", "statuses"}
    assert first.limits == {"statuses": 0.5}
    controls.pause(redis, ["messages"])
    assert controls.read(redis) == first
    controls.resume(redis, ["messages"])
    controls.limit(redis, "statuses", None)
    assert set(controls.read(redis).paused) == {"statuses"}
    assert controls.read(redis).limits == {}


def test_levers_of_a_full_redis(redis: Redis) -> None:
    """A lane that filled Redis while it was paused can be resumed, which makes room; the others can be paused."""
    controls.pause(redis, ["statuses"])
    redis.config_set("maxmemory", 1)
    tool = connection.for_tools(url_of(load()))
    controls.resume(tool, ["statuses"])
    controls.pause(tool, ["messages"])
    controls.limit(tool, "other", 5.0)
    tool.close()
    assert set(controls.read(redis).paused) == {"messages"}
    assert controls.read(redis).limits == {"other": 5.0}
    assert redis.llen(keys.doorbell_key("statuses")) == 1


def test_what_is_said_wakes_one_worker(redis: Redis) -> None:
    """Who waits for work learns that a lane goes on: one token lies at its doorbell, however often it is said."""
    for _ in range(3):
        controls.resume(redis, ["other"])
        controls.limit(redis, "other", 5)
    assert redis.llen(keys.doorbell_key("other")) == 1
