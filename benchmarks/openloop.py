"""Open-loop load: notifications go out by the clock, whether or not earlier ones are answered.

A latency counts from the moment a notification was due, not from when it could be sent: a receiver that stands still
does not slow the senders down, and cannot hide what waits meanwhile (coordinated omission). What finds all connections
busy waits here, and that counts too. Number and time are bounded.

`python -m benchmarks.openloop OPTIONS` writes a line of JSON: id of the first event, due and answered (CLOCK_MONOTONIC
seconds; null: no 200 came) of every notification in turn.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import orjson
import uvloop

from benchmarks import bodies

CONNECTIONS = 128
GRACE_SECONDS = 20.0
_HEAD = b"POST /webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb'"id":"(gBGG[0-9A-F]+)"')


class Plan(NamedTuple):
    """What to send: `total` bodies, the n-th is `body(n)` and due `due(n)` seconds after the start."""

    total: int
    due: Callable[[int], float]
    body: Callable[[int], bytes]


class Fired(NamedTuple):
    """What became of them, each list in order of sending. `answered` is 0.0 where no 200 came."""

    ids: list[str]
    due: list[float]
    answered: list[float]


class _Connection(asyncio.Protocol):
    """One keep-alive connection: one request at a time."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._number = -1
        self._received = b""
        self._transport: Any = None  # uvloop's has no type that asyncio knows

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._run.idle.append(self)

    def send(self, number: int, request: bytes) -> None:
        self._number = number
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end]
        length = _LENGTH.search(head)
        if len(self._received) < end + 4 + (int(length[1]) if length else 0):
            return
        ok = head.startswith(b"HTTP/1.1 200 ")
        self._received = b""
        number, self._number = self._number, -1
        self._run.ended(number, time.monotonic() if ok else 0.0)
        self._run.idle.append(self)
        self._run.send_waiting()

    def connection_lost(self, error: Exception | None) -> None:
        self._run.lost(self, self._number)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Run:
    """One run over the connections that are open."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.idle: deque[_Connection] = deque()
        self.fired = Fired([], [], [0.0] * plan.total)
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._left = plan.total
        self.over = asyncio.Event()

    async def go(self) -> None:
        """Send everything when it is due, then wait for the answers, GRACE_SECONDS at most."""
        due = self.fired.due
        start = time.monotonic() + 0.05
        # The loop's clock has milliseconds, rounded down: what is due within one goes out together, never early.
        for number in range(self._plan.total):
            moment = start + self._plan.due(number)
            while (early := moment - time.monotonic()) > 0:  # noqa: ASYNC110 - it waits for the clock, not for an event
                await asyncio.sleep(math.ceil(early * 1000) / 1000)
            if number % 64 == 0:
                await asyncio.sleep(0)  # when late, answers are still read
            body = self._plan.body(number)
            found = _ID.search(body)
            self.fired.ids.append(found[1].decode() if found else "")
            due.append(moment)
            self._waiting.append((number, _HEAD % (len(body), body)))
            self.send_waiting()
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await self.over.wait()
        except TimeoutError:
            return  # what has no answer shows as such

    def send_waiting(self) -> None:
        while self._waiting and self.idle:
            self.idle.popleft().send(*self._waiting.popleft())

    def ended(self, number: int, moment: float) -> None:
        self.fired.answered[number] = moment
        self._left -= 1
        if self._left == 0:
            self.over.set()

    def lost(self, connection: _Connection, number: int) -> None:
        """The receiver closed a connection; its request, if any, counts as not answered."""
        if connection in self.idle:
            self.idle.remove(connection)
        if number >= 0:
            self.ended(number, 0.0)


async def fire(port: int, plan: Plan, connections: int = CONNECTIONS) -> Fired:
    """Send a plan to a receiver on loopback."""
    loop = asyncio.get_running_loop()
    run = _Run(plan)
    opened = [
        (await loop.create_connection(lambda: _Connection(run), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    try:
        await run.go()
    finally:
        for connection in opened:
            connection.close()
    return run.fired


def steadily(rate: float) -> Callable[[int], float]:
    """So many a second."""
    return lambda number: number / rate


def mixed(every: int, seed: int) -> Callable[[int], bytes]:
    """Every n-th body a message, the others statuses; 1: only messages, 0: only statuses."""

    def body(n: int) -> bytes:
        return bodies.message(n, seed) if every and n % every == 0 else bodies.status(n, seed)

    return body


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--rate", type=float, required=True, help="Notifications a second.")
@click.option("--count", type=int, required=True)
@click.option("--every", type=int, default=1, help="Every so many is a message, the others are statuses.")
@click.option("--seed", type=int, default=1, help="Another seed, other ids.")
@click.option("--warm", type=float, default=0.0, help="Seconds of the same before, which do not count.")
@click.option("--connections", type=int, default=CONNECTIONS)
def main(**options: Any) -> None:
    """Send notifications by the clock."""
    uvloop.run(_main(**options))


async def _main(port: int, rate: float, count: int, every: int, seed: int, warm: float, connections: int) -> None:
    if warm:
        await fire(port, Plan(max(1, int(rate * warm)), steadily(rate), mixed(every, seed + 1)), connections)
    fired = await fire(port, Plan(count, steadily(rate), mixed(every, seed)), connections)
    answered = [moment or None for moment in fired.answered]
    click.echo(orjson.dumps({"ids": fired.ids, "due": fired.due, "answered": answered}))


if __name__ == "__main__":
    main()
