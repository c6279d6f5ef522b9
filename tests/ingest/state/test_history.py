"""The backlog over the last hour."""

from __future__ import annotations

import orjson
from redis import Redis

from ingest.state import history
from ingest.store import keys
from ingest.store.records import pack


def test_one_sample_a_step_whoever_calls_first(redis: Redis) -> None:
    """Of several receivers one takes the sample of a step; it holds what waits."""
    redis.rpush(keys.batch_key("b1"), pack(b"{}", 1), pack(b"{}", 1))
    redis.zadd(keys.LEDGER, {"statuses|b1": 1})
    assert [history.take(redis), history.take(redis)] == [True, False]
    (sample,) = history.read(redis)
    assert sample.lanes["statuses"].waiting == 2
    assert sample.lanes["messages"] == history.Point(0, 0.0, 0.0, 0.0, 0)
    assert 0 < redis.pttl(keys.HISTORY_TURN) < history.STEP_SECONDS * 1000


def test_no_more_than_an_hour_is_kept(redis: Redis) -> None:
    """The stream does not grow, and what is read is the newest, in order of time."""
    for _ in range(history.KEPT + 300):
        redis.delete(keys.HISTORY_TURN)
        history.take(redis)
    samples = history.read(redis)
    assert len(samples) == history.KEPT
    assert redis.xlen(keys.HISTORY) < history.KEPT + 101  # Redis removes whole nodes
    assert [sample.time for sample in samples] == sorted(sample.time for sample in samples)


def test_several_redis_are_one_line(redis: Redis) -> None:
    """The samples of a step are added up, the oldest is the oldest of all; a Redis that is away is left out."""
    history.take(redis)
    ((time, _, lanes),) = history.read(redis)
    redis.delete(keys.HISTORY)
    lanes["other"] = history.Point(5, 7.0, 1.0, 2.0, 3)
    sample = {"workers": 2, "lanes": orjson.dumps({name: tuple(point) for name, point in lanes.items()})}
    redis.xadd(keys.HISTORY, sample, id=f"{int(time * 1000)}-0")
    away = Redis(port=1, socket_connect_timeout=0.1)
    (both,) = history.read_all({"one": redis, "two": redis, "three": away})
    assert both.workers == 4
    assert both.lanes["other"] == history.Point(10, 7.0, 2.0, 4.0, 6)
