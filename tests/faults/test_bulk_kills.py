"""Workers with a bulk handler that are killed in the middle of a list, again and again, while notifications come in."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from ingest.store import keys
from ingest.store.queues import LANES
from tests.conftest import LONG
from tests.faults.load import Load

KILLS = 10 if LONG else 3
EACH = 20  # statuses that come in a go
PAUSE = 0.1  # seconds between two goes

BULK = """
@handlers.status("read", bulk=20, linger=0.05)
def on_read(statuses):
    write("begin", *[status.id for status in statuses])
    time.sleep(0.1)
    write("end", *[status.id for status in statuses])

@handlers.status("delivered", bulk=20, linger=0.05)
async def on_delivered(statuses):
    write("begin", *[status.id for status in statuses])
    await asyncio.sleep(0.1)
    write("end", *[status.id for status in statuses])
"""


def _status(id: str) -> bytes:
    stage = b"read" if int(id[1:]) % 2 else b"delivered"
    return b'{"statuses":[{"id":"%s","status":"%s"}]}' % (id.encode(), stage)


class Seen:
    """What the handlers have written so far."""

    def __init__(self, path: Path) -> None:
        self._file = path.open()
        self._last: dict[int, str] = {}  # what each process wrote last
        self.ended: list[tuple[int, str]] = []

    def read(self) -> Seen:
        for line in self._file:
            _, pid, what, *ids = json.loads(line)
            self._last[pid] = what
            if what == "end":
                self.ended += [(pid, id) for id in ids]
        return self

    def close(self) -> None:
        self._file.close()

    def in_a_list(self, but: set[int]) -> list[int]:
        """Processes that have begun a list and not ended it."""
        return [pid for pid, what in self._last.items() if what == "begin" and pid not in but]


@pytest.mark.timeout(300)
def test_kills_in_bulk_handlers(
    workers: Any, commit: Callable[..., None], redis: Redis, wait_for: Callable[..., None]
) -> None:
    """Nothing is lost; only a killed process' events are seen again: those in flight, and those not settled yet."""
    workers.start(BULK, "--processes", "3")
    killed: set[int] = set()
    before: deque[set[str]] = deque([set()], 2)  # what was there at the last kills: three of a batch would be poison
    load, seen = Load(commit, lambda n: f"s{n:05}", _status, EACH, PAUSE), Seen(workers.path)
    load.start()
    try:
        while len(killed) < KILLS:
            wait_for(lambda: not before[0].difference(id for _, id in seen.read().ended), 60)
            wait_for(lambda: seen.read().in_a_list(but=killed), 60)
            victim = seen.in_a_list(but=killed)[0]
            killed.add(victim)
            os.kill(victim, signal.SIGKILL)
            before.append(set(load.committed))
    finally:
        load.over.set()
        load.join()
    wait_for(lambda: redis.zcard(keys.LEDGER) == 0, 60)
    times = Counter(id for _, id in seen.read().ended)
    assert set(times) == set(load.committed)
    repeated = {id for id, count in times.items() if count > 1}
    print(f"{len(killed)} kills, {len(times)} events, {len(repeated)} of them twice")
    assert repeated <= {id for pid, id in seen.ended if pid in killed}
    assert sum(redis.xlen(keys.dead_key(lane)) for lane in LANES) == 0
    seen.close()
