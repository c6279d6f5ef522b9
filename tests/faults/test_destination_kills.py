"""Workers that are killed while they post to two destinations."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

from redis import Redis

from ingest.store import keys
from ingest.store.queues import LANES
from ingest.store.records import unpack
from tests.faults.load import Load
from tests.workers.destinations.conftest import Application, application, destinations  # noqa: F401
from workers.events.parsing import parse

KILLS = 1
CONTACTS = 30
EACH = 10  # messages that come in a go
PAUSE = 0.05  # seconds between two goes


def _message(id: str) -> bytes:
    return b'{"messages":[{"from":"%s","id":"%s","type":"text"}]}' % (id.partition("-")[0].encode(), id.encode())


def _ids(body: bytes) -> set[str]:
    return {str(event.id) for event in parse(body, 1)}  # type: ignore[union-attr]


def _owed(redis: Redis) -> set[str]:
    """The events of all batches that are not settled."""
    keys_of = redis.scan_iter(keys.batch_key("*"), count=1000)
    records = [unpack(one) for key in keys_of for one in redis.lrange(key, 0, -1)]
    return set().union(*(_ids(record.body) for record in records))


def test_kills(
    workers: Any,
    commit: Callable[..., None],
    redis: Redis,
    wait_for: Callable[..., None],
    application: Callable[[], Application],  # noqa: F811
    destinations: Callable[..., Any],  # noqa: F811
) -> None:
    """Each event reaches each destination; again only if it was not settled when a worker was killed, and with the
    same id."""
    both = [application(), application()]
    both[1].slow = 0.05  # posts are in flight all the time
    file = destinations({"name": "one", "url": both[0].url}, {"name": "other", "url": both[1].url})
    workers.start("", "--processes", "2", WA_DESTINATIONS=str(file), WA_HANDLERS="", WA_MAX_ATTEMPTS="1")
    load = Load(commit, lambda n: f"{n % CONTACTS}-{n // CONTACTS}", _message, EACH, PAUSE)
    load.start()
    unsettled: set[str] = set()
    try:
        for n in range(1, KILLS + 1):
            wait_for(lambda: min(len(app.posts) for app in both) > 100 * n, 60)  # noqa: B023
            victim = _busiest(redis)
            os.kill(victim, signal.SIGSTOP)  # what is owed now is owed when it is killed
            unsettled |= _owed(redis)
            os.kill(victim, signal.SIGKILL)
    finally:
        load.over.set()
        load.join()
    wait_for(lambda: redis.zcard(keys.LEDGER) == 0, 60)
    again: set[str] = set()
    for app in both:
        times = Counter(id for post in app.posts for id in _ids(post.body))
        repeated = {id for id, count in times.items() if count > 1}
        print(f"{len(times)} events, {len(repeated)} of them again; {len(unsettled)} were not settled at a kill")
        assert set(times) == set(load.committed)
        assert repeated <= unsettled
        again |= repeated
        named = {(post.headers["x-wa-event"], id) for post in app.posts for id in _ids(post.body)}
        assert len(named) == len(dict(named)) == len(times)
    assert again
    assert sum(redis.xlen(keys.dead_key(lane)) for lane in LANES) == 0


def _busiest(redis: Redis) -> int:
    """The process that has most batches: another one may have none."""
    held = Counter(token.partition(b"#")[0].decode() for token in redis.hvals(keys.TAKEN))
    ((worker, _),) = held.most_common(1)
    return int(redis.hget(f"{keys.RQ}:worker:{worker}", "pid"))  # type: ignore[arg-type]
