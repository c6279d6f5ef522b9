"""How fast a destination is called that answers 429."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from redis import Redis

from ingest.store import keys
from tests.workers.conftest import message_body
from workers.destinations.pace import Pace


class Server:
    """Takes `most` calls in each second, by the clock; what is beyond gets a 429 that asks for two seconds."""

    def __init__(self, most: int, burst: int = 0) -> None:
        self.now = 0.0
        self.taken = self.refused = 0
        self._most, self._burst = most, burst
        self._tokens, self._at = float(most + burst), 0.0

    def call(self) -> bool:
        if self._burst:
            self._tokens = min(self._burst, self._tokens + (self.now - self._at) * self._most)
            self._at = self.now
        elif int(self.now) != int(self._at):
            self._tokens, self._at = self._most, self.now
        if self._tokens < 1:
            self.refused += 1
            return False
        self._tokens -= 1
        self.taken += 1
        return True


@pytest.mark.parametrize("offered", [130, 200, 1000])
@pytest.mark.parametrize(
    ("burst", "began"), [(0, 0.0), (0, 0.3), (0, 0.7), (10, 0.0), (50, 0.0), (100, 0.0), (500, 0.0)]
)
def test_finds_the_rate(burst: int, began: float, offered: int) -> None:
    """It finds what a server takes that says no more than 429: nearly all of it, with hardly a refusal; whether that
    counts by the second, or has a bucket, and however many calls there are."""
    server = Server(100, burst)
    server.now = server._at = began
    pace = Pace(lambda: server.now)
    while server.now < 200:
        if seconds := pace.wait():
            server.now += seconds
            continue
        pace.begin()
        server.now += 1 / offered
        if server.call():
            pace.taken()
        else:
            pace.too_many(2.0)
    assert server.taken >= (0.85 if burst == 10 else 0.9) * 200 * 100  # the search takes longer from so little
    assert server.refused <= 0.01 * server.taken


def test_nothing_is_held_up_before() -> None:
    """A destination that never answers 429 may be called at any rate."""
    pace = Pace(lambda: 1.0)
    for _ in range(10_000):
        assert pace.wait() == 0
        pace.begin()
        pace.taken()


def test_retry_after_is_obeyed() -> None:
    """After a 429 nothing is called for as long as it asks; those of calls under way lengthen that, and no more."""
    now = 10.0
    pace = Pace(lambda: now)
    pace.too_many(2.0)
    assert pace.wait() == 2
    now = 10.5
    pace.too_many(2.0)
    assert pace.wait() == 2
    now = 12.6
    assert pace.wait() == 0 or pace.wait() < 1.5


def test_a_server_with_a_limit(
    application: Any, destinations: Any, worker: Any, commit: Any, wait_for: Any, redis: Redis, dead: Any
) -> None:
    """A real one that answers 429 above 100 a second has hardly any to answer, beside those of the first moment."""
    app = application()
    taken, refused = Counter[int](), 0

    def answer(post: Any) -> web.Response:
        nonlocal refused
        if taken[int(post.at)] < 100:
            taken[int(post.at)] += 1
            return web.Response()
        refused += 1
        return web.Response(status=429, headers={"Retry-After": "1"})

    app.answer = answer
    concurrency = 10
    commit(*[message_body(f"m{n}", f"1555{n % 100:04d}") for n in range(400)])
    worker(destinations({"name": "crm", "url": app.url, "concurrency": concurrency}), WA_MAX_ATTEMPTS="1")
    wait_for(lambda: not redis.zcard(keys.LEDGER), 60)
    assert taken.total() == 400
    assert 1 <= refused <= concurrency + 0.01 * 400
    assert {post.headers["x-wa-attempt"] for post in app.posts} == {"1"}
    assert dead("messages") == []


def test_what_a_429_leads_to_is_told() -> None:
    """While nothing may be called, until when; afterwards the rate, and since when. Before the first 429, nothing."""
    now = 10.0
    pace = Pace(lambda: now)
    assert pace.hold("crm") is None
    pace.too_many(5)
    first = pace.hold("crm")
    assert first is not None
    assert (first.by, round(first.at - time.time())) == ("429", 5)
    now = 16.0
    then = pace.hold("crm")
    assert then is not None
    assert (then.by, then.figure, round(time.time() - then.at)) == ("pace", 1.0, 0)
