"""The backlog over the last hour."""

from __future__ import annotations

from redis import Redis

from ingest import batches, history


def test_one_sample_a_step_whoever_calls_first(redis: Redis) -> None:
    """Of several receivers one takes the sample of a step; it holds what waits."""
    redis.rpush(batches.batch_key("b1"), batches.pack(b"{}", 1), batches.pack(b"{}", 1))
    redis.zadd(batches.LEDGER, {"statuses|b1": 1})
    assert [history.take(redis), history.take(redis)] == [True, False]
    (sample,) = history.read(redis)
    assert sample.lanes["statuses"].waiting == 2
    assert sample.lanes["messages"] == history.Point(0, 0.0, 0.0, 0.0, 0)
    assert 0 < redis.pttl(history._TURN) < history.STEP_SECONDS * 1000


def test_no_more_than_an_hour_is_kept(redis: Redis) -> None:
    """The stream does not grow, and what is read is the newest, in order of time."""
    for _ in range(history.KEPT + 300):
        redis.delete(history._TURN)
        history.take(redis)
    samples = history.read(redis)
    assert len(samples) == history.KEPT
    assert redis.xlen(history.HISTORY) < history.KEPT + 101  # Redis removes whole nodes
    assert [sample.time for sample in samples] == sorted(sample.time for sample in samples)
