"""The open loop against a small receiver."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
import uvloop
from aiohttp import web

from benchmarks.openloop import Fired, Plan, fire, mixed, steadily
from ingest.routing import route

Answer = Callable[[int], Awaitable[int]]


def fired_at(
    answer: Answer,
    plan: Plan,
    connections: int = 8,
    loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> tuple[Fired, list[bytes]]:
    """Send a plan to a server that gives `answer(n)` to the n-th request; also the bodies that came."""
    bodies: list[bytes] = []
    numbers = itertools.count()

    async def handle(request: web.BaseRequest) -> web.Response:
        number = next(numbers)
        bodies.append(await request.read())
        return web.Response(status=await answer(number))

    async def run() -> Fired:
        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            return await fire(runner.addresses[0][1], plan, connections)
        finally:
            await runner.cleanup()

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(run()), bodies


async def ok(_: int) -> int:
    return 200


def test_everything_is_sent_once_and_answered() -> None:
    """As many bodies arrive as the plan has, no two alike, each with an answer after it was due."""
    fired, bodies = fired_at(ok, Plan(300, steadily(3000.0), mixed(1, seed=5)))
    assert len(bodies) == len(set(bodies)) == 300
    assert {orjson.loads(body)["messages"][0]["id"] for body in bodies} == set(fired.ids)
    assert all(done > due for due, done in zip(fired.due, fired.answered, strict=True))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_nothing_is_sent_early(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A timer that fires a little before its time would take that off every latency."""
    arrived: list[float] = []

    async def note(_: int) -> int:
        arrived.append(time.monotonic())
        return 200

    fired, _ = fired_at(note, Plan(300, steadily(700.0), mixed(1, seed=5)), connections=1, loop=loop)
    assert all(moment >= due for due, moment in zip(fired.due, arrived, strict=True))


def test_due_times_follow_the_clock_only() -> None:
    """The n-th is due n / rate after the first, whatever the receiver does."""
    fired, _ = fired_at(ok, Plan(50, steadily(500.0), mixed(1, seed=5)))
    assert [round(due - fired.due[0], 6) for due in fired.due] == [round(n / 500, 6) for n in range(50)]


def test_a_pause_of_the_receiver_counts_for_all_that_were_due_in_it() -> None:
    """A receiver that stands still for 0.3 s makes many answers late, not just one for each connection."""
    stands_until: list[float] = []

    async def once_slow(number: int) -> int:
        if number == 10:
            stands_until.append(time.monotonic() + 0.3)
        await asyncio.sleep(stands_until[0] - time.monotonic() if stands_until else 0)
        return 200

    fired, bodies = fired_at(once_slow, Plan(200, steadily(500.0), mixed(1, seed=5)), connections=4)
    late = [done - due for due, done in zip(fired.due, fired.answered, strict=True) if done - due > 0.1]
    assert len(bodies) == 200
    assert len(late) >= 80


def test_what_is_refused_is_not_answered() -> None:
    """Only 200 counts."""

    async def every_tenth_503(number: int) -> int:
        return 503 if number % 10 == 0 else 200

    fired, _ = fired_at(every_tenth_503, Plan(100, steadily(2000.0), mixed(1, seed=5)))
    assert fired.answered.count(0.0) == 10


def test_mix_of_messages_and_statuses() -> None:
    """Every eleventh body is a message, the others are statuses, for the lanes that they are named for."""
    body = mixed(11, seed=5)
    lanes: list[Any] = [route(body(n), 8)[0].queue.partition(".")[0] for n in range(22)]
    assert [n for n, lane in enumerate(lanes) if lane == "messages"] == [0, 11]
    assert lanes.count("statuses") == 20
