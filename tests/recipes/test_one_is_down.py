"""docs/recipes/one-is-down.md, with an application that is away for as long as what waits has many tries behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis import Redis

from ingest.store import keys
from ingest.store.records import unpack
from tests.workers.conftest import message_body
from tests.workers.destinations.conftest import Application
from workers.events.parsing import parse

CONTACTS = 6
WAITS = 17
"""So often an event is put off in an hour, first for 5 s, at last for 5 minutes (`workers.engine.retries`)."""


def _make_due(redis: Redis) -> None:
    """The clock of the waiting goes on: what waits for its next try is due now."""
    for key in redis.scan_iter(f"{keys.RQ}:scheduled:*"):
        if waiting := redis.zrange(key, 0, -1):
            redis.zadd(key, dict.fromkeys(waiting, 1), xx=True)  # type: ignore[arg-type]


def _longest_wait(redis: Redis) -> int:
    """How often what waits was put off, at most."""
    parked = [id for key in redis.scan_iter(f"{keys.RQ}:scheduled:*") for id in redis.zrange(key, 0, -1)]
    records = [unpack(one) for id in parked for one in redis.lrange(keys.batch_key(id.decode()), 0, -1)]
    return max((record.waits for record in records), default=0)


def _ids(application: Application) -> list[str]:
    return [str(event.id) for post in application.posts for event in parse(post.body, 1)]  # type: ignore[union-attr]


def test_one_is_down(
    application: Callable[[], Application],
    recipe: Any,
    worker: Any,
    commit: Any,
    wait_for: Any,
    redis: Redis,
    dead: Any,
) -> None:
    """One gets everything meanwhile, in order; the other one everything once when it is back, each at its first try."""
    crm, warehouse = application(), application()
    worker(recipe("one-is-down.md", crm.host, warehouse.host), WA_MAX_ATTEMPTS="1")
    sent: list[str] = []

    def send() -> None:
        """A message of each contact."""
        number = len(sent) // CONTACTS
        ids = [f"{contact}-{number}" for contact in range(CONTACTS)]
        commit(*[message_body(id, f"1555000{id[0]}") for id in ids])
        sent.extend(ids)

    send()
    wait_for(lambda: len(crm.posts) == len(warehouse.posts) == CONTACTS, 60)
    crm.stop()
    for waits in range(1, WAITS + 1):
        send()
        wait_for(lambda: len(warehouse.posts) == len(sent), 60)
        wait_for(lambda: _make_due(redis) or _longest_wait(redis) >= waits, 60)  # noqa: B023
    assert len(crm.posts) == CONTACTS
    crm.start()
    send()
    wait_for(lambda: not redis.zcard(keys.LEDGER), 60)
    for app in (crm, warehouse):
        assert sorted(_ids(app)) == sorted(sent)
        assert {post.headers["x-wa-attempt"] for post in app.posts} == {"1"}
    for contact in range(CONTACTS):
        mine = [id for id in _ids(warehouse) if id.startswith(f"{contact}-")]
        assert mine == [f"{contact}-{number}" for number in range(len(mine))]
    assert dead("messages") == []
