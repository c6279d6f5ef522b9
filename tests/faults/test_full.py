"""Redis at its maxmemory: what drains it still works, so that it does not stay full. And one whose disk fails."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from redis import Redis

from ingest.state import controls
from ingest.state.spooled import spool_figures
from ingest.store import keys
from ingest.store.records import unpack
from workers.cli.main import main
from workers.engine import reaper

HANDLER = """
@handlers.status()
def handle(event):
    write(event.id)
    if event.id in os.environ.get("FAIL", "").split() and event.attempt == 1:
        raise ValueError
    time.sleep(float(os.environ.get("SLOW", "0")))
"""

WaitFor = Callable[..., None]


def status(id: int, size: int = 0) -> bytes:
    one = {"id": str(id), "recipient_id": "15550001", "status": "sent", "timestamp": "1700000000"}
    return orjson.dumps({"statuses": [one], "padding": "x" * size})


@pytest.fixture
def fill(redis: Redis) -> Callable[[], None]:
    """Let Redis be full, whatever is taken out of it."""
    return lambda: redis.config_set("maxmemory", 1)


def handled(workers: Any) -> Counter[str]:
    return Counter(id for _, _, id in workers.seen())


def test_workers_that_start(
    workers: Any, commit: Callable[..., None], redis: Redis, fill: Callable[[], None], wait_for: WaitFor
) -> None:
    """Workers begin although Redis is full, handle what waits, also once more what failed, and stop in order."""
    commit(*map(status, range(100)))
    fill()
    workers.start(HANDLER, "--processes", "2", FAIL="7 8")
    wait_for(lambda: not redis.exists(keys.LEDGER), 100)
    workers.stop()
    assert workers.process.returncode == 0
    assert handled(workers) == Counter([*map(str, range(100)), "7", "8"])
    log = (workers.folder / "log").read_text()
    assert log.count("worker started") == 2
    assert "OutOfMemory" not in log


def test_workers_that_run(
    workers: Any,
    commit: Callable[..., None],
    redis: Redis,
    fill: Callable[[], None],
    wait_for: WaitFor,
) -> None:
    """Workers go on when it becomes full, past their signs of life, RQ's and ours."""
    commit(*map(status, range(1200)))
    workers.start(HANDLER, SLOW="0.01")
    wait_for(lambda: len(workers.seen()) > 10)
    fill()
    began = time.monotonic()
    (worker,) = redis.zrange(keys.ALIVE, 0, -1)  # type: ignore[misc]
    seen = redis.hget(f"{keys.RQ}:worker:{worker.decode()}", "last_heartbeat")
    wait_for(lambda: redis.hget(f"{keys.RQ}:worker:{worker.decode()}", "last_heartbeat") != seen, 60)
    wait_for(lambda: time.monotonic() - began > 3 * reaper.BEAT_SECONDS)
    wait_for(lambda: not redis.exists(keys.LEDGER), 100)
    assert handled(workers) == Counter(map(str, range(1200)))
    assert redis.zrange(keys.ALIVE, 0, -1) == [worker]
    assert "OutOfMemory" not in (workers.folder / "log").read_text()


def test_it_does_not_stay_full(
    redis_url: str, start_receiver: Callable[..., Any], workers: Any, redis: Redis, wait_for: WaitFor, tmp_path: Path
) -> None:
    """Notifications fill Redis and then the spool, although a lane is paused; resumed, all is handled, each once."""
    controls.pause(redis, ["statuses"])
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] + (4 << 20))  # type: ignore[index]
    receiver = start_receiver(redis_url, WA_SPOOL_DIR=tmp_path / "spool")
    sent = 0
    while spool_figures(tmp_path / "spool").notifications < 50:
        assert receiver.post(status(sent, 30_000)).status == 200
        sent += 1
    assert sent > 100
    workers.start(HANDLER)
    wait_for(lambda: redis.zcard(keys.ALIVE) == 1, 60)
    assert not workers.seen()
    assert CliRunner().invoke(main, ["resume", "statuses"]).exit_code == 0
    wait_for(lambda: len(workers.seen()) >= sent, 100)
    wait_for(lambda: not redis.exists(keys.LEDGER))
    assert handled(workers) == Counter(map(str, range(sent)))
    assert spool_figures(tmp_path / "spool").notifications == 0


def test_redis_that_cannot_save(
    own_valkey: Callable[..., Any],
    workers: Any,
    commit: Callable[..., None],
    wait_for: WaitFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While Redis takes no writes workers say why, in a line and not a traceback; then all is handled."""
    server = own_valkey(save="3600 1")
    redis = server.client()
    monkeypatch.setenv("WA_REDIS_URL", server.url)
    commit(*map(status, range(1000)))
    workers.start(HANDLER, SLOW="0.005")
    wait_for(lambda: len(workers.seen()) > 10)
    (server.folder / "dump.rdb" / "in the way").mkdir(parents=True)
    redis.bgsave()
    log = workers.folder / "log"
    wait_for(lambda: "Redis takes no writes: ResponseError: MISCONF" in log.read_text(), 60)
    assert redis.exists(keys.LEDGER)
    redis.config_set("stop-writes-on-bgsave-error", "no")
    wait_for(lambda: not redis.exists(keys.LEDGER), 60)
    # What was handled while Redis could not note it comes again.
    assert set(handled(workers)) == set(map(str, range(1000)))
    assert "Traceback" not in log.read_text()


def test_replay_into_a_little_room(
    redis_url: str, start_receiver: Callable[..., Any], redis: Redis, wait_for: WaitFor, tmp_path: Path
) -> None:
    """With 0.6 MB left, less than one call of the replay, what was spooled goes in bit by bit until Redis is full."""
    receiver = start_receiver(redis_url, WA_SPOOL_DIR=tmp_path)
    redis.config_set("maxmemory", 1)
    for id in range(300):
        assert receiver.post(status(id, 8_000)).status == 200
    assert spool_figures(tmp_path).notifications == 300
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] + 600_000)  # type: ignore[index]
    wait_for(lambda: spool_figures(tmp_path).notifications < 270, 50, "some of it in Redis")
    redis.config_set("maxmemory", 0)
    wait_for(lambda: not spool_figures(tmp_path).notifications, 50, "all of it in Redis")
    ids = [orjson.loads(unpack(one).body)["statuses"][0]["id"] for one in _records(redis)]
    assert ids == list(map(str, range(300)))


def _records(redis: Redis) -> list[bytes]:
    """The records that wait, in the order in which they will be taken."""
    batches: Any = redis.lrange(keys.queue_key("statuses"), 0, -1)
    return [one for batch in batches for one in redis.lrange(keys.batch_key(batch.decode()), 0, -1)]  # type: ignore[union-attr]
