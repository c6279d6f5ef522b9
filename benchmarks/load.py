"""Fills a backlog of ours through the receiver's own committer. Writes the bytes of the bodies to standard output.

Environment: BENCH_REDIS (port), BENCH_COUNT (bodies), BENCH_KIND (message or status), BENCH_UPDATES (events in a body).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import orjson
import uvloop

from benchmarks import bodies
from ingest.commit.committer import make_committer
from ingest.commit.group_commit import FLUSH_RECORDS
from ingest.routing import route
from ingest.settings import load


def made(count: int, kind: str, updates: int, seed: int = 0) -> Iterator[bytes]:
    """`count` bodies of `updates` events each, no two events alike."""
    one = bodies.message if kind == "message" else bodies.status
    for n in range(count):
        if updates == 1:
            yield one(n, seed)
            continue
        parts = [orjson.loads(one(n * updates + i, seed)) for i in range(updates)]
        yield orjson.dumps({key: [item for part in parts for item in part[key]] for key in parts[0]})


async def fill() -> int:
    """Commit them all, a flush at a time; return their bytes."""
    port, count = os.environ["BENCH_REDIS"], int(os.environ["BENCH_COUNT"])
    settings = load(redis_url=f"redis://127.0.0.1:{port}/0")
    committer = make_committer(settings)
    size = 0
    waiting: list[asyncio.Future[None] | asyncio.Task[None]] = []
    held = 0
    for body in made(count, os.environ["BENCH_KIND"], int(os.environ["BENCH_UPDATES"])):
        size += len(body)
        held += len(body)
        now_ms = time.time_ns() // 1_000_000
        waiting.append(asyncio.ensure_future(committer.commit(body, now_ms, route(body, settings.partitions))))
        if len(waiting) >= FLUSH_RECORDS or held > 4 << 20:
            await asyncio.gather(*waiting)
            waiting, held = [], 0
    await asyncio.gather(*waiting)
    await committer.aclose()
    return size


if __name__ == "__main__":
    print(uvloop.run(fill()))
