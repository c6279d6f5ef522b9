"""What the peers share: their arguments from the harness, the count of what was handled, and how the servers run."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

from benchmarks.peers.events import handle

HOST = "127.0.0.1"
PORT = int(os.environ.get("BENCH_PORT", "0"))
REDIS_PORT = int(os.environ.get("BENCH_REDIS", "0"))
REDIS_URL = f"redis://{HOST}:{REDIS_PORT}/0"
COUNT = int(os.environ.get("BENCH_COUNT", "0"))


def run(**modes: Callable[[], None]) -> None:
    """Do what the only argument says: `run(serve=serve, load=load, work=work)`.

    The harness's line alone goes to standard output; whatever libraries print there goes to standard error.
    """
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    modes[sys.argv[1]]()


def bodies() -> Iterator[bytes]:
    """As many notifications as were asked for, from the file that was named, again from its start if need be."""
    lines = Path(os.environ["BENCH_BODIES"]).read_bytes().splitlines()
    return itertools.islice(itertools.cycle(lines), COUNT)


def chunks(size: int) -> Iterator[list[bytes]]:
    """The same in lists of this size."""
    left = bodies()
    while chunk := list(itertools.islice(left, size)):
        yield chunk


_stdout = os.dup(1)
_numbers = itertools.count(1)  # next() is one step, so threads may share it
_first = 0.0


def counted(body: bytes | str) -> bool:
    """Handle a notification and count it; print the line and return True when it is the last."""
    global _first
    handle(body)
    number = next(_numbers)
    if number == 1:
        _first = time.monotonic()
    if number == COUNT:
        report(_first)
    return number == COUNT


def report(first: float) -> None:
    """The line for the harness."""
    line = {"handled": COUNT, "first": first, "last": time.monotonic()}
    os.write(_stdout, json.dumps(line).encode() + b"\n")


# RQ imports what it runs by name, and so it cannot be in the module that is __main__.


def notification(body: bytes) -> None:
    counted(body)


_forked = RawArray("d", 2)  # how many, and when the first was: in memory that the forks of one worker share


def notification_in_fork(body: bytes) -> None:
    """The same where each runs in a process of its own, one after the other."""
    handle(body)
    _forked[0] += 1
    if _forked[0] == 1:
        _forked[1] = time.monotonic()
    if _forked[0] == COUNT:
        report(_forked[1])


def serve_aiohttp(accept: Callable[[bytes], Awaitable[None]]) -> None:
    """Answer 200 to each POST when `accept` has returned."""
    import uvloop
    from aiohttp import web

    async def webhook(request: web.Request) -> web.Response:
        await accept(await request.read())
        return web.Response()

    app = web.Application()
    app.router.add_post("/webhook", webhook)
    web.run_app(app, host=HOST, port=PORT, access_log=None, print=None, loop=uvloop.new_event_loop())


def serve_uvicorn(app: Any) -> None:
    """Serve a FastAPI application from one process."""
    import uvicorn

    uvicorn.run(app, host=HOST, port=PORT, loop="uvloop", http="httptools", access_log=False, log_level="error")
