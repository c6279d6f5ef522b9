"""One process of the pipeline that waits at one step of its work, so that a test can end it exactly there.

`python -c "from tests.faults.paused import main; main()" receiver|worker` runs the real `main` of that process after it
has wrapped the function at the step that PAUSE names. At the PAUSE_NTH time it writes a byte to the descriptor REACHED
and blocks until it reads one from GO: nothing of that thread goes on meanwhile. All steps are in the main thread, which
runs the loop, but "in a handler" when that is a plain function. Production code has no hook for it.

This is also the handlers module of those workers: it writes down what it handles.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import os
import random
import sys
import time
from typing import Any

RECEIVER_STEPS = ("body read", "before commit", "commit sent", "committed")
WORKER_STEPS = (
    "before take",
    "taken",
    "before claim",
    "claimed",
    "in a handler",
    "handler returned",
    "before settle",
    "settle sent",
    "settled",
)
HANDLER_SECONDS = 0.04  # in four threads
ASYNC_HANDLER_SECONDS = 0.08  # ten at a time
LIST = 10  # events that a bulk handler gets at most, one after another in the time of a plain one
LINGER_SECONDS = 0.05

_times = itertools.count(1)  # several threads count
_in_call = False


def here(step: str) -> None:
    """Wait, when this is the step and the time."""
    if os.environ.get("PAUSE") == step and next(_times) == int(os.environ["PAUSE_NTH"]):
        os.write(int(os.environ["REACHED"]), b"!")
        os.read(int(os.environ["GO"]), 1)


def _wrap(owner: Any, name: str, before: str) -> None:
    """Put a step before each call of a function."""
    real = getattr(owner, name)

    @functools.wraps(real)
    def call(*arguments: Any, **options: Any) -> Any:
        here(before)
        return real(*arguments, **options)

    setattr(owner, name, call)


def prepare_receiver() -> None:
    """The steps of a receiver."""
    from redis.asyncio.connection import AbstractConnection

    from ingest.commit.redis_writer import RedisWriter
    from ingest.http.bodies import Bodies

    read, call, send = Bodies.read, RedisWriter._call, AbstractConnection.send_packed_command

    async def read_body(self: Bodies, request: Any) -> bytes:
        body = await read(self, request)
        here("body read")
        return body

    async def _call(self: RedisWriter, args: list[Any]) -> str | None:
        global _in_call
        here("before commit")
        _in_call = True
        try:
            reason = await call(self, args)
        finally:
            _in_call = False
        here("committed")
        return reason

    async def send_packed_command(self: Any, *arguments: Any, **options: Any) -> None:
        await send(self, *arguments, **options)
        if _in_call:
            while self._writer.transport.get_write_buffer_size():  # noqa: ASYNC110 - uvloop writes at a turn's end
                await asyncio.sleep(0)
            here("commit sent")

    Bodies.read, RedisWriter._call = read_body, _call  # type: ignore[method-assign]
    AbstractConnection.send_packed_command = send_packed_command  # type: ignore[method-assign]


def prepare_worker() -> None:
    """The steps of a worker. Of settles those count that PAUSE_SETTLE names: `more`, `end` or `back` is in them."""
    from workers.engine.batch_state import BatchState
    from workers.engine.claims import Claims
    from workers.engine.opening import Opening
    from workers.engine.settle import Settling
    from workers.engine.take import Taking

    wanted = os.environ.get("PAUSE_SETTLE")
    send_take, take_answered = Taking.send, Taking.took
    send_settle, settle_answered = Settling.send, Settling.settled
    claims_answered = Opening._claimed

    def send_take_here(self: Taking) -> Any:
        if self._worth_asking(self._rooms()):
            here("before take")
        return send_take(self)

    def took(self: Taking, reply: Any) -> int:
        share = take_answered(self, reply)
        if self._hands.given:
            here("taken")
        return share

    async def claimed(self: Opening, *arguments: Any) -> None:
        await claims_answered(self, *arguments)
        here("claimed")

    def send_settle_here(self: Settling, parts: Any) -> Any:
        counts = any(part.how == wanted for part in parts)
        if counts:
            here("before settle")
        call = send_settle(self, parts)
        if counts:
            here("settle sent")
        return call

    def settled(self: Settling, parts: Any, reply: Any) -> int:
        share = settle_answered(self, parts, reply)
        if any(part.how == wanted for part in parts):
            here("settled")
        return share

    Taking.send, Taking.took, Opening._claimed = send_take_here, took, claimed  # type: ignore[method-assign]
    Settling.send, Settling.settled = send_settle_here, settled  # type: ignore[method-assign]
    _wrap(Claims, "ask", before="before claim")
    _wrap(BatchState, "finish", before="handler returned")


def make_handlers() -> Any:
    """Handlers that take some milliseconds and then write one line: begin, end, process, which event.

    A message is its id, a status its message's id and its stage.
    """
    from workers import Handlers

    made = Handlers()
    out = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(began: float, event: Any) -> None:
        name = f"{event.id}-{event.status}" if event.kind == "status" else event.id
        os.write(out, json.dumps([began, time.monotonic(), os.getpid(), name]).encode() + b"\n")

    def handle(event: Any) -> None:
        began = time.monotonic()
        time.sleep(random.random() * HANDLER_SECONDS)
        here("in a handler")
        note(began, event)

    async def handle_async(event: Any) -> None:
        began = time.monotonic()
        await asyncio.sleep(random.random() * ASYNC_HANDLER_SECONDS)
        here("in a handler")
        note(began, event)

    def handle_list(events: list[Any]) -> None:
        began: dict[str, float] = {}  # of an event: when the list did, or when the one before it of its key ended
        listed = time.monotonic()
        for event in events:
            time.sleep(random.random() * HANDLER_SECONDS)
            here("in a handler")
            note(began.get(event.order_key, listed), event)
            began[event.order_key] = time.monotonic()

    if os.environ["HANDLER"] == "bulk":
        made.message(bulk=LIST, linger=LINGER_SECONDS)(handle_list)
        made.status(bulk=LIST, linger=LINGER_SECONDS)(handle_list)
        return made
    chosen = handle_async if os.environ["HANDLER"] == "async" else handle
    made.message()(chosen)
    made.status()(chosen)
    return made


def main() -> None:
    """Run the real process, with its steps wrapped."""
    if sys.argv[1] == "receiver":
        prepare_receiver()
        from ingest.server import main as real
    else:
        prepare_worker()
        from workers.engine.worker import main as real
    real()


if "HANDLER" in os.environ:
    handlers = make_handlers()
