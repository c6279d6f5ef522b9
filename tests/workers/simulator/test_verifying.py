"""What workers write down for a simulated sender."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
from redis import Redis

from examples import alarm
from ingest.store import keys
from workers.simulator import report, verifying
from workers.simulator.counters import Tally


@pytest.fixture(params=[(verifying, "for_worker"), (alarm, "for_tools")], ids=["verifying", "alarm"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, list[Any]]]:
    """A module whose handlers open one client for all their threads, and the clients that they have opened."""
    found, function = request.param
    opened: list[Any] = []
    both = threading.Barrier(2)

    def slowly(*_: Any) -> object:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # for a second thread that opens one, too
        opened.append(object())
        return opened[-1]

    monkeypatch.setattr(found.connection, function, slowly)
    monkeypatch.setattr(found, "load", lambda: None)
    monkeypatch.setattr(found, "redis_url", lambda _: "")
    found._client.cache_clear()
    yield found, opened
    found._client.cache_clear()


FINE = verifying.Findings(expected=10, handled=10, missing=0, repeated=0, out_of_order=0)


@pytest.mark.parametrize(
    ("findings", "says"),
    [
        (FINE, None),
        (FINE._replace(set_back=1), None),
        (FINE._replace(repeated=3), "of 10 updates 3 were handled more than once"),
        (FINE._replace(repeated=3, set_back=1), None),
        (
            FINE._replace(repeated=3, missing=1, set_back=1),
            "of 10 updates 1 is missing, 3 were handled more than once (permitted, because a worker died or a handler "
            "failed)",
        ),
    ],
)
def test_repeats_that_are_permitted(findings: verifying.Findings, says: str | None) -> None:
    """A repeat is a fault unless a worker died or a handler failed meanwhile; what is missing always is."""
    assert report.wrong(Tally(), findings) == says


def test_what_permits_repeats(redis: Redis) -> None:
    """Batches of dead workers that were put back count, and failed calls."""
    assert verifying.set_back([redis]) == 0
    redis.hset(keys.COUNTERS, mapping={"reaped|messages|batches": 2, "reaped|statuses|batches": 1})
    redis.hset(keys.COUNTERS, mapping={"handler|bot.answer|failed": 4, "handler|bot.answer|1.0": 9})
    assert verifying.set_back([redis]) == 7


def test_one_client_for_all_threads(module: tuple[ModuleType, list[Any]]) -> None:
    """Threads that ask for the first client at the same time get the same: one that is dropped would close its
    connection while an answer is awaited in it, and what was sent would be sent again."""
    found, opened = module
    ask = getattr(found, "_redis", None) or found.redis
    with ThreadPoolExecutor(4) as threads:
        clients = list(threads.map(lambda _: ask(), range(4)))
    assert len(opened) == 1
    assert set(map(id, clients)) == {id(opened[0])}
