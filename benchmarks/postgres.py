"""`python -m benchmarks.postgres [COUNT]`: statuses that wait, by one worker process into a PostgreSQL beside it.

Compares the bulk handlers of examples/postgres with one statement an event, with bulk handlers that do nothing, and
with peers as people use them: one statement an event. A rate counts from the first take until nothing is owed, of peers
from the first event to the last. Each final state of ours is compared with a model.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

import asyncpg

from benchmarks import contenders, machine
from benchmarks.machine import BenchError
from benchmarks.postgres_server import PostgreSQL, server
from benchmarks.programs import Store, running, valkey, wait_until
from ingest.commit.committer import make_committer
from ingest.settings import load
from ingest.store import keys

_STATES = ("sent", "delivered", "read")
_BODY = '{{"statuses":[{{"id":"{id}","recipient_id":"1631{contact:07}","status":"{status}","timestamp":"{time}"}}]}}'
_SECONDS = 600.0


def bodies(count: int) -> tuple[list[bytes], dict[str, str]]:
    """Statuses in disorder, three for each message, and the state that each message must have at the end."""
    model, found = {}, []
    for n in range(count):
        id, state = f"gBGG{n // 3:032X}", _STATES[n % 3]
        found.append(_BODY.format(id=id, contact=n // 3 % 10_000, status=state, time=1_760_000_000 + n % 3).encode())
        model[id] = state
    random.Random(7).shuffle(found)  # noqa: S311 - the same each time
    return found, model


def rate(database: PostgreSQL, waiting: list[bytes], handlers: str, which: str = "") -> float:
    """Statuses per second."""
    with valkey("everysec") as store:
        asyncio.run(_commit(store, waiting))
        own = {
            "WA_REDIS_URL": store.url,
            "WA_HANDLERS": handlers,
            "BENCH_POSTGRES": which,
            "DATABASE_URL": database.url,
        }
        command = [sys.executable, "-m", "workers.engine.worker", "--burst"]
        with running("worker", command, machine.FRONT, **own) as program:
            began = wait_until(lambda: store.redis.exists(keys.TAKEN), 60, "the first batch", program, every=0.002)
            ended = wait_until(lambda: not store.redis.exists(keys.LEDGER), _SECONDS, "the end", program)
        counts: Any = store.redis.hgetall(keys.COUNTS)
    if counts != {b"handled.status": b"%d" % len(waiting)}:
        raise BenchError(f"{len(waiting)} statuses were waiting, and this became of them: {counts}")
    return len(waiting) / (ended - began)


async def _commit(store: Store, waiting: list[bytes]) -> None:
    committer = make_committer(load(redis_url=store.url))
    for start in range(0, len(waiting), 4000):
        some = waiting[start : start + 4000]
        await asyncio.gather(*(committer.commit(body, 1_760_000_000_000, committer.route(body)) for body in some))
    await committer.aclose()


async def _states(database: PostgreSQL) -> dict[str, str]:
    connection = await asyncpg.connect(database.url)
    found = await connection.fetch("SELECT message, state::text FROM deliveries")
    await connection.execute("TRUNCATE deliveries")
    await connection.close()
    return {row["message"]: row["state"] for row in found}


def _peer(database: PostgreSQL, name: str, count: int) -> float:
    """Statuses per second of a peer with 8 threads (dramatiq) or one process (Celery, which is faster so)."""
    with valkey("everysec") as store:
        contenders.load(name, store, count, "status")
        return contenders.work(name, store, count, BENCH_DATABASE=database.url)


def main(count: int) -> None:
    waiting, model = bodies(count)
    with server() as database:
        database.script(machine.ROOT / "examples/postgres/schema.sql")
        own = "benchmarks.postgres_handlers:handlers"
        for turn in range(1, 4):
            nothing = rate(database, waiting, own, "nothing")
            bulk = rate(database, waiting, "examples.postgres:handlers")
            if asyncio.run(_states(database)) != model:
                raise BenchError("the states in the table are not those of the model")
            each = rate(database, waiting[: count // 5], own, "each")
            asyncio.run(_states(database))
            peers = {peer: _peer(database, peer, count // 10) for peer in ("dramatiq", "celery")}
            asyncio.run(_states(database))
            print(
                f"round {turn}: nothing {nothing:,.0f}/s, bulk {bulk:,.0f}/s, one by one {each:,.0f}/s: "
                f"{bulk / each:.1f} times as fast, {bulk / nothing:.2f} of nothing; "
                + ", ".join(f"{name} {found:,.0f}/s" for name, found in peers.items())
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
