"""What workers write down for a simulated sender."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest

from examples import alarm
from workers.simulator import verifying


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


def test_one_client_for_all_threads(module: tuple[ModuleType, list[Any]]) -> None:
    """Threads that ask for the first client at the same time get the same: one that is dropped would close its
    connection while an answer is awaited in it, and what was sent would be sent again."""
    found, opened = module
    ask = getattr(found, "_redis", None) or found.redis
    with ThreadPoolExecutor(4) as threads:
        clients = list(threads.map(lambda _: ask(), range(4)))
    assert len(opened) == 1
    assert set(map(id, clients)) == {id(opened[0])}
